"""Continual vision-language retrieval: teach a frozen CLIP-like model one domain after another."""

__version__ = "0.1.0"
