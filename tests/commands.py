"""Commands typed in this process, and what a run leaves behind."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple


class Ended(NamedTuple):
    """How a command ended: its exit code, and what it printed."""

    code: int
    out: str
    err: str


Type = Callable[..., Ended]


def refused(ended: Ended, *said: object) -> None:
    """A mistake: one line that says all of this, nothing else, and exit code 2."""
    assert (ended.code, ended.out) == (2, ""), ended
    assert ended.err.startswith("lpi: ")
    assert ended.err.count("\n") == 1, ended.err
    for words in said:
        assert str(words) in ended.err


def without_durations(content: Any) -> Any:
    """A record without what differs between two runs of the same: time and memory."""
    if isinstance(content, dict):
        return {
            k: without_durations(v) for k, v in content.items() if k not in ("seconds", "pairs_per_second", "peak_mb")
        }
    return [without_durations(item) for item in content] if isinstance(content, list) else content


def outcome(folder: Path, *, kept: Sequence[str] = (".safetensors",)) -> dict[str, Any]:
    """Everything that a run ends with but its durations, and the bytes of the files of the kinds ``kept``."""
    found: dict[str, Any] = {}
    for file in sorted(folder.rglob("*")):
        if file.suffix == ".json" and file.name not in ("run.json", "files.json"):
            found[str(file.relative_to(folder))] = without_durations(json.loads(file.read_text()))
        elif file.suffix in kept:
            found[str(file.relative_to(folder))] = file.read_bytes()
    return found
