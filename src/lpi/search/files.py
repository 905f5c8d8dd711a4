"""Which pictures a folder holds: every file by the hash of its content, so that a moved file is known again."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath

from PIL import Image

from lpi.data.content import content_id
from lpi.data.records import FilePicture
from lpi.errors import LpiError, MissingFileError
from lpi.tasks.batches import Prepare

SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif"),
    *(".jp2", ".ppm", ".pgm", ".pbm", ".tga", ".ico"),
}
SETTLED_SECONDS = 2.0  # a file that was written to more recently may change again without its time showing it
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
        return datetime.fromtimestamp(seconds, tz=timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")


@dataclass
class Scan:
    """What a folder holds.

    Attributes:
        contents: the pictures by id.
        skipped: why files that look like pictures were left out, by path.
    """

    contents: dict[str, Content] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


def scan(
    root: Path,
    *,
    leave_out: Path,
    known: Mapping[str, tuple[str, str]],
    workers: int = 2,
    on_progress: OnProgress | None = None,
) -> Scan:
    """All pictures below a folder; hidden files and folders are passed over.

    Args:
        root: the folder.
        leave_out: a folder inside it that is not looked into: the index itself.
        known: stamp and id of files by path; a file whose stamp is the same is not read again.
        workers: threads that read.
        on_progress: told what is going on, how many files are done and how many there are.

    Raises:
        MissingFileError: there is no such folder.
    """
    if not root.is_dir():
        raise MissingFileError(f"{root}: there is no such folder. Check the path, or connect the disk it is on.")
    found = Scan()
    names = _names(root, leave_out.resolve(), found)
    now = datetime.now(tz=timezone.utc).timestamp()

    def look(name: str) -> tuple[str, str]:
        path = root / name
        status = path.stat()
        unsettled = "?" if now - status.st_mtime < SETTLED_SECONDS else ""
        stamp = f"{unsettled}{status.st_size}:{status.st_mtime_ns}"
        before = known.get(name)
        if before is not None and not unsettled and before[0] == stamp:
            return stamp, before[1]
        return stamp, content_id(path)

    def careful(name: str) -> tuple[str, str] | str:
        try:
            return look(name)
        except OSError as error:
            return error.strerror or str(error)

    files: dict[str, list[tuple[str, str]]] = {}
    with ThreadPoolExecutor(workers, thread_name_prefix="hash") as pool:
        for done, (name, seen) in enumerate(zip(names, pool.map(careful, names), strict=True), start=1):
            if isinstance(seen, str):
                found.skipped[name] = f"it can't be read: {seen}"
            else:
                files.setdefault(seen[1], []).append((name, seen[0]))
            if on_progress is not None:
                on_progress("looking at files", done, len(names))
    for key, places in files.items():
        found.contents[key] = Content(key, tuple(p for p, _ in places), tuple(s for _, s in places))
    return found


def _names(root: Path, leave_out: Path, found: Scan) -> list[str]:
    names = []
    for folder, below, files in os.walk(root):
        here = Path(folder)
        below[:] = sorted(d for d in below if not d.startswith(".") and (here / d).resolve() != leave_out)
        for file in files:
            if file.startswith(".") or Path(file).suffix.lower() not in SUFFIXES:
                continue
            name = (here / file).relative_to(root).as_posix()
            try:
                name.encode("utf-8")
            except UnicodeEncodeError:
                found.skipped[ascii(name)] = "its name isn't UTF-8. Rename it."
                continue
            names.append(name)
    return sorted(names)


def folders_of(paths: Iterable[str]) -> list[str]:
    """Every folder that any of the paths lies in, at any depth; the outermost is ".".

    >>> folders_of(["a/b/x.jpg", "c/y.jpg"])
    ['.', 'a', 'a/b', 'c']
    """
    return sorted({str(folder) for path in paths for folder in PurePosixPath(path).parents})


@dataclass
class About:
    """What is known of a picture beside what it shows.

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
                pixels = self.prepare(FilePicture(file, str(file)).open(side))
                if content_id(file) == self.key:
                    self.about = read_about(file)
                    return Image.fromarray(pixels)
                problem = "it changed since it was found. Index again."
            except (LpiError, OSError, ValueError, MemoryError) as error:  # the last two: a picture of absurd shape
                problem = str(error).removeprefix(f"{file}: ").replace(" Check the name in the captions file.", "")
            self.problem = self.problem or problem
        return Image.fromarray(self.prepare(Image.new("RGB", (side or 1, side or 1), "grey")))


def read_about(file: Path) -> About:
    """Size and date of a picture that can be opened. What a camera wrote may be damaged: then there is no date."""
    with Image.open(file) as image:
        width, height = image.size
        taken = ""
        try:
            exif = image.getexif()
            if exif.get(0x0112, 1) >= 5:  # stored on its side
                width, height = height, width
            for directory, tag in DATE_TAGS:
                found = (exif if directory is None else exif.get_ifd(directory)).get(tag)
                taken = taken or _date(found)
        except (OSError, ValueError, SyntaxError, KeyError, TypeError, AttributeError, struct.error):
            taken = ""
    return About(width, height, taken)


def _date(found: object) -> str:
    try:
        return datetime.strptime(str(found).strip("\0 "), "%Y:%m:%d %H:%M:%S").isoformat()
    except ValueError:
        return ""
