"""Sequential full fine-tuning: every weight of both towers learns each task in turn. The classical forgetter."""

from lpi.methods.tuned import Tuned


class FineTune(Tuned):
    """Trained on from task to task, with nothing that protects the earlier ones."""
