"""What a run is worth: ranks from scores, averages from the task matrix, and the harness that fills it."""
