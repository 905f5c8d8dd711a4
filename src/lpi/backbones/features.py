"""A backbone that gives what a folder of features holds: methods that change nothing in it run over them in seconds.

Its pictures are those of the folder, as one pixel each, and its texts the folder's captions. A row of a tower is its
features, then what a closed form reads (:meth:`lpi.backbones.base.DualEncoder.with_summary`), then the states that a
router looks at by default; of the two last, either may be missing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from lpi.backbones.base import DualEncoder
from lpi.backbones.given import given_texts
from lpi.backbones.inputs import Inputs, PixelRecipe
from lpi.backbones.state import TextInputs, TowerPrompts, TowerState, View
from lpi.backbones.tower import Tower
from lpi.data.features import RECORDS, TENSORS, captions_of, load_features, read_features
from lpi.errors import BackboneError, ConfigError
from lpi.reading import shown
from lpi.storage import checksum, read_tensors

TOWERS = ("vision", "text")
ONE_PIXEL = PixelRecipe(resize=None, crop=(1, 1), resample=0, mean=(0.0,) * 3, std=(1.0,) * 3, factor=1.0)


def _no_tokenizer(*texts: Any, **how: Any) -> Any:
    raise BackboneError("features are there, and no model that knows words. Name a backbone.")


class NumberInputs(Inputs):
    """Turns a folder's pictures and captions into the numbers of their rows.

    Args:
        captions: in the order of their rows.
        name: of the folder, for messages.
    """

    def __init__(self, captions: Sequence[str], name: str) -> None:
        super().__init__(ONE_PIXEL, _no_tokenizer, context=2**16)
        self.row = {caption: row for row, caption in enumerate(captions)}
        self.name = name

    def prepare(self, image: Image.Image) -> NDArray[np.uint8]:
        """See :class:`Inputs`."""
        if image.size != (1, 1):
            raise ConfigError(f"{self.name} holds features, and no model that sees other pictures. Name a backbone.")
        return super().prepare(image)

    def tokenize(self, texts: str | Sequence[str], *, reserved: int = 0) -> TextInputs:
        """See :class:`Inputs`; a text is one token, its number."""
        words = given_texts(texts)[0]
        unknown = [text for text in words if text not in self.row]
        if unknown:
            raise ConfigError(
                f"{self.name} holds features, and no model that reads other texts, such as {unknown[0][:60]!r}. Name a "
                "backbone."
            )
        ids = torch.tensor([[self.row[text]] for text in words], dtype=torch.int64)
        return TextInputs(ids, torch.ones_like(ids))

    def too_long(self, texts: str | Sequence[str], *, reserved: int = 0) -> list[int]:
        """See :class:`Inputs`: none."""
        return []


class FeatureTower(Tower):
    """A tower that looks its answers up.

    Args:
        rows: of all items, [items, features and what stands behind them].
        width: of the features.
        depth: blocks of the tower that they are from.
    """

    def __init__(self, rows: Tensor, width: int, depth: int) -> None:
        module: Any = nn.Module()
        module.config = SimpleNamespace(hidden_size=width)
        module.layers = nn.ModuleList(nn.Identity() for _ in range(depth))
        super().__init__(module)
        self.register_buffer("rows", rows, persistent=False)

    @property
    def context(self) -> int:
        """See :class:`Tower`: a text is one token."""
        return 1

    def embed(self, inputs: Any, prompts: Tensor | None, placeholders: bool) -> TowerState:
        """See :class:`Tower`.

        Raises:
            BackboneError: what is no number of a row is given.
        """
        rows = self.get_buffer("rows")
        if isinstance(inputs, TextInputs):
            numbers = inputs.ids[:, 0]
        else:  # one pixel: three bytes
            numbers = (inputs.flatten(1).long() * torch.tensor([1, 256, 65536], device=inputs.device)).sum(1)
        if bool((numbers >= len(rows)).any()):
            raise BackboneError("features are there, and no model that sees other pictures. Name a backbone.")
        return TowerState(rows[numbers][:, None], tokens=1)

    def advance(self, state: TowerState, first: int, stop: int, prompts: TowerPrompts | None = None) -> TowerState:
        """See :class:`Tower`: all of it is known from the start.

        Raises:
            BackboneError: prompts would change it.
        """
        if prompts is not None:
            raise BackboneError("features are there, and no model that prompts could enter. Name a backbone.")
        return replace(state, block=stop)

    def pool(self, state: TowerState) -> Tensor:
        """See :class:`Tower`: the features."""
        return state.states[:, 0, : self.width]


class FeatureBackbone(DualEncoder):
    """Both towers of a folder of features.

    Args:
        summary: numbers of a row that a closed form reads, a tower; 0 takes the features.
        looked: after how many blocks the states behind them were looked at, a tower.
        parts: what a :class:`DualEncoder` takes.
    """

    def __init__(self, summary: dict[str, int], looked: dict[str, int], **parts: Any) -> None:
        super().__init__(**parts)
        self.summary, self.looked = summary, looked

    @property
    def feature_width(self) -> int:
        """See :class:`DualEncoder`."""
        return self.vision.width

    def summary_width(self, tower: str) -> int:
        """See :class:`DualEncoder`."""
        return self.summary[tower] or self.feature_width

    def with_summary(self, tower: str, inputs: Any, prompts: TowerPrompts | None = None) -> tuple[Tensor, Tensor]:
        """See :class:`DualEncoder`."""
        encoder: Tower = getattr(self, tower)
        state = encoder.advance(encoder.entered(inputs, prompts), 0, encoder.depth, prompts)
        features = encoder.finish(state)
        width = self.feature_width
        return features, state.states[:, 0, width : width + self.summary[tower]] if self.summary[tower] else features

    def view_width(self, tower: str, view: View) -> int:
        """See :class:`DualEncoder`."""
        states = 0 if view.depth is None else self._states(tower).shape[-1]
        return states + (self.feature_width if view.features else 0)

    def _states(self, tower: str) -> Tensor:
        """The states that a router looks at, of all rows."""
        rows: Tensor = getattr(self, tower).get_buffer("rows")
        return rows[:, self.feature_width + self.summary[tower] :]

    def _low(self, tower: Tower, inputs: Any, view: View, real: Tensor | None) -> tuple[TowerState, list[Tensor]]:
        state = tower.begin(inputs)
        if view.depth is None:
            return state, []
        name = "vision" if tower is self.vision else "text"
        width = self._states(name).shape[-1]
        if not width or view.depth != self.looked[name]:
            held = f"those after {self.looked[name]}" if width else "none"
            raise ConfigError(
                f"a router looks at states after {view.depth} blocks of the {name} tower; {self.name} holds {held}. "
                'Set method.routing = "features".'
            )
        return state, [state.states[:, 0, -width:]]


def load_feature_backbone(root: Path) -> FeatureBackbone:
    """The backbone of a folder of features.

    Raises:
        MissingFileError: a file isn't there.
        DataError, CheckpointError: one is damaged, or something else.
        BackboneError: they don't fit each other.
    """
    noted, tensors, captions = read_features(root), read_tensors(root / TENSORS), captions_of(load_features(root))
    content, counts = checksum(tensors), {"vision": len(noted["pictures"]), "text": len(captions)}
    if noted.get("tensors", content) != content:
        raise BackboneError(f"{root / TENSORS} isn't what {RECORDS} speaks of. Take both from one 'lpi features'.")
    for tower, count in counts.items():
        if tensors.get(tower, torch.empty(0)).shape[:-1] != (count,):
            raise BackboneError(f'{root / TENSORS}: "{tower}" must have {count} rows, as {RECORDS} says.')
    summary, depth, looked = (_sizes(root, noted.get(name, {})) for name in ("summary", "depth", "looked"))
    widths = {tower: tensors[tower].shape[1] for tower in TOWERS}
    width = _sizes(root, {"vision": noted.get("features", widths["vision"])})["vision"]
    unequal = "features" not in noted and widths["text"] != width
    if unequal or any(widths[tower] < width + summary[tower] for tower in TOWERS):
        raise BackboneError(f"{root / TENSORS}: rows of {widths} numbers aren't what {RECORDS} says.")
    towers = {tower: FeatureTower(tensors[tower].float(), width, depth[tower]) for tower in TOWERS}
    scale = tensors.get("logit_scale", torch.tensor(100.0).log())
    if scale.numel() != 1:
        raise BackboneError(f'{root / TENSORS}: "logit_scale" must be one number.')
    model: Any = nn.Module()
    model.logit_scale = nn.Parameter(scale.float().reshape(()))
    model.towers = nn.ModuleDict(towers)
    digest = hashlib.sha256("\n".join([content, *captions]).encode()).hexdigest()[:16]
    inputs = NumberInputs(captions, str(root))
    parts = {"model": model, "inputs": inputs, "name": str(root), "identity": digest, **towers}
    return FeatureBackbone(summary, looked, **parts)


def _sizes(root: Path, found: object) -> dict[str, int]:
    """A whole number a tower, 0 where none is noted."""
    sizes: list[Any] = [found.get(tower, 0) if isinstance(found, dict) else None for tower in TOWERS]
    if not all(type(size) is int and 0 <= size < 2**16 for size in sizes):
        raise BackboneError(f"{root / RECORDS}: expected a whole number for each tower; got {shown(found)}.")
    return dict(zip(TOWERS, sizes, strict=True))
