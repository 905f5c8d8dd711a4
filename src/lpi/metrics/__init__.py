"""Figures as pure functions: ranks from scores, boxes, averages over tasks, statistics over runs."""
