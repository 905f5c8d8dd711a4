"""Captioned pictures that somebody sends, to be learned from: kept in a folder of their own, within limits."""

from __future__ import annotations

import errno
import struct
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

from lpi.data.pictures import SUFFIXES, opened
from lpi.data.records import CaptionedImage, FilePicture
from lpi.errors import ConfigError, DataError, OutputError
from lpi.search.places import remove_folder
from lpi.search.recorded import on_record
from lpi.serve.limits import Limits, RefusedError, check_shape

SENT = "sent"
"""Where in an index what was sent lies: the test pictures among it are measured with again by every later change."""
CAPTIONS = {".jsonl", ".json", ".csv", ".txt"}
DEEPEST, LONGEST = 8, 300  # folders, and letters, of a name
ENTRY_BYTES = 512  # of a zip's directory, for one of its files
END = struct.Struct("<4s4H2LH")  # of a zip: its directory's size is the sixth value
LARGE = struct.Struct("<4sLQL")  # stands before it in zips of a form whose directory may have any size
ABANDONED_SECONDS = 86_400.0


def checked_name(name: str) -> PurePosixPath:
    """The name of a file that is sent, relative to the folder that it is kept in.

    Raises:
        ConfigError: it leads elsewhere, is hidden, or could be no file's name on some system.
    """
    parts = name.split("/")
    plain = name.isprintable() and not set(name) & set('\\:*?"<>|') and len(name) <= LONGEST
    if not plain or len(parts) > DEEPEST or any(not part.strip(" .") or part.startswith(".") for part in parts):
        raise ConfigError(f"a file that is sent needs a plain name relative to its folder; got {ascii(name)[:80]}.")
    return PurePosixPath(*parts)


class Sent:
    """What is sent for one domain.

    Args:
        folder: where it is kept; made with the first file.
        limits: ``lesson_bytes`` and ``lesson_files``, of everything together.

    Attributes:
        files, size: how many came, and their bytes.
        passed: how many were neither pictures nor captions, and were passed over.
    """

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.folder, self.limits = folder, limits
        self.files = self.size = self.passed = 0

    def add(self, name: str, content: bytes, at: int = 0) -> None:
        """Keep a file, or the next piece of one.

        Args:
            name: relative to the folder.
            content: the bytes.
            at: how many of the file's bytes came before.

        Raises:
            ConfigError: a name that mustn't be, or a piece that doesn't fit on what came before.
            RefusedError: it is neither a picture, captions nor a zip, or too much.
            OutputError: the disk is full.
        """
        place = self.folder / checked_name(name)
        if place.suffix.lower() not in SUFFIXES | CAPTIONS | {".zip"}:
            self.passed += 1
            raise RefusedError(415, f"{name}: pictures and captions are wanted, or a zip of them.")
        try:
            there = place.stat().st_size if place.is_file() else 0
            if at != there:
                raise ConfigError(f"{name}: the next piece must begin at {there}; got at={at}.")
            self._count(files=0 if at else 1, size=len(content))
            place.parent.mkdir(parents=True, exist_ok=True)
            with place.open("ab") as file:
                file.write(content)
        except OSError as error:
            kind = OutputError if error.errno == errno.ENOSPC else ConfigError
            raise kind(f"{name} can't be kept: {error.strerror}.") from error

    def _count(self, *, files: int = 0, size: int = 0) -> None:
        files, size = self.files + files, self.size + size
        if files > self.limits.lesson_files or size > self.limits.lesson_bytes:
            raise RefusedError(
                413,
                f"at most {self.limits.lesson_files:,} files of together {self.limits.lesson_bytes:,} bytes can be "
                "sent. Use lpi teach for more.",
            )
        self.files, self.size = files, size

    def unpack(self) -> Path:
        """Take every zip apart; returns the folder that holds the captions.

        Raises:
            DataError: a zip is broken.
            ConfigError, RefusedError: as :meth:`add`, for the files in it.
        """
        for archive in sorted(file for file in self.folder.rglob("*") if file.suffix.lower() == ".zip"):
            try:
                self._take_apart(archive)
            except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, OSError) as error:
                raise DataError(f"{archive.name}: the zip can't be read ({error}). Pack it anew, unlocked.") from error
            archive.unlink()
        folder = self.folder
        while len(inside := sorted(folder.iterdir())) == 1 and inside[0].is_dir():
            folder = inside[0]  # a folder was packed, not what is in it
        return folder

    def _take_apart(self, archive: Path) -> None:
        most = ENTRY_BYTES * self.limits.lesson_files
        if directory_bytes(archive) > most:  # all of it is read at once
            raise RefusedError(413, f"{archive.name}: the zip holds too many files.")
        with zipfile.ZipFile(archive) as packed:
            for entry in packed.infolist():
                hidden = any(part.startswith((".", "__MACOSX")) for part in entry.filename.split("/"))
                suffix = PurePosixPath(entry.filename).suffix.lower()
                wanted = suffix in SUFFIXES | CAPTIONS
                if entry.is_dir() or hidden or not wanted:
                    self.passed += not (entry.is_dir() or hidden)
                    continue
                place = archive.parent / checked_name(entry.filename)
                place.parent.mkdir(parents=True, exist_ok=True)
                self._count(files=1)
                with packed.open(entry) as source, place.open("xb") as target:
                    while piece := source.read(1 << 20):  # as much as there is, whatever was told
                        self._count(size=len(piece))
                        target.write(piece)

    def drop(self) -> None:
        """Take away what was sent."""
        if self.folder.exists():
            remove_folder(self.folder)


def directory_bytes(archive: Path) -> int:
    """How large the directory of a zip is, by its last bytes; nothing else is read.

    Raises:
        BadZipFile: it is no zip.
    """
    with archive.open("rb") as file:
        file.seek(max(0, archive.stat().st_size - LARGE.size - END.size - 0x10000))
        tail = file.read()
    place = tail.rfind(b"PK\5\6")
    if place < 0 or len(tail) < place + END.size:
        raise zipfile.BadZipFile("it is no zip")
    if tail[max(0, place - LARGE.size) :].startswith(b"PK\6\7"):  # then another size counts, said elsewhere
        raise zipfile.BadZipFile("it is in the form for more than 4 GB")
    size: int = END.unpack_from(tail, place)[5]
    return size


def check_shapes(records: Iterable[CaptionedImage], pixels: int) -> None:
    """Refuse pictures that would take too much memory, by their first bytes.

    Raises:
        RefusedError: one is too large, or a mere line.
        DataError: one is no picture.
    """
    for record in records:
        assert isinstance(record.picture, FilePicture)
        with opened(record.picture.path, record.picture.name) as image:
            check_shape(*image.size, pixels, record.picture.name)


def drop_abandoned(folder: Path) -> None:
    """Take away what was sent to an index a day ago or more, and measures nothing there."""
    _drop(folder, lambda place: time.time() - place.stat().st_mtime > ABANDONED_SECONDS)


def drop_sent(folder: Path, records: Iterable[CaptionedImage]) -> None:
    """Take away at once, with all that was sent with them, pictures that measure nothing in the index any more.

    Args:
        folder: the index's.
        records: of the test set that was forgotten; those that were never sent are left where they are.
    """
    parts = {
        part for record in records if isinstance(record.picture, FilePicture) for part in record.picture.path.parts
    }
    _drop(folder, lambda place: place.name in parts)


def _drop(folder: Path, due: Callable[[Path], bool]) -> None:
    needed = [record.picture for own in on_record(folder).values() for record in own.records]
    for place in (folder / SENT).glob("*"):
        # by its drawn name: an earlier version noted where the index lay then
        kept = any(isinstance(own, FilePicture) and place.name in own.path.parts for own in needed)
        if not kept and due(place):
            remove_folder(place)
