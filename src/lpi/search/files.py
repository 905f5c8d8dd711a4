"""Which pictures a folder holds: every file by the hash of its content, so that a moved file is known again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timezone
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from PIL import Image

from lpi.data.content import content_id
from lpi.data.pictures import SUFFIXES, NotAFileError, check_regular, naming, opened, upright_size
from lpi.data.records import FilePicture
from lpi.errors import DataError, LpiError, MissingFileError
from lpi.tasks.batches import Prepare

SERVICE = {"@eaDir", "#recycle", "#snapshot", "@Recycle", "@Recently-Snapshot", "$RECYCLE.BIN", "lost+found"} | {
    "System Volume Information"
}
"""Folders that storage devices and systems make for themselves: thumbnails of their own, and what was deleted."""
SETTLED_SECONDS = 2.0  # a file that was written to more recently may change again without its time showing it
FIRST_SECOND, LAST_SECOND = -62_135_596_800, 253_402_300_799  # of the years 1 and 9999
DATE_TAGS = ((0x8769, 0x9003), (None, 0x0132))  # when it was taken; when it was saved

OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Content:
    """A picture, however many files hold it.

    Attributes:
        id: 32 hexadecimal digits of the hash of its bytes.
        paths: its files, relative to the folder, with ``/`` between, in order.
        stamps: size and time of each file, by which an unchanged one is known without reading it; those that begin
            with ``?`` were too fresh for that.
    """

    id: str
    paths: tuple[str, ...]
    stamps: tuple[str, ...]

    @property
    def modified(self) -> str:
        """When its first file was last written to, as ``YYYY-MM-DDTHH:MM:SS`` in UTC."""
        seconds = int(self.stamps[0].rpartition(":")[2]) // 10**9
        known = min(max(seconds, FIRST_SECOND), LAST_SECOND)  # a disk may say any time
        return datetime.fromtimestamp(known, tz=timezone.utc).replace(tzinfo=None).isoformat()


@dataclass
class Scan:
    """The pictures of a folder, and the files that were left out.

    Attributes:
        contents: the pictures by id; those in ``unread`` as they were known before.
        skipped: why files that look like pictures were left out, by path.
        unread: the files and folders among them that are there but couldn't be looked at, by path: what was known of
            them is not gone.
    """

    contents: dict[str, Content] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)

    def pass_over(self, path: str, reason: str) -> None:
        """Note that a file or folder couldn't be looked at, and why."""
        self.skipped[path] = self.unread[path] = reason

    def covers(self, path: str) -> bool:
        """Whether a file couldn't be looked at, or lies in a folder that couldn't."""
        return path in self.unread or any(str(folder) in self.unread for folder in PurePosixPath(path).parents)


def scan(
    root: Path,
    *,
    leave_out: Path,
    known: Mapping[str, tuple[str, str]],
    exclude: Sequence[str] = (),
    rehash: bool = False,
    workers: int | None = None,
    on_progress: OnProgress | None = None,
) -> Scan:
    """All pictures below a folder; hidden files and folders are passed over, and devices' own and linked folders.

    What can't be read just now, by its permissions or for a failing disk, is taken to be as it was known.

    Args:
        root: the folder.
        leave_out: a folder inside it that is not looked into: the index itself.
        known: stamp and id of files by path; a file whose stamp is the same is not read again.
        exclude: patterns of paths, or of the names of files and folders, that are left out: ``"*.gif"``, ``"old/*"``.
        rehash: read it all the same.
        workers: threads that read.
        on_progress: told what is going on, how many files are done and how many there are.

    Raises:
        MissingFileError: there is no such folder.
        DataError: it can't be looked into.
    """
    if not root.is_dir():
        raise MissingFileError(f"{root}: there is no such folder. Check the path, or connect the disk it is on.")
    found, place = Scan(), _identity(root)
    names = _names(root, leave_out.resolve(), exclude, found)
    trusted: Mapping[str, tuple[str, str]] = {} if rehash else known
    now = datetime.now(tz=timezone.utc).timestamp()

    def look(name: str) -> tuple[str, str] | OSError:
        try:
            return _stamp_and_id(root / name, trusted.get(name), now)
        except OSError as error:
            return error

    files: dict[str, list[tuple[str, str]]] = {}
    with ThreadPoolExecutor(workers, thread_name_prefix="hash") as pool:
        for done, (name, seen) in enumerate(zip(names, pool.map(look, names), strict=True), start=1):
            if isinstance(seen, OSError):
                _note(found, root, name, seen)
            else:
                files.setdefault(seen[1], []).append((name, seen[0]))
            if on_progress is not None:
                on_progress("looking at files", done, len(names))
    if _identity(root) != place:
        raise MissingFileError(f"{root} went away while it was looked at. Connect the disk it is on, and index again.")
    for name, (stamp, key) in known.items():
        if found.covers(name):
            files.setdefault(key, []).append((name, stamp))
    for key, places in files.items():
        places.sort()
        found.contents[key] = Content(key, tuple(p for p, _ in places), tuple(s for _, s in places))
    return found


def _stamp_and_id(path: Path, before: tuple[str, str] | None, now: float) -> tuple[str, str]:
    """Stamp and id of a file; the id as it was ``before`` where the stamp is the same and settled."""
    status = check_regular(path)
    unsettled = "?" if now - status.st_mtime < SETTLED_SECONDS else ""
    stamp = f"{unsettled}{status.st_size}:{status.st_mtime_ns}"
    if before is not None and not unsettled and before[0] == stamp:
        return before
    return stamp, content_id(path)


def _identity(root: Path) -> tuple[int, int] | None:
    """What tells a folder from the empty one that a disk leaves behind; ``None`` where there is none."""
    try:
        status = root.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _note(found: Scan, root: Path, name: str, error: OSError) -> None:
    """Say of a file why it was left out, and whether what was known of it still stands."""
    reason = f"it can't be read: {error.strerror or error}"
    if isinstance(error, NotAFileError):
        found.skipped[name] = f"{error}. Move it elsewhere."
    elif isinstance(error, FileNotFoundError | NotADirectoryError) and not (root / name).is_symlink():
        found.skipped[name] = reason  # it went while we looked
    else:  # a link whose disk isn't connected is still there, too
        found.pass_over(name, reason)


def _names(root: Path, leave_out: Path, exclude: Sequence[str], found: Scan) -> list[str]:
    def unlisted(error: OSError) -> None:
        name = Path(os.fsdecode(error.filename)).relative_to(root).as_posix()
        why = error.strerror or str(error)
        if name == ".":
            raise DataError(f"{root} can't be looked into: {why}. Check its permissions and its disk.") from error
        if not isinstance(error, FileNotFoundError):  # or else it went while we looked
            name = name if name.isprintable() else ascii(name)
            found.pass_over(name, f"this folder can't be looked into: {why}. What the index holds of it stays.")

    def looked_into(here: Path, folder: str) -> bool:
        place = here / folder
        name = place.relative_to(root).as_posix()
        if folder.startswith(".") or place.resolve() == leave_out or _fits(name, exclude):
            return False
        if place.is_symlink():
            found.skipped[name] = "this folder is a link, and links to folders aren't followed. Index it by itself."
        elif folder in SERVICE:
            found.skipped[name] = "this folder is a device's own, of thumbnails or of what was deleted."
        return name not in found.skipped

    names = []
    for folder, below, files in os.walk(root, onerror=unlisted):
        here = Path(folder)
        below[:] = sorted(d for d in below if looked_into(here, d))
        for file in files:
            if file.startswith(".") or Path(file).suffix.lower() not in SUFFIXES:
                continue
            name = (here / file).relative_to(root).as_posix()
            if _fits(name, exclude):
                continue
            try:
                name.encode("utf-8")
            except UnicodeEncodeError:
                found.skipped[ascii(name)] = "its name isn't UTF-8. Rename it."
                continue
            names.append(name)
    return sorted(names)


def _fits(name: str, patterns: Sequence[str]) -> bool:
    """Whether a path, or its last part, is one that a person excluded."""
    return any(fnmatchcase(name, pattern) or fnmatchcase(name.rpartition("/")[2], pattern) for pattern in patterns)


def folders_of(paths: Iterable[str]) -> list[str]:
    """Every folder that any of the paths lies in, at any depth; the outermost is ".".

    >>> folders_of(["a/b/x.jpg", "c/y.jpg"])
    ['.', 'a', 'a/b', 'c']
    """
    return sorted({str(folder) for path in paths for folder in PurePosixPath(path).parents})


@dataclass
class About:
    """Size and date of a picture.

    Attributes:
        width, height: in pixels, as it is looked at.
        taken: when, as ``YYYY-MM-DDTHH:MM:SS``, from the camera's own note; empty where there is none.
    """

    width: int = 0
    height: int = 0
    taken: str = ""


class CheckedPicture:
    """A picture of the index: opened only if it is still the one that was found, and never raising.

    Attributes:
        name: its first path, for messages.
        prepare: what the backbone makes of a picture; already done when it is opened, so that whatever goes wrong
            with one picture stops no other.
        problem: why it couldn't be opened; a grey picture then stands in for it.
        about: size and date, once it was opened.
    """

    def __init__(self, key: str, files: Sequence[Path], prepare: Prepare) -> None:
        self.key, self.files, self.prepare = key, tuple(files), prepare
        self.name = str(files[0])
        self.problem: str | None = None
        self.about = About()

    def open(self, side: int | None = None) -> Image.Image:
        """The picture as the backbone sees it; see :class:`lpi.data.records.Picture`."""
        self.problem = None
        for file in self.files:
            try:
                with naming(str(file)):  # whatever the preparation chokes on, too, is this picture's problem alone
                    pixels = self.prepare(FilePicture(file, str(file)).open(side))
                    if content_id(file) == self.key:
                        self.about = read_about(file)
                        return Image.fromarray(pixels)
                problem = "it changed since it was found. Index again."
            except LpiError as error:
                problem = str(error).removeprefix(f"{file}: ").replace(" Check its name.", "")
            self.problem = self.problem or problem
        return Image.fromarray(self.prepare(Image.new("RGB", (side or 1, side or 1), "grey")))


def read_about(file: Path) -> About:
    """Size and date of a picture that can be opened. What a camera wrote may be damaged: then there is no date."""
    with opened(file, str(file)) as image:
        width, height = upright_size(image)
        taken = ""
        try:
            exif = image.getexif()
            for directory, tag in DATE_TAGS:
                found = (exif if directory is None else exif.get_ifd(directory)).get(tag)
                taken = taken or _date(found)
        except Exception:  # such notes are written by anything, and read by a decoder that trusts them
            taken = ""
    return About(width, height, taken)


def _date(found: object) -> str:
    try:
        return datetime.strptime(str(found).strip("\0 "), "%Y:%m:%d %H:%M:%S").isoformat()
    except ValueError:
        return ""
