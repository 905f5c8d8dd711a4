"""Long benchmarks that can be stopped at any moment: what is done lies in a log, a line each, and isn't done again."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any


def parser(about: str | None, name: str) -> argparse.ArgumentParser:
    """The options that all of them have.

    Args:
        about: the benchmark's docstring.
        name: of the benchmark, and of its results file.
    """
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / f"lpi-{name}", help="kept: resumable")
    made.add_argument("--results", type=Path, default=Path(f"results/{name}.json"))
    return made


class Log:
    """What is done of a benchmark, in a file.

    Attributes:
        done: what was noted, in its order.
    """

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self.file = file
        self.done: list[Any] = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def note(self, one: Any) -> None:
        """Add what was done last."""
        self.done.append(one)
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(one) + "\n")
