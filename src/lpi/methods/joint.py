"""Joint training: full fine-tuning on all tasks at once. Not a continual learner, but a usual reference."""

from lpi.methods.base import Jointly
from lpi.methods.tuned import Tuned


class Joint(Jointly, Tuned):
    """Sees every task's pairs mixed, in as many steps as a sequential learner takes over the whole stream."""
