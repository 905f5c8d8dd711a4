"""A small budget of generated inputs at every door; the large one is benchmarks/fuzz.py's."""

import json
import subprocess
import sys
from pathlib import Path

FUZZ = Path(__file__).parents[2] / "benchmarks" / "fuzz.py"


def test_every_door_takes_an_input_or_refuses_it_in_one_line() -> None:
    words = [sys.executable, str(FUZZ), "--seed", "11", "--chunk", "0", "--inputs", "300"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["failures"] == []
    assert len({name.partition("/")[0] for name in found["counts"]}) >= 15
    assert sum(found["counts"].values()) == 300
    assert found["peak_mb_above_idle"] < 1024
