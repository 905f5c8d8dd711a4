"""Joint training: full fine-tuning on all tasks at once. Not a continual learner, but the height they can reach."""

from typing import ClassVar

from lpi.methods.grounding.tuned import GroundingTuned


class GroundingJoint(GroundingTuned):
    """Sees every task's expressions mixed, in as many steps as a sequential learner takes over the whole stream."""

    joint: ClassVar[bool] = True
