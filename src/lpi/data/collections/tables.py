"""Pictures inside larger files: parquet tables, tar shards, arrays of video frames; each is opened when needed."""

import io
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from PIL import Image

from lpi.data.pictures import check_regular, naming, open_image
from lpi.data.records import CaptionedImage
from lpi.data.rows import OnError, clean_captions
from lpi.errors import DataError
from lpi.extras import missing_extra
from lpi.reading import MOST_SETTINGS, decoded, parse_json

_READING = (
    Lock()
)  # a parquet file that is open can't be read by two threads at once, and the check opens pictures in four


@dataclass(frozen=True, slots=True)
class TablePicture:
    """A picture in a column of a parquet file, as the data-set hub stores them: ``{"bytes": .., "path": ..}``."""

    path: Path
    group: int
    row: int
    column: str
    name: str

    def open(self, side: int | None = None) -> Image.Image:
        """See :class:`lpi.data.records.Picture`."""
        where = f"{self.path}, row {self.row} of group {self.group}"
        with naming(where):
            with _READING:
                content = _pictures(self.path, _stamp(self.path), self.group, self.column)[self.row]
            if content is None:
                raise DataError(f"{where}: there is no picture in it. Is the file complete?")
            return open_image(io.BytesIO(content), where, side)


Stamp = tuple[int, int, int]


def _stamp(path: Path) -> Stamp:
    """What tells a file from the one that lay in its place when it was read."""
    status = path.stat()
    return status.st_size, status.st_ino, status.st_mtime_ns


@lru_cache(maxsize=2)  # pictures are asked for in their order, so the group at hand is enough
def _pictures(path: Path, stamp: Stamp, group: int, column: str) -> list[bytes | None]:
    values = _column(_table(path, stamp), path, group, column)
    return [value.get("bytes") if isinstance(value, dict) else value for value in values]


def _column(table: Any, path: Path, group: int, column: str) -> list[Any]:
    """One column of a row group, in plain values."""
    try:
        values: list[Any] = table.read_row_group(group, columns=[column]).column(column).to_pylist()
    except (ValueError, OSError) as error:  # pyarrow's own errors are among them
        raise DataError(f"{path}: row group {group} can't be read ({error}). Is the file complete?") from error
    return values


@lru_cache(maxsize=8)
def _table(path: Path, stamp: Stamp) -> Any:
    try:
        from pyarrow import ArrowInvalid, parquet
    except ImportError as error:
        raise missing_extra("Parquet files need pyarrow, which is not installed", "collections") from error
    try:
        return parquet.ParquetFile(path)
    except (ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: this is no readable parquet file ({error}). Is it complete?") from error


def read_table(
    files: Sequence[Path], *, captions: Sequence[str], image: str, split: str, task: str, on_error: OnError
) -> list[CaptionedImage]:
    """The rows of some parquet files.

    Args:
        files: in the order of their rows.
        captions: names that the column of captions may have; the first that is there counts.
        image: name of the column of pictures.
        split: of all rows.
        task: of all rows.
        on_error: takes each bad row's error.

    Raises:
        DataError: a file without such columns, or that is no parquet file.
        MissingExtraError: pyarrow is not installed.
    """
    records = []
    for path in files:
        table = _table(path, _stamp(path))
        names = table.schema_arrow.names
        column = next((name for name in captions if name in names), None)
        if column is None or image not in names:
            wanted = " or ".join(f'"{name}"' for name in captions)
            raise DataError(f'{path}: expected the columns "{image}" and {wanted}; found {", ".join(names)}.')
        for group in range(table.num_row_groups):
            for row, caption in enumerate(_column(table, path, group, column)):
                where = f"{path}, row {row} of group {group}"
                try:
                    texts = clean_captions(caption if isinstance(caption, list) else [caption], where)
                except DataError as error:
                    on_error(error)
                    continue
                picture = TablePicture(path, group, row, image, f"{path.name}/{group}-{row}")
                records.append(CaptionedImage(picture, texts, task, split))
    return records


@dataclass(frozen=True, slots=True)
class ShardPicture:
    """A picture in a tar file, by where its bytes lie."""

    path: Path
    offset: int
    size: int
    name: str

    def open(self, side: int | None = None) -> Image.Image:
        """See :class:`lpi.data.records.Picture`."""
        where = f"{self.path}: {self.name}"
        with naming(where):
            check_regular(self.path)
            with self.path.open("rb") as file:
                file.seek(self.offset)
                return open_image(io.BytesIO(file.read(self.size)), where, side)


def read_shards(files: Sequence[Path], *, task: str, on_error: OnError) -> list[CaptionedImage]:
    """The samples of tar shards (WebDataset): a picture beside a ``.txt``, or a ``.json`` with a caption, of one stem.

    Raises:
        DataError: a file is no tar file.
    """
    records = []
    for path in files:
        samples: dict[str, dict[str, tarfile.TarInfo]] = {}
        try:
            with tarfile.open(path) as archive:
                for member in archive:
                    if member.isfile():
                        stem, _, ending = member.name.rpartition(".")
                        samples.setdefault(stem, {})[ending.lower()] = member
                texts = {stem: _shard_caption(archive, sample) for stem, sample in samples.items()}
        except (tarfile.TarError, OSError, ValueError, EOFError) as error:
            raise DataError(f"{path}: the shard can't be read ({error}). Is it complete?") from error
        for stem, sample in samples.items():
            found = next((sample[ending] for ending in ("jpg", "jpeg", "png", "webp") if ending in sample), None)
            where = f"{path}: sample {stem}"
            try:
                if found is None:
                    raise DataError(f"{where} has no picture (.jpg, .png or .webp). Is the shard complete?")
                captions = clean_captions([texts[stem]], where)
            except DataError as error:
                on_error(error)
                continue
            picture = ShardPicture(path, found.offset_data, found.size, f"{path.stem}/{found.name}")
            records.append(CaptionedImage(picture, captions, task))
    return records


def _shard_caption(archive: tarfile.TarFile, sample: dict[str, tarfile.TarInfo]) -> object:
    def read(ending: str) -> str:
        file = archive.extractfile(sample[ending])
        return "" if file is None else decoded(file.read(MOST_SETTINGS))

    if "txt" in sample:
        return read("txt")
    content = parse_json(read("json")) if "json" in sample else {}
    return content.get("caption") if isinstance(content, dict) else None


@dataclass(frozen=True, slots=True)
class FramePicture:
    """The middle frame of a clip that is stored as an array, uint8 [frames, height, width, 3]."""

    path: Path
    name: str

    def open(self, side: int | None = None) -> Image.Image:
        """See :class:`lpi.data.records.Picture`."""
        with naming(str(self.path)):
            check_regular(self.path)
            frames = np.load(self.path, mmap_mode="r", allow_pickle=False)
        if (
            not isinstance(frames, np.ndarray)
            or frames.ndim != 4
            or frames.shape[-1] != 3
            or frames.dtype != np.uint8
            or not len(frames)
        ):
            raise DataError(
                f"{self.path}: expected frames, uint8 [frames, height, width, 3]; got {frames.dtype} {frames.shape}."
            )
        return Image.fromarray(np.ascontiguousarray(frames[len(frames) // 2]))
