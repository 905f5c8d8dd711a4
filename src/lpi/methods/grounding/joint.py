"""Joint training: full fine-tuning on all tasks at once. Not a continual learner, but a usual reference."""

from lpi.methods.base import Jointly
from lpi.methods.grounding.tuned import GroundingTuned


class GroundingJoint(Jointly, GroundingTuned):
    """Sees every task's expressions mixed, in as many steps as a sequential learner takes over the whole stream."""
