"""Joins two pre-trained towers into one space: their projections are learned, everything below stays as it was.

This is LiT's recipe with both towers frozen. Their pooled outputs never change, so they are computed once, and an
epoch is a few matrix products. The text pooler is learned too where the tower has one: it was trained for another
purpose, or not at all. The result is a stock ``VisionTextDualEncoderModel`` folder.
"""

import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModel, CLIPVisionModel, VisionTextDualEncoderConfig, VisionTextDualEncoderModel

from lpi.backbones.base import Tower
from lpi.backbones.inputs import Inputs, PixelRecipe
from lpi.backbones.loading import (
    check_size,
    load_processor,
    load_stock,
    load_tokenizer,
    locate,
    make_inputs,
    quiet,
    read_config,
)
from lpi.backbones.state import TowerState
from lpi.backbones.towers import text_tower, vision_tower
from lpi.errors import ConfigError, DataError, OutputError

HIGHEST_SCALE = math.log(100)  # as CLIP: beyond it, training turns unstable
Progress = Callable[[str, int, int], None]


class Openable(Protocol):
    """A picture that can be opened at the size at which it will be seen."""

    def open(self, side: int | None = None) -> Image.Image:
        """The picture in RGB."""


class Captioned(Protocol):
    """A picture with captions: what a data source hands on."""

    @property
    def picture(self) -> Openable:
        """The picture."""

    @property
    def captions(self) -> Sequence[str]:
        """Its captions, at least one."""


@dataclass(frozen=True)
class Alignment:
    """What :func:`align` did.

    Attributes:
        path: the new model folder.
        losses: mean loss of each epoch, in nats.
        learned: names of the learned tensors.
        seconds: time taken, from first to last.
    """

    path: Path
    losses: tuple[float, ...]
    learned: tuple[str, ...]
    seconds: float


@dataclass
class _Joined:
    """Two towers on their way into one model, and what the learned part of it reads."""

    model: Any
    vision: Tower
    text: Tower
    inputs: Inputs
    processor: Any
    poolers: dict[str, bool]  # of each tower: its pooler is learned
    learned: list[str] = field(default_factory=list)


def align(
    vision_source: str | Path,
    text_source: str | Path,
    records: Sequence[Captioned],
    *,
    out: str | Path,
    feature_width: int = 256,
    epochs: int = 20,
    batch: int = 256,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.1,
    seed: int = 0,
    image_size: int | None = None,
    progress: Progress | None = None,
) -> Alignment:
    """Join a vision and a text tower by learning their projections on captioned pictures.

    Symmetric InfoNCE over batches; each epoch shows every picture once, with one of its captions. Equal captions of
    different pictures in a batch share the probability instead of counting against one another.

    Args:
        vision_source: folder or hub name of a ViT, DINOv2 or CLIP.
        text_source: folder or hub name of a BERT or RoBERTa, with its tokenizer.
        records: pictures with captions.
        out: the folder to make; must not exist, or be empty.
        feature_width: of the common space.
        epochs: passes over the pictures.
        batch: pictures a step; more are better, as the others of a batch are the negatives.
        learning_rate: of AdamW, warmed up over a tenth of the steps and then lowered to 0 along a cosine.
        weight_decay: of AdamW.
        seed: of the projections, the order and the choice of captions.
        image_size: side of the pictures in pixels, if not the vision checkpoint's own.
        progress: told what is being done, how many are done, and of how many.

    Raises:
        ConfigError: a number is out of its range.
        DataError: too few pictures, or one without captions.
        OutputError: ``out`` is there already, or can't be written.
        BackboneError: a source can't be used.
        MissingFileError: a source isn't there.
    """
    started = time.monotonic()
    for name, value, least in (("feature_width", feature_width, 1), ("epochs", epochs, 1), ("batch", batch, 2)):
        if value < least:
            raise ConfigError(f"{name} must be at least {least}; got {value}.")
    for name, rate in (("learning_rate", learning_rate), ("weight_decay", weight_decay)):
        if not (math.isfinite(rate) and rate >= 0):
            raise ConfigError(f"{name} must be a number of at least 0; got {rate}.")
    if len(records) < 2:
        raise DataError(f"Towers are aligned on at least 2 captioned pictures; got {len(records)}.")
    for place, record in enumerate(records):
        if not record.captions:
            raise DataError(f"Picture {place + 1} has no caption. Leave it out, or give it one.")
    out = Path(out)
    _check_output(out)
    with quiet():
        joined = _join(vision_source, text_source, feature_width, image_size, seed)
        pictures = _picture_states(joined, records, progress)
        captions = [caption for record in records for caption in record.captions]
        texts = _caption_states(joined, captions, progress)
        losses = _train(
            joined,
            pictures,
            texts,
            records,
            captions,
            epochs=epochs,
            batch=min(batch, len(records)),
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            seed=seed,
            progress=progress,
        )
        _save(joined, out)
    return Alignment(out, tuple(losses), tuple(joined.learned), time.monotonic() - started)


def _check_output(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(f"{out}: is there already. Name another folder, or remove it.")
    parent = next(folder for folder in (out, *out.parents) if folder.exists())
    if not os.access(parent, os.W_OK):
        raise OutputError(f"{parent}: can't be written to. Name another folder with out.")


def _join(
    vision_source: str | Path, text_source: str | Path, feature_width: int, image_size: int | None, seed: int
) -> _Joined:
    vision_path, text_path = locate(vision_source), locate(text_source)
    clip = read_config(vision_path).get("model_type") == "clip"  # of a whole CLIP, its vision tower
    image_model, absent = load_stock(CLIPVisionModel if clip else AutoModel, vision_path, optional="pooler.")
    text_model, _ = load_stock(AutoModel, text_path, optional="pooler.")
    config = VisionTextDualEncoderConfig.from_vision_text_configs(
        image_model.config, text_model.config, projection_dim=feature_width
    )
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers go on as if nothing had been drawn
        torch.manual_seed(seed)
        model: Any = VisionTextDualEncoderModel(config, image_model, text_model)
    model.eval().requires_grad_(False)
    vision = vision_tower(model.vision_model, model.visual_projection)
    text = text_tower(model.text_model, model.text_projection)
    processor = load_processor(vision_path)
    recipe = PixelRecipe.from_processor(processor)
    if image_size is not None:
        recipe = recipe.at(image_size)
        processor.size, processor.crop_size = recipe.sizes()
    check_size(vision, recipe)
    inputs = make_inputs(text, recipe, load_tokenizer(text_path))
    poolers = {"vision": bool(absent), "text": getattr(text.module, "pooler", None) is not None}
    return _Joined(model, vision, text, inputs, processor, poolers)


@torch.no_grad()
def _picture_states(joined: _Joined, records: Sequence[Captioned], progress: Progress | None) -> Tensor:
    """What the learned part of the vision side reads, [pictures, width]."""
    inputs = joined.inputs

    def prepare(record: Captioned) -> Any:
        return inputs.prepare(record.picture.open(min(inputs.image_size)))

    states = []
    with ThreadPoolExecutor() as pool:
        for part in _parts(len(records), 32, "pictures", progress):
            pixels = np.stack(list(pool.map(prepare, records[part])))
            normalised = inputs.normalise(torch.from_numpy(pixels).permute(0, 3, 1, 2))
            states.append(_below(joined.vision, normalised, joined.poolers["vision"]))
    return torch.cat(states)


@torch.no_grad()
def _caption_states(joined: _Joined, captions: Sequence[str], progress: Progress | None) -> Tensor:
    """What the learned part of the text side reads, [captions, width]."""
    # sorted by length, so that a batch is padded to little more than its captions are long
    order = sorted(range(len(captions)), key=lambda place: len(captions[place]))
    states = torch.empty(len(captions), joined.text.width)
    for part in _parts(len(captions), 64, "captions", progress):
        tokens = joined.inputs.tokenize([captions[place] for place in order[part]])
        states[order[part]] = _below(joined.text, tokens, joined.poolers["text"])
    return states


def _below(tower: Tower, inputs: Any, learns_pooler: bool) -> Tensor:
    state = tower.advance(tower.begin(inputs), 0, tower.depth)
    return state.states[:, 0] if learns_pooler else tower.pool(state)


def _above(tower: Tower, states: Tensor, learns_pooler: bool) -> Tensor:
    if learns_pooler:
        return tower.finish(TowerState(states[:, None], tokens=1))
    assert tower.projection is not None
    features: Tensor = tower.projection(states)
    return features


def _parts(count: int, size: int, what: str, progress: Progress | None) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, start + size)
        if progress is not None:
            progress(what, min(start + size, count), count)


def _train(
    joined: _Joined,
    pictures: Tensor,
    texts: Tensor,
    records: Sequence[Captioned],
    captions: Sequence[str],
    *,
    epochs: int,
    batch: int,
    learning_rate: float,
    weight_decay: float,
    seed: int,
    progress: Progress | None,
) -> list[float]:
    """Learn the projections; the mean loss of each epoch."""
    counts = torch.tensor([len(record.captions) for record in records])
    first = counts.cumsum(0) - counts
    numbers = {caption: number for number, caption in enumerate(dict.fromkeys(captions))}
    wording = torch.tensor([numbers[caption] for caption in captions])  # equal for equal captions
    weights = _learned(joined)
    optimiser = torch.optim.AdamW(weights, lr=learning_rate, weight_decay=weight_decay)
    steps = epochs * (len(records) // batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, steps))
    generator = torch.Generator().manual_seed(seed)
    losses = []
    for epoch in range(epochs):
        order = torch.randperm(len(records), generator=generator)
        chosen = first + (torch.rand(len(records), generator=generator) * counts).long()
        total = 0.0
        for start in range(0, len(records) - batch + 1, batch):  # what is left over comes first another time
            rows = order[start : start + batch]
            picked = chosen[rows]
            loss = _contrast(
                _above(joined.vision, pictures[rows], joined.poolers["vision"]),
                _above(joined.text, texts[picked], joined.poolers["text"]),
                joined.model.logit_scale,
                wording[picked],
            )
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            with torch.no_grad():
                joined.model.logit_scale.clamp_(max=HIGHEST_SCALE)
            total += float(loss.detach())
        losses.append(total / (len(records) // batch))
        if progress is not None:
            progress("epochs", epoch + 1, epochs)
    joined.model.requires_grad_(False)
    return losses


def _learned(joined: _Joined) -> list[nn.Parameter]:
    parts = ["visual_projection.", "text_projection.", "logit_scale"]
    parts += [f"{tower}_model.pooler." for tower, learns in joined.poolers.items() if learns]
    weights = []
    for name, weight in joined.model.named_parameters():
        if name.startswith(tuple(parts)):
            joined.learned.append(name)
            weights.append(weight.requires_grad_(True))
    return weights


def _rate(step: int, steps: int) -> float:
    warm = max(1, steps // 10)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _contrast(images: Tensor, texts: Tensor, logit_scale: Tensor, wording: Tensor) -> Tensor:
    """Symmetric InfoNCE, scalar; equal captions are equally right."""
    logits = logit_scale.exp() * functional.normalize(images, dim=-1) @ functional.normalize(texts, dim=-1).T
    right = (wording[:, None] == wording[None, :]).float()
    right = right / right.sum(dim=1, keepdim=True)  # symmetric: serves both directions
    return (functional.cross_entropy(logits, right) + functional.cross_entropy(logits.T, right)) / 2


def _save(joined: _Joined, out: Path) -> None:
    """Write the folder beside its place and move it there whole."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
        try:
            for part in (joined.model, joined.inputs.tokenizer, joined.processor):
                part.save_pretrained(unfinished)
            unfinished.chmod(0o755)
            unfinished.replace(out)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
    except OSError as error:
        raise OutputError(f"{out}: can't be written ({error.strerror or error}).") from error
