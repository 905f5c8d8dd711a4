"""Reads a pickle that holds nothing but lists, dictionaries, texts and numbers, and refuses any other.

A pickle is a program: loading one from the internet may run whatever its author likes. What RefCOCO's files need of
that program builds plain containers only, and for these it never has to look up a class or a function.
"""

import pickle
from pathlib import Path
from typing import Any

from lpi.data.rows import require_file
from lpi.errors import DataError


class _PlainUnpickler(pickle.Unpickler):
    """Builds plain containers; anything that has a name to be looked up is refused before it is."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def read_plain_pickle(path: Path) -> Any:
    """The plain values of a pickle, written by Python 2 or 3.

    Raises:
        MissingFileError: there is no such file.
        DataError: it is no whole pickle, or asks for more than plain containers; nothing of it has been run.
    """
    require_file(path)
    try:
        with path.open("rb") as file:
            # Python 2 wrote bytes for text. Those that aren't UTF-8 come as halves of characters, which whoever reads
            # the text refuses at the record that has them.
            return _PlainUnpickler(file, encoding="utf-8", errors="surrogateescape").load()
    # OSError is for the disk; all the rest a damaged stream of opcodes may raise is damage
    except OSError:
        raise
    except Exception as error:
        raise DataError(
            f"{path}: not a pickle of plain lists and dictionaries ({error or type(error).__name__}). "
            "Use the file as published; nothing in it was run."
        ) from error
