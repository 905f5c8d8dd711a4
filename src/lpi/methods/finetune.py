"""Sequential full fine-tuning: every weight of both towers learns each task in turn. Nothing protects the others."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from lpi.methods.tuned import Tuned


class FineTune(Tuned):
    """Trained on from task to task, with nothing that protects the earlier ones."""

    @dataclass(frozen=True)
    class Options(Tuned.Options):
        """What fine-tuning takes."""

        training: ClassVar[Mapping[str, Any]] = {"learning_rate": 6e-5, "weight_decay": 0.01}
