"""A finished run, or several, told on one self-contained HTML page with its figures beside it as PNG files."""

from lpi.report.page import write_report
from lpi.report.reading import RunFolder, find_runs, read_run

__all__ = ["RunFolder", "find_runs", "read_run", "write_report"]
