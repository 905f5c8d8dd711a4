"""Pixels and tokens exactly as the checkpoint was trained with.

Pictures go through PIL alone, whatever else is installed, in two steps: :meth:`Inputs.prepare` decides which pixels
are seen (small enough to be kept and augmented), :meth:`Inputs.normalise` turns a batch of them into floats on any
device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lpi.backbones.given import PictureLike, given_pixels, given_texts
from lpi.backbones.state import PatchInputs, TextInputs
from lpi.backbones.towers import cut
from lpi.data.pictures import in_colour
from lpi.errors import BackboneError, ConfigError

LONG = 64  # times as long as wide: above it, a picture is cut before it is resized, and below it needn't be
WIDEST_FILTER = 3  # pixels to each side that PIL's resampling filters look at (Lanczos)
# What a tokenizer's behaviour is recognised by, beside its vocabulary.
PROBES = ("A photo of 2 cats, sleeping.", "ÉTÉ naïve-looking  street", "don't", "狗 and 🐕!")


@dataclass(frozen=True)
class PixelRecipe:
    """How a checkpoint wants its pictures.

    Attributes:
        resize: shortest side in pixels (keeps the proportions), or (height, width) (squashes), or ``None``.
        crop: (height, width) cut from the middle, black where the picture is smaller, or ``None``.
        resample: PIL's number of the resampling filter.
        mean: of each channel, in the scale of ``factor``.
        std: of each channel.
        factor: multiplies the bytes.
        patch: side of a patch, in pixels, for checkpoints that read patches in grids of any shape.
        patches: at most so many of them.
    """

    resize: int | tuple[int, int] | None
    crop: tuple[int, int] | None
    resample: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    factor: float
    patch: int | None = None
    patches: int | None = None

    @classmethod
    def from_processor(cls, processor: Any) -> PixelRecipe:
        """Read it from a transformers image processor.

        Raises:
            BackboneError: it does something that isn't known here.
        """
        patches: int | None = getattr(processor, "max_num_patches", None)
        patch: int | None = None if patches is None else int(processor.patch_size)
        resize: int | tuple[int, int] | None
        if patches is not None and patch is not None:  # any grid of patches; at a fixed size, the largest square
            resize = (math.isqrt(patches) * patch,) * 2
        else:
            resize = _side(processor.size) if processor.do_resize else None
        crop = None
        if getattr(processor, "do_center_crop", None) and processor.crop_size:
            crop = (int(processor.crop_size["height"]), int(processor.crop_size["width"]))
        if crop is None and not isinstance(resize, tuple):
            raise BackboneError(
                f"{type(processor).__name__} gives pictures of different sizes (size {processor.size}, no crop). "
                "Set do_center_crop and crop_size in preprocessor_config.json."
            )
        if getattr(processor, "do_pad", None):
            raise BackboneError(f"{type(processor).__name__} pads pictures, which is not supported.")
        normal = bool(processor.do_normalize)
        return cls(
            resize=resize,
            crop=crop,
            resample=int(processor.resample) if processor.resample is not None else int(Image.Resampling.BILINEAR),
            mean=_three(processor.image_mean) if normal else (0.0, 0.0, 0.0),
            std=_three(processor.image_std) if normal else (1.0, 1.0, 1.0),
            factor=float(processor.rescale_factor) if processor.do_rescale else 1.0,
            patch=patch,
            patches=patches,
        )

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of what comes out."""
        if self.crop is not None:
            return self.crop
        assert isinstance(self.resize, tuple)
        return self.resize

    def at(self, side: int) -> PixelRecipe:
        """The same for square pictures of another size: a margin that is cropped away stays in proportion."""
        if isinstance(self.resize, tuple):
            height, width = self.size
            resize: int | tuple[int, int] | None = (
                round(self.resize[0] * side / height),
                round(self.resize[1] * side / width),
            )
        else:
            resize = None if self.resize is None else round(self.resize * side / min(self.size))
        return replace(self, resize=resize, crop=None if self.crop is None else (side, side))

    def sizes(self) -> tuple[dict[str, int], dict[str, int] | None]:
        """``size`` and ``crop_size`` of a transformers image processor that does the same."""
        resize, crop = self.resize, None
        if self.crop is not None:
            crop = {"height": self.crop[0], "width": self.crop[1]}
        if isinstance(resize, tuple):
            return {"height": resize[0], "width": resize[1]}, crop
        return {"shortest_edge": resize or min(self.size)}, crop


class Inputs:
    """Turns pictures and texts into what a backbone's towers read.

    Attributes:
        recipe: how pictures are resized, cropped and normalised.
        tokenizer: the checkpoint's own.
        context: most tokens that the text tower takes, start and end token included.
        whole_context: texts are always padded to the context, and the padding is attended to (SigLIP).
    """

    def __init__(self, recipe: PixelRecipe, tokenizer: Any, *, context: int, whole_context: bool = False) -> None:
        self.recipe = recipe
        self.tokenizer = tokenizer
        self.context = context
        self.whole_context = whole_context
        if not whole_context:  # the causal towers count on it, and to the others it is the same
            tokenizer.padding_side = "right"
        mean, std = torch.tensor(recipe.mean, dtype=torch.float64), torch.tensor(recipe.std, dtype=torch.float64)
        self._scale = (recipe.factor / std).float()[:, None, None]
        self._shift = (-mean / std).float()[:, None, None]

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of prepared pictures, in pixels."""
        return self.recipe.size

    def words(self) -> list[str]:
        """The whole words of the vocabulary, in order; tokenizers mark them, or what is none, in their own way."""
        pieces = sorted(self.tokenizer.get_vocab())
        marks = (("", "</w>"), ("▁", ""), ("Ġ", ""))
        before, behind = max(marks, key=lambda mark: sum(mark[0] + mark[1] in piece for piece in pieces))
        if not any(before + behind in piece for piece in pieces):
            before = behind = ""
        whole = [piece for piece in pieces if piece.startswith(before) and piece.endswith(behind)]
        plain = (piece.removeprefix(before).removesuffix(behind) for piece in whole)
        return [word for word in plain if len(word) > 2 and word.isalpha()]

    def prepare(self, image: Image.Image) -> NDArray[np.uint8]:
        """The pixels that the vision tower sees of a picture.

        Args:
            image: of any size and mode.

        Returns:
            [height, width, 3] uint8.
        """
        image = in_colour(image)
        recipe = self.recipe
        if recipe.resize is not None:
            image = _resize(image, recipe.resize, recipe.resample, recipe.crop)
        if recipe.crop is not None:
            image = _crop(image, recipe.crop)
        return np.asarray(image)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Prepared pictures as floats.

        Args:
            pixels: [batch, 3, height, width] uint8.

        Returns:
            [batch, 3, height, width] float32, on the same device.
        """
        scale, shift = self._scale.to(pixels.device), self._shift.to(pixels.device)
        return torch.addcmul(shift, pixels.float(), scale)

    def denormalise(self, images: Tensor) -> Tensor:
        """The prepared pictures that :meth:`normalise` was given, exactly.

        Args:
            images: [batch, 3, height, width] float32.

        Returns:
            [batch, 3, height, width] uint8, on the same device.
        """
        scale, shift = self._scale.to(images.device), self._shift.to(images.device)
        return ((images - shift) / scale).round().clamp(0, 255).to(torch.uint8)

    def pixels(self, images: PictureLike | Sequence[PictureLike]) -> Tensor:
        """Whatever a person gives as pictures, prepared; pixels that are of the right size already stay as they are.

        Args:
            images: one picture or several; see :func:`lpi.backbones.given.given_pixels`.

        Returns:
            [batch, 3, height, width] uint8; a batch of one for a single picture.

        Raises:
            ConfigError: these are no pictures; the message says what was given.
            DataError, MissingFileError: a file can't be read as a picture.
        """
        return given_pixels(images, self.prepare, self.image_size)[0]

    def images(self, images: PictureLike | Sequence[PictureLike]) -> Tensor:
        """Pictures ready for a backbone's ``encode_images``: :meth:`pixels` and :meth:`normalise` in one.

        Returns:
            [batch, 3, height, width] float32; a batch of one for a single picture.

        Raises:
            As :meth:`pixels`.
        """
        return self.normalise(self.pixels(images))

    def patches(self, images: Sequence[Image.Image]) -> PatchInputs:
        """Pictures in their own proportions, as NaFlex checkpoints were trained; elsewhere use :meth:`images`.

        Raises:
            BackboneError: the backbone doesn't read patches.
        """
        recipe = self.recipe
        if recipe.patch is None or recipe.patches is None:
            raise BackboneError("Only NaFlex checkpoints read pictures as patches. Use images() for this one.")
        rows, masks, shapes = [], [], []
        for image in images:
            image = in_colour(image)
            size = _grid_size(image.height, image.width, recipe.patch, recipe.patches)
            pixels = torch.from_numpy(np.array(_resize(image, size, recipe.resample)))
            patches, shape = cut(self.normalise(pixels.permute(2, 0, 1)[None]), recipe.patch)
            row = patches.new_zeros(recipe.patches, patches.shape[-1])
            row[: patches.shape[1]] = patches[0]
            rows.append(row)
            masks.append((torch.arange(recipe.patches) < patches.shape[1]).long())
            shapes.append(shape[0])
        return PatchInputs(torch.stack(rows), torch.stack(masks), torch.stack(shapes))

    def tokenize(self, texts: str | Sequence[str], *, reserved: int = 0) -> TextInputs:
        """Texts as tokens, cut to what the context takes; the end token is kept.

        Args:
            texts: at least one; a single text is a batch of one.
            reserved: tokens to leave free for prompts in place of placeholders.

        Returns:
            Padded to the longest of the batch (SigLIP: to the context less ``reserved``).

        Raises:
            ConfigError: ``reserved`` leaves no room for a caption, or these are no texts.
        """
        longest = self.context - reserved
        if longest < 3:
            raise ConfigError(f"reserved must leave 3 tokens of the context of {self.context}; got {reserved}.")
        encoded = self.tokenizer(
            given_texts(texts)[0],
            truncation=True,
            max_length=longest,
            padding="max_length" if self.whole_context else True,
            return_attention_mask=True,
            return_tensors="pt",
        )
        ids, mask = encoded["input_ids"], encoded["attention_mask"]
        return TextInputs(ids, torch.ones_like(mask) if self.whole_context else mask)

    def too_long(self, texts: str | Sequence[str], *, reserved: int = 0) -> list[int]:
        """Which of the texts would be cut, by their place."""
        encoded = self.tokenizer(given_texts(texts)[0], truncation=False, padding=False, verbose=False)["input_ids"]
        return [place for place, ids in enumerate(encoded) if len(ids) > self.context - reserved]

    def describe(self) -> dict[str, Any]:
        """Everything that decides what the towers get to see, as plain values; part of a backbone's identity."""
        recipe = self.recipe
        return {
            "resize": recipe.resize,
            "crop": recipe.crop,
            "resample": recipe.resample,
            "mean": recipe.mean,
            "std": recipe.std,
            "factor": recipe.factor,
            "patches": recipe.patches,
            "context": self.context,
            "vocabulary": len(self.tokenizer),
            "tokens": [list(map(int, ids)) for ids in self.tokenizer(list(PROBES))["input_ids"]],
        }


def _side(size: Any) -> int | tuple[int, int]:
    if size.get("height") and size.get("width"):
        return int(size["height"]), int(size["width"])
    if size.get("shortest_edge") and not size.get("longest_edge"):
        return int(size["shortest_edge"])
    raise BackboneError(f"Pictures can't be resized to {size}: height and width, or shortest_edge, must be given.")


def _three(values: Any) -> tuple[float, float, float]:
    if isinstance(values, (int, float)):
        return (float(values),) * 3
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _resize(
    image: Image.Image, size: int | tuple[int, int], resample: int, crop: tuple[int, int] | None = None
) -> Image.Image:
    """A picture resized; of a very long one, only as much of its length as the centre crop will keep."""
    if isinstance(size, tuple):
        height, width = size
    else:
        short, long = sorted(image.size)
        longer = int(size * long / short)
        height, width = (longer, size) if image.width <= image.height else (size, longer)
        kept = None if crop is None else crop[0] if image.width <= image.height else crop[1]
        if kept is not None and long > LONG * short and longer > kept:
            return _resize_middle(image, (width, height), kept, resample)
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling(resample))


def _resize_middle(image: Image.Image, size: tuple[int, int], kept: int, resample: int) -> Image.Image:
    """The middle of a picture's length as it would look if the whole were resized: a line of pixels would take GB.

    Args:
        image: much longer than wide, or wider than high.
        size: width and height of the whole, resized.
        kept: pixels of the longer side that are wanted, out of the middle.
        resample: PIL's number of the filter.
    """
    wide = image.width > image.height
    length, longer = (image.width, size[0]) if wide else (image.height, size[1])
    scale = length / longer  # pixels of the picture for one that comes out
    first = (longer - kept) // 2
    reach = math.ceil(WIDEST_FILTER * max(scale, 1)) + 1
    start, end = first * scale, (first + kept) * scale
    low, high = max(0, math.floor(start) - reach), min(length, math.ceil(end) + reach)
    # cut to whole pixels before it is resized: PIL's box has single precision, too coarse far from the start
    part = image.crop((low, 0, high, image.height) if wide else (0, low, image.width, high))
    box = (
        (start - low, 0.0, end - low, float(image.height))
        if wide
        else (0.0, start - low, float(image.width), end - low)
    )
    return part.resize((kept, size[1]) if wide else (size[0], kept), Image.Resampling(resample), box=box)


def _crop(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    height, width = size
    # Floor division, below zero too: where a picture is smaller, the odd pixel of black goes to the left and the top.
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _grid_size(height: int, width: int, side: int, most: int) -> tuple[int, int]:
    """The largest size in whole patches, near the picture's proportions, of at most so many patches.

    The search and its tolerance are those of the checkpoint's own processor: another search would differ by a patch.
    """

    def scaled(scale: float, size: int) -> int:
        return max(side, math.ceil(size * scale / side) * side)

    low, high, tolerance = 1e-6, 100.0, 1e-5
    while high - low >= tolerance:
        scale = (low + high) / 2
        if scaled(scale, height) * scaled(scale, width) <= most * side * side:
            low = scale
        else:
            high = scale
    return scaled(low, height), scaled(low, width)
