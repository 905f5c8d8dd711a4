"""What is in a file: hashes by which a changed picture is noticed, each computed once a process."""

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lpi.data.pictures import check_regular

_BLOCK = 1 << 20
_Stamp = tuple[int, int, int, int]
_KNOWN: dict[Path, tuple[_Stamp, str]] = {}


def content_id(path: Path) -> str:
    """32 hexadecimal digits that stand for a file's bytes.

    Raises:
        OSError: it can't be read, or is no file but a pipe, say, which would be waited for.
    """
    check_regular(path)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()[:32]


def content_ids(paths: Iterable[Path]) -> dict[Path, str]:
    """The :func:`content_id` of files, empty for one that can't be read.

    A file is read again only if its size, place or times changed since this process last read it.
    """
    different = list(dict.fromkeys(paths))
    if not different:
        return {}
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="hash") as pool:  # hashing frees the lock
        return dict(zip(different, pool.map(_known_id, different), strict=True))


def _known_id(path: Path) -> str:
    try:
        status = path.stat()
        stamp = (status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
        known = _KNOWN.get(path)
        if known is None or known[0] != stamp:
            known = _KNOWN[path] = (stamp, content_id(path))
    except OSError:
        return ""
    return known[1]
