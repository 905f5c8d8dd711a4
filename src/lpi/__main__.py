"""``python -m lpi`` is ``lpi``."""

from lpi.cli import main

main()
