"""Sequential full fine-tuning: every weight of the detector learns each task in turn. Nothing protects the others."""

from lpi.methods.grounding.tuned import GroundingTuned


class GroundingFineTune(GroundingTuned):
    """Trained on from task to task, with nothing that protects the earlier ones."""
