"""Reads a pickle that holds nothing but lists, dictionaries, texts and numbers, and refuses any other.

A pickle is a program: loading one from the internet may run whatever its author likes. What RefCOCO's files need of
that program builds plain containers only, and for these it never has to look up a class or a function.
"""

import io
import pickle
from pathlib import Path
from typing import Any, ClassVar

from lpi.errors import DataError
from lpi.reading import MOST_BYTES, read_bytes, require_file

_REFUSED = (
    *("INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "REDUCE", "BUILD", "EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID"),
    *("BYTEARRAY8", "NEXT_BUFFER", "READONLY_BUFFER"),
)


def _refuse(unpickler: Any) -> None:
    raise pickle.UnpicklingError("it asks for more")


class _PlainUnpickler(pickle._Unpickler):
    """Builds plain containers and knows no other instruction. The one in C believes sizes before there is anything."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}"[:80])

    dispatch: ClassVar[dict[int, Any]] = {
        **pickle._Unpickler.dispatch,
        **{getattr(pickle, name)[0]: _refuse for name in _REFUSED},
    }


def read_plain_pickle(path: Path) -> Any:
    """The plain values of a pickle, written by Python 2 or 3.

    Raises:
        MissingFileError: there is no such file.
        DataError: it is no whole pickle, or asks for more than plain containers; nothing of it has been run.
    """
    require_file(path)
    try:
        data = read_bytes(path, MOST_BYTES // 8)
        # Python 2 wrote bytes for text. Those that aren't UTF-8 come as halves of characters, which whoever reads
        # the text refuses at the record that has them.
        return _PlainUnpickler(io.BytesIO(data), encoding="utf-8", errors="surrogateescape").load()
    except OSError:
        raise
    except Exception as error:  # whatever a damaged stream of instructions raises is damage
        raise DataError(
            f"{path}: not a pickle of plain lists and dictionaries ({str(error)[:200] or type(error).__name__}). "
            "Use the file as published; nothing in it was run."
        ) from error
