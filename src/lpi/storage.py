"""Writing files so that a reader sees the old content or the new one, and never half of either."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lpi.errors import CheckpointError, MissingFileError, OutputError
from lpi.reading import UnreadableError, parse_json, read_bytes

if TYPE_CHECKING:
    from torch import Tensor

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

UMASK = os.umask(0o022)
os.umask(UMASK)  # it can only be read by setting it, which is no matter while modules are imported
MODE = 0o666 & ~UMASK  # as whatever else the person's programs write
CHECKSUM = "checksum"
OR_FRESH = "run again with --fresh"
PASSING = {"seconds", "pairs_per_second", "peak_mb"}
"""What no checksum covers: two runs of the same thing have the same one, whatever time and memory they took."""


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
        temporary.chmod(MODE)
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path} can't be written: {reason(error)}") from error
    except UnicodeEncodeError as error:
        half = ascii(error.object[max(0, error.start - 20) : error.end + 20])
        raise OutputError(f"{path} can't be written: a name in it isn't UTF-8 ({half}). Rename that file.") from error
    finally:  # whatever stopped it, Ctrl-C included
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(file: Path, held: str) -> Iterator[None]:
    """Hold a lock while something is changed, so that nobody else changes it meanwhile. A process that dies lets go.

    Args:
        file: the lock; its folder must be there.
        held: what to say when somebody else holds it.

    Raises:
        OutputError: somebody does, or the folder can't be written to.
    """
    try:
        handle = file.open("a+")
    except OSError as error:
        raise OutputError(f"{file.parent} can't be written: {reason(error)}") from error
    with handle:
        if fcntl is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise OutputError(held) from error
            except OSError:  # a file system without locks; better no lock than no work
                pass
        yield


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


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """An object for :func:`write_json` with a checksum of itself, last."""
    return {**content, CHECKSUM: _seal(content)}


def unsealed(path: Path, content: Any, advice: str = OR_FRESH) -> Any:
    """What was :func:`sealed`, without its checksum; what has none, from an earlier version or a person, as it is.

    Raises:
        CheckpointError: the content isn't what was sealed.
    """
    if not isinstance(content, dict) or CHECKSUM not in content:
        return content
    kept = {name: value for name, value in content.items() if name != CHECKSUM}
    if _seal(kept) != content[CHECKSUM]:
        raise CheckpointError(
            f"{path} is damaged (its content isn't what was written). Take it from a backup, or {advice}."
        )
    return kept


def read_sealed(path: Path) -> dict[str, Any]:
    """An object that was written :func:`sealed`, without its checksum.

    Raises:
        MissingFileError: there is no such file.
        CheckpointError: it is damaged, or something else.
    """
    found: dict[str, Any] = unsealed(path, read_json(path, dict))
    return found


def _seal(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(_lasting(content), sort_keys=True).encode()).hexdigest()[:32]


def _lasting(content: Any) -> Any:
    """Plain values without :data:`PASSING`."""
    if isinstance(content, Mapping):
        return {name: _lasting(value) for name, value in content.items() if name not in PASSING}
    return [_lasting(value) for value in content] if isinstance(content, list | tuple) else content


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


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Tensors by name as safetensors, written atomically, with a checksum that :func:`read_tensors` compares."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    noted = {CHECKSUM: checksum(contiguous)}

    def write(file: Path) -> None:
        try:
            save_file(contiguous, file, metadata=noted)
        except SafetensorError as error:  # its own words for what the system said: "(os error 28)"
            number = re.search(r"os error (\d+)", str(error))
            code = int(number[1]) if number else errno.EIO
            raise OSError(code, os.strerror(code) if number else str(error)) from error

    write_atomically(path, write)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors by name.

    Raises:
        MissingFileError: there is no such file.
        CheckpointError: it is truncated or no safetensors file, or its content isn't what was written.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    again = "Take it from a backup, or train again."
    if not os.path.exists(path):
        raise MissingFileError(f"{path} is not there.")
    if not os.path.isfile(path):  # opening a pipe would wait for ever
        raise CheckpointError(f"{path} is no file but a folder, a pipe, a socket or a device. {again}")
    try:
        found = dict(load_file(path))
        with safe_open(path, framework="pt") as file:
            noted = file.metadata()  # none in those of earlier versions
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged ({error}). {again}") from error
    if noted is not None and noted != {CHECKSUM: checksum(found)}:
        raise CheckpointError(f"{path} is damaged (its content isn't what was written). {again}")
    return found


def has_checksum(path: Path, value: str = "") -> bool:
    """Whether a file is of tensors that :func:`write_tensors` wrote, or of those with this checksum, by its head."""
    with path.open("rb") as file:
        return f'"{CHECKSUM}":"{value}'.encode() in file.read(4096)


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """What stands for tensors by name: 32 hexadecimal digits of the hash of names, types, shapes and bytes."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]


def write_checked(path: Path, content: bytes) -> None:
    """Bytes with a checksum before them, written atomically."""
    write_atomically(path, lambda file: file.write_bytes(hashlib.sha256(content).digest() + content))


def read_checked(path: Path) -> bytes:
    """What :func:`write_checked` wrote.

    Raises:
        ValueError: it isn't that any more.
    """
    data = read_bytes(path)
    digest, content = data[:32], data[32:]
    if hashlib.sha256(content).digest() != digest:
        raise ValueError("its content isn't what was written")
    return content
