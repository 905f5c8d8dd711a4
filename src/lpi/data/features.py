"""A folder of frozen features: what a backbone gave for the pictures and captions of a stream, instead of the pictures.

``features.json`` says what they are of: ``pictures``, each with ``name``, ``captions``, ``task`` and ``split``, in the
order of the rows of ``vision`` in ``features.safetensors``; the rows of ``text`` are the different captions, as they
are met. ``lpi features`` writes both.
"""

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from lpi.data.records import CaptionedImage
from lpi.errors import DataError
from lpi.reading import Row, read_object, wanted

RECORDS, TENSORS = "features.json", "features.safetensors"
MOST = 256**3  # pictures that three bytes tell apart


@dataclass(frozen=True, slots=True)
class NumberedPicture:
    """A picture of which only the features are there: it opens as one pixel, whose colour is its number.

    Attributes:
        number: of its row.
        name: see :class:`lpi.data.records.Picture`.
        path: the file that holds its features.
    """

    number: int
    name: str
    path: Path

    def open(self, side: int | None = None) -> Image.Image:
        """See :class:`lpi.data.records.Picture`."""
        low, middle, high = (self.number >> shift & 255 for shift in (0, 8, 16))
        return Image.new("RGB", (1, 1), (low, middle, high))


def read_features(root: str | Path) -> Row:
    """What ``features.json`` in a folder holds.

    Raises:
        MissingFileError: it isn't there.
        DataError: it is something else.
    """
    path = Path(root) / RECORDS
    found = wanted(read_object(path, "what features are of"), str(path), {"pictures": "list"})
    if len(found["pictures"]) > MOST:
        raise DataError(f"{path}: at most {MOST:,} pictures can be told apart; got {len(found['pictures']):,}.")
    return found


def load_features(root: str | Path) -> list[CaptionedImage]:
    """The pictures of a folder of features, in its order.

    Args:
        root: the folder; the experiment's backbone is the same one.

    Raises:
        As :func:`read_features`.
    """
    records, file = [], Path(root) / TENSORS
    for number, item in enumerate(read_features(root)["pictures"]):
        where = f"{Path(root) / RECORDS}, picture {number}"
        row = wanted(item, where, {"name": "text", "captions": "list", "task": "text", "split": "text"})
        captions = row["captions"]
        if not captions or not all(isinstance(caption, str) and caption.strip() for caption in captions):
            raise DataError(f'{where}: "captions" must be texts, at least one. Is this the right file?')
        picture = NumberedPicture(number, row["name"], file)
        records.append(CaptionedImage(picture, tuple(captions), row["task"], row["split"]))
    return records


def captions_of(records: list[CaptionedImage]) -> list[str]:
    """The different captions, in the order of the rows of ``text``."""
    return list(dict.fromkeys(caption for record in records for caption in record.captions))
