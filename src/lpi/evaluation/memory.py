"""How much memory a run takes at its highest: of the accelerator where there is one, else of this process."""

from __future__ import annotations

import ctypes
import gc
import sys
from contextlib import suppress
from pathlib import Path

import torch

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_STATUS = Path("/proc/self/status")


class PeakMemory:
    """The highest memory use since it was made, in megabytes (2^20 bytes).

    On a processor it is the resident memory of the whole process: libraries, backbone and decoded pictures, which
    all methods share, are in it. The system's mark is put back first, so that one run in a process doesn't answer
    for the one before it; where the system can't do that (not Linux), the figure is the process's highest so far.
    """

    def __init__(self) -> None:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            return
        _give_back()
        with suppress(OSError):  # not Linux, or not allowed here
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # sets the highest mark to what is now

    def megabytes(self) -> float:
        """The highest use so far; 0 where the system doesn't say."""
        if torch.cuda.is_available():
            return round(torch.cuda.max_memory_allocated() / 2**20, 1)
        with suppress(OSError):  # not Linux
            for line in _STATUS.read_text(encoding="utf-8").splitlines():
                if line.startswith("VmHWM:"):
                    return round(int(line.split()[1]) / 2**10, 1)
        if resource is None:
            return 0.0
        unit = 1 if sys.platform == "darwin" else 2**10  # bytes there, kilobytes elsewhere
        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20, 1)


def _give_back() -> None:
    """Have the C library return what it keeps for later: it would count as the next run's."""
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
