"""Pictures and expressions exactly as a detector's own processor prepares them; boxes in its units and in pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from lpi.backbones.inputs import LONG, PROBES
from lpi.backbones.state import TextInputs
from lpi.data.pictures import in_colour
from lpi.errors import ConfigError, DataError


@dataclass(frozen=True)
class PictureInputs:
    """Pictures, ready for a detector.

    Attributes:
        pixels: [batch, 3, height, width].
        mask: [batch, height, width] int64, 1 for pixels of the picture and 0 for padding; ``None`` where every picture
            fills the whole.
        frames: [batch, 2], width and height in pixels of what a box's 0..1 refers to.
    """

    pixels: Tensor
    mask: Tensor | None
    frames: Tensor

    def to(self, device: torch.device | str) -> PictureInputs:
        """The same pictures on another device."""
        mask = None if self.mask is None else self.mask.to(device)
        return PictureInputs(self.pixels.to(device), mask, self.frames.to(device))

    def rows(self, rows: Tensor) -> PictureInputs:
        """Some of the pictures, by their places int64 [rows]; one may be taken several times."""
        rows = rows.to(self.pixels.device)
        return PictureInputs(self.pixels[rows], None if self.mask is None else self.mask[rows], self.frames[rows])

    def __len__(self) -> int:
        return len(self.pixels)


def to_pixels(boxes: Tensor, frames: Tensor) -> Tensor:
    """Boxes as corners in pixels, [batch, boxes, 4] (x1, y1, x2, y2), from centre and size in 0..1.

    Args:
        boxes: [batch, boxes, 4], (centre x, centre y, width, height).
        frames: [batch, 2], width and height of the frame in pixels.
    """
    centre, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1) * frames.repeat(1, 2)[:, None]


def to_units(boxes: Tensor, frames: Tensor) -> Tensor:
    """The way back from :func:`to_pixels`, for one box a picture: [batch, 4] to [batch, 4]."""
    low, high = boxes[:, :2] / frames, boxes[:, 2:] / frames
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def one_phrase(expression: str) -> str:
    """An expression without what would cut it in two: full stops and question marks end a phrase for these models.

    Raises:
        DataError: nothing is left.
    """
    words = " ".join(expression.replace(".", " ").replace("?", " ").split())
    if not any(letter.isalnum() for letter in words):
        raise DataError(f"an expression must have words; got {expression!r}.")
    return words


class GroundingInputs:
    """Turns pictures and expressions into what a detector reads, by means of the checkpoint's own processor.

    Attributes:
        processor: the library's, of images and texts.
        tokenizer: its tokenizer.
        context: most tokens of an expression.
    """

    #: 0..1 refers to the larger side in both directions, since pictures are padded to a square
    square: bool = False

    def __init__(self, processor: Any, *, context: int) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.context = context

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width that pictures come to; for detectors that keep proportions, their shortest and longest."""
        size = self.processor.image_processor.size
        if size.height and size.width:
            return int(size.height), int(size.width)
        return int(size.shortest_edge), int(size.longest_edge)

    def pictures(self, images: Sequence[Image.Image]) -> PictureInputs:
        """Pictures of any size and mode as one batch.

        Raises:
            DataError: one is so long and narrow that nothing of its width would be left.
        """
        coloured = [in_colour(image) for image in images]
        try:
            ready = self.processor.image_processor(images=[self._manageable(i) for i in coloured], return_tensors="pt")
        except ValueError as error:
            width, height = max((image.size for image in coloured), key=lambda size: max(size) / min(size))
            if max(width, height) <= LONG * min(width, height):
                raise
            raise DataError(f"a picture of {width} x {height} pixels is too long for this detector. Cut it.") from error
        frames = [(max(image.size),) * 2 if self.square else image.size for image in coloured]
        return PictureInputs(
            ready["pixel_values"], ready.get("pixel_mask"), torch.tensor(frames, dtype=torch.float32).reshape(-1, 2)
        )

    def _manageable(self, image: Image.Image) -> Image.Image:
        """A picture that is made smaller first if it is very long and the processor pads it to a square: to GB."""
        if not self.square or max(image.size) <= LONG * min(image.size):
            return image
        factor = min(1.0, 2 * max(self.image_size) / max(image.size))
        return image.resize((max(1, round(image.width * factor)), max(1, round(image.height * factor))))

    def tokenize(self, texts: Sequence[str], *, reserved: int = 0) -> TextInputs:
        """Expressions as tokens, [batch, tokens].

        Args:
            texts: one a picture.
            reserved: tokens to leave free for prompts in the place of placeholders.

        Raises:
            DataError: an expression without words, or one that is too long.
            ConfigError: ``reserved`` leaves no room.
        """
        raise NotImplementedError

    def too_long(self, texts: Sequence[str], *, reserved: int = 0) -> list[int]:
        """Which of the expressions would be cut, by their place; none where such are refused."""
        return []

    def describe(self) -> dict[str, Any]:
        """Everything that decides what the detector gets to see, as plain values; part of a backbone's identity."""
        images = self.processor.image_processor
        names = ("do_resize", "do_rescale", "do_normalize", "do_pad", "rescale_factor", "resample")
        return {
            "size": self.image_size,
            "mean": list(images.image_mean),
            "std": list(images.image_std),
            **{name: str(getattr(images, name, None)) for name in names},
            "context": self.context,
            "vocabulary": len(self.tokenizer),
            "tokens": [list(map(int, ids)) for ids in self.tokenizer(list(PROBES))["input_ids"]],
        }


class PhraseInputs(GroundingInputs):
    """Grounding DINO's: a lower-case phrase with a full stop at its end, and pictures that keep their proportions."""

    def tokenize(self, texts: Sequence[str], *, reserved: int = 0) -> TextInputs:
        """See :class:`GroundingInputs`; there are no placeholders, so ``reserved`` means nothing."""
        phrases = [[one_phrase(text)] for text in texts]
        ready = self.processor(text=phrases, padding=True, return_tensors="pt")
        ids, mask = ready["input_ids"], ready["attention_mask"]
        longest = int(mask.sum(1).max())
        if longest > self.context:
            row = int(mask.sum(1).argmax())
            raise DataError(
                f"expression {texts[row][:40]!r}... has {longest} tokens; this detector reads at most {self.context}. "
                "Shorten it."
            )
        return TextInputs(ids, mask)

    def at_least(self, texts: TextInputs, tokens: int) -> TextInputs:
        """The same expressions, padded to so many tokens where they are fewer."""
        missing = tokens - texts.ids.shape[1]
        if missing <= 0:
            return texts
        ids = functional.pad(texts.ids, (0, missing), value=self.tokenizer.pad_token_id)
        return TextInputs(ids, functional.pad(texts.mask, (0, missing)))


class QueryInputs(GroundingInputs):
    """OWL-ViT's and OWLv2's: a query of CLIP's tokens, cut where it is too long, and square pictures."""

    def __init__(self, processor: Any, *, context: int, square: bool) -> None:
        super().__init__(processor, context=context)
        self.square = square

    def tokenize(self, texts: Sequence[str], *, reserved: int = 0) -> TextInputs:
        """See :class:`GroundingInputs`; always padded to the context, as the checkpoint's processor does."""
        longest = self.context - reserved
        if longest < 3:
            raise ConfigError(f"reserved must leave 3 tokens of the context of {self.context}; got {reserved}.")
        for text in texts:
            one_phrase(text)  # refuses one without words; here, full stops mean nothing special
        ready = self.processor(
            text=[[text] for text in texts], truncation=True, max_length=longest, return_tensors="pt"
        )
        return TextInputs(ready["input_ids"], ready["attention_mask"])

    def too_long(self, texts: Sequence[str], *, reserved: int = 0) -> list[int]:
        """See :class:`GroundingInputs`."""
        tokens = self.tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
        return [place for place, ids in enumerate(tokens) if len(ids) > self.context - reserved]
