"""Writing files so that a reader sees the old content or the new one, and never half of either."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lpi.errors import CheckpointError, MissingFileError, OutputError
from lpi.reading import UnreadableError, parse_json, read_bytes

if TYPE_CHECKING:
    from torch import Tensor


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, flush it to disk and move it into place.

    Raises:
        OutputError: the folder is read-only, or the disk is full; nothing is left behind.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path} can't be written: {reason(error)}") from error
    finally:  # whatever stopped it, Ctrl-C included
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def reason(error: OSError) -> str:
    """What went wrong with the disk and what to do, in a person's words."""
    if error.errno == errno.ENOSPC:
        return "the disk is full. Free some space and start the same command again; it goes on where it stopped."
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return "the folder is read-only. Choose another with --out, or change its permissions."
    return f"{error.strerror or error}. Choose another folder with --out."


def copy_file(source: Path, target: Path) -> None:
    """A file's content under another name, written atomically."""
    content = source.read_bytes()
    write_atomically(target, lambda file: file.write_bytes(content) and None)


def write_json(path: Path, content: Any) -> None:
    """JSON with a trailing newline, written atomically."""
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    write_atomically(path, lambda file: file.write_text(text, encoding="utf-8"))


def write_text(path: Path, text: str) -> None:
    """A text file, written atomically."""
    write_atomically(path, lambda file: file.write_text(text, encoding="utf-8"))


def read_json(path: Path, kind: type = object) -> Any:
    """The content of a JSON file.

    Args:
        path: the file.
        kind: of the outermost value.

    Raises:
        MissingFileError: there is no such file.
        CheckpointError: it isn't JSON, or no file, or its outermost value is another.
    """
    try:
        value = parse_json(read_bytes(path))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingFileError(f"{path} is not there.") from error
    except UnreadableError as error:
        raise CheckpointError(f"{path} is damaged ({error}). Delete it and run the command again.") from error
    if not isinstance(value, kind):
        raise CheckpointError(f"{path}: expected {kind.__name__}; got {type(value).__name__}. Run it again.")
    return value


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Tensors by name as safetensors, written atomically."""
    from safetensors.torch import save_file

    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, lambda file: save_file(contiguous, file, metadata=metadata))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors by name.

    Raises:
        MissingFileError: there is no such file.
        CheckpointError: it is truncated or no safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except FileNotFoundError as error:
        raise MissingFileError(f"{path} is not there.") from error
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged ({error}). Take it from a backup, or train again.") from error
