"""The embedded detector ``lpi-tiny-grounding``: an OWL-ViT whose towers begin as those of ``lpi-tiny``.

``lpi pretrain grounding`` gives the towers a finer grid of patches and box heads, and teaches them general scenes with
everything that can be said of their objects: by attribute, size, place and relation. A picture goes through its tower
once, whatever number of expressions is asked of it. The general world lacks a part of the kinds, styles, colours and
words of the tasks, so that there is something to learn.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import OwlViTConfig, OwlViTForObjectDetection, OwlViTImageProcessorPil

from lpi.backbones.base import TextInputs
from lpi.backbones.detectors.base import GroundingBackbone
from lpi.backbones.detectors.inputs import PictureInputs
from lpi.backbones.detectors.loading import load_grounding_backbone
from lpi.backbones.loading import EMBEDDED, load_backbone, load_tokenizer, locate, quiet
from lpi.config import TrainingSettings
from lpi.data.expressions.record import ReferringExpression
from lpi.data.expressions.scenes import WAYS, general_expressions
from lpi.data.scenes.supply import DEFAULT_SIDE
from lpi.data.scenes.world import seeded
from lpi.methods.base import NO_LOOKS, Batches, Looks, TaskData, no_batches
from lpi.methods.grounding.losses import FOCAL_ALPHA, WEIGHTS
from lpi.methods.grounding.tuned import GroundingTuned
from lpi.metrics.boxes import cxcywh_to_xyxy, generalised_iou
from lpi.pretrain.phases import finish, learn_phase
from lpi.trainer import OnStep, derived_seed

SETTINGS = TrainingSettings(
    batch=16,
    learning_rate=7e-4,
    weight_decay=0.05,
    warmup=0.05,
    precision="bfloat16",
)
START_SCORE = -4.0  # logit of an untrained box: nearly all of them are wrong
START_SCALE = 10.0  # what cosines are multiplied with at first
START_SIDE = 0.35  # of a box, as a share of the picture's
CENTRE = 0.25  # boxes are learned at patches that lie so near to the middle, as a share of the object's sides


@dataclass(frozen=True)
class TinyDetector:
    """Sizes of the embedded detector beside those of the model that it begins as."""

    image_size: int = 144
    context: int = 32


def untrained(folder: Path, shape: TinyDetector, seed: int, source: str | Path = EMBEDDED) -> None:
    """Write the detector as it begins: the towers of a CLIP with a finer grid, and random heads.

    Args:
        folder: where to.
        shape: sizes.
        seed: of the heads' weights.
        source: the CLIP; its text tower must be as wide as the common space.
    """
    clip: Any = load_backbone(source).model
    tokenizer = load_tokenizer(locate(source))
    tokenizer.model_max_length = shape.context
    text, vision = clip.config.text_config.to_dict(), clip.config.vision_config.to_dict()
    for kept in (text, vision):
        kept.pop("model_type")
    config: Any = OwlViTConfig(
        text_config={**text, "max_position_embeddings": shape.context},
        vision_config={**vision, "image_size": shape.image_size},
        projection_dim=clip.config.projection_dim,
    )
    torch.manual_seed(derived_seed(seed, "weights"))
    model: Any = OwlViTForObjectDetection(config)
    weights = {name.replace("pre_layrnorm", "pre_layernorm"): value for name, value in clip.state_dict().items()}
    grid = shape.image_size // config.vision_config.patch_size
    place, read = "vision_model.embeddings.position_embedding.weight", "text_model.embeddings.position_embedding.weight"
    weights[place] = finer(weights[place], grid)
    weights[read] = weights[read][: shape.context]
    weights = {name: value for name, value in weights.items() if not name.endswith("position_ids")}
    found = model.owlvit.load_state_dict(weights, strict=False)
    assert not found.unexpected_keys, found.unexpected_keys
    begin_heads(model, grid)
    side = {"height": shape.image_size, "width": shape.image_size}
    folder.mkdir(parents=True, exist_ok=True)
    with quiet():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    OwlViTImageProcessorPil(size=side, do_center_crop=False).save_pretrained(folder)


@torch.no_grad()
def begin_heads(model: Any, grid: int) -> None:
    """Heads that begin with a box of a usual size at every patch, and with cosines as scores.

    The library's own initial values are drawn so widely that no box is where its patch is.
    """
    box, score = model.box_head, model.class_head
    for layer in (box.dense0, box.dense1, score.dense0):
        layer.weight.normal_(std=layer.in_features**-0.5)
        layer.bias.zero_()
    for layer in (box.dense2, score.logit_shift, score.logit_scale):
        layer.weight.zero_()
        layer.bias.zero_()
    box.dense2.bias[2:] = math.log(START_SIDE / (1 - START_SIDE)) + math.log(grid - 1)  # the stock bias is one patch
    score.logit_scale.bias.fill_(START_SCALE - 1)
    score.logit_shift.bias.fill_(START_SCORE / START_SCALE)


def finer(positions: Tensor, grid: int) -> Tensor:
    """Positions of a class token and a square of patches, [1 + old * old, width], for a square of ``grid`` patches."""
    old = round((len(positions) - 1) ** 0.5)
    square = positions[1:].T.reshape(1, -1, old, old)
    resized = functional.interpolate(square, size=(grid, grid), mode="bicubic", align_corners=False)
    return torch.cat([positions[:1], resized.flatten(2)[0].T])


@dataclass(frozen=True)
class SceneBatch:
    """Pictures and whatever is asked of them.

    Attributes:
        pictures: of the batch.
        texts: tokens of all expressions.
        owner: the picture of each, int64 [expressions].
        boxes: what each means, [expressions, 4], (centre x, centre y, width, height) in 0..1.
    """

    pictures: PictureInputs
    texts: TextInputs
    owner: Tensor
    boxes: Tensor


class SceneSupply:
    """General scenes without end, drawn as they are needed: an epoch has ``pictures`` that none before it had.

    Args:
        backbone: the detector, whose processor prepares pictures and expressions.
        pictures: how many an epoch has.
        seed: of the scenes.
        each: expressions a picture at most, drawn from all that can be said of it.
    """

    name = "general"

    def __init__(self, backbone: GroundingBackbone, pictures: int, *, seed: int, each: int = 8) -> None:
        self.backbone, self.pictures, self.seed, self.each = backbone, pictures, seed, each

    def __len__(self) -> int:
        return self.pictures

    def data(self, steps: int = 0, batches: Batches = no_batches, looks: Looks = NO_LOOKS) -> TaskData:
        """See :class:`lpi.features.TrainingData`; the learner looks at nothing but the batches."""
        plain: Any = None
        return TaskData(self.name, plain, (), steps, batches)

    def once_more(self, method: Any, settings: TrainingSettings) -> Batches:
        """See :class:`lpi.features.TrainingData`; nobody asks."""
        return no_batches

    def epochs(self, method: Any, settings: TrainingSettings) -> Callable[..., Iterator[SceneBatch]]:
        """See :class:`lpi.features.TrainingData`. Scenes are independent, so their order needs no shuffling."""

        def give(*, seed: int, epoch: int, start: int = 0) -> Iterator[SceneBatch]:
            for first in range(start * settings.batch, self.pictures, settings.batch):
                count = min(settings.batch, self.pictures - first)
                yield self.ready(epoch * self.pictures + first, count)

        return give

    def ready(self, first: int, count: int) -> SceneBatch:
        """Scenes ``first`` to ``first + count - 1`` of the supply as a batch, on the detector's device."""
        asked = [records for records in general_expressions(count, seed=self.seed, first=first) if records]
        device, inputs = self.backbone.device, self.backbone.inputs
        pictures = inputs.pictures([records[0].picture.open(min(inputs.image_size)) for records in asked])
        chosen = [some_of(records, self.each) for records in asked]
        records = [record for of_picture in chosen for record in of_picture]
        texts = inputs.tokenize([record.expression for record in records])
        longest = int(texts.mask.sum(1).max())
        corners = torch.tensor([record.box for record in records]) / DEFAULT_SIDE
        middle, size = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
        return SceneBatch(
            pictures.to(device),
            TextInputs(texts.ids[:, :longest], texts.mask[:, :longest]).to(device),
            torch.repeat_interleave(torch.arange(len(asked)), torch.tensor([len(some) for some in chosen])).to(device),
            torch.cat([middle, size], dim=1).to(device),
        )


def some_of(records: tuple[ReferringExpression, ...], most: int) -> list[ReferringExpression]:
    """At most so many of a picture's expressions; the rarer ways to mean something are taken rather than the others."""
    rng = seeded("asked", records[0].picture.name)
    keys = {number: rng.random() ** (1 / WAYS[record.fields["way"]]) for number, record in enumerate(records)}
    return [records[number] for number in sorted(keys, key=keys.__getitem__, reverse=True)[:most]]


class SceneDetector(GroundingTuned):
    """A detector all of whose weights learn where each expression's object is, many expressions a picture."""

    def loss(self, batch: SceneBatch) -> dict[str, Tensor]:  # type: ignore[override]
        """``place``: which patch it is; ``score``: whether it is that one; ``box`` and ``overlap``: its edges."""
        model: Any = self.tuned.model
        grid = model.image_embedder(pixel_values=batch.pictures.pixels)[0]  # [pictures, rows, columns, width]
        patches = grid.flatten(1, 2)
        boxes = model.box_predictor(patches, grid).float()
        queries = self.tuned.text(batch.texts)  # [expressions, width]
        logits = model.class_predictor(patches, queries[None])[0].float()  # [pictures, patches, expressions]
        own = logits[batch.owner, :, torch.arange(len(queries), device=queries.device)]  # [expressions, patches]
        near = near_middle(batch.boxes, *grid.shape[1:3])
        place = own.logsumexp(1) - own.masked_fill(~near, -torch.inf).logsumexp(1)
        asked, where = near.nonzero(as_tuple=True)
        found, truth = boxes[batch.owner[asked], where], batch.boxes[asked]
        share = (1 / near.sum(1))[asked] / len(near)  # every expression counts the same
        overlap = 1 - torch.vmap(_overlap)(cxcywh_to_xyxy(found), cxcywh_to_xyxy(truth))
        return {
            "place": place.mean(),
            "score": WEIGHTS["alignment"] * focal(own, near),
            "box": WEIGHTS["box"] * (share * (found - truth).abs().sum(1)).sum(),
            "overlap": WEIGHTS["overlap"] * (share * overlap).sum(),
        }


def near_middle(boxes: Tensor, rows: int, columns: int) -> Tensor:
    """The patches near the middle of each box, at least one, bool [boxes, rows * columns]."""
    y = (torch.arange(rows, device=boxes.device) + 0.5) / rows
    x = (torch.arange(columns, device=boxes.device) + 0.5) / columns
    reach_x = (CENTRE * boxes[:, 2]).clamp(min=0.5 / columns + 1e-6)
    reach_y = (CENTRE * boxes[:, 3]).clamp(min=0.5 / rows + 1e-6)
    across = (x - boxes[:, :1]).abs() <= reach_x[:, None]
    down = (y - boxes[:, 1:2]).abs() <= reach_y[:, None]
    return (down[:, :, None] & across[:, None, :]).flatten(1)


def focal(logits: Tensor, right: Tensor) -> Tensor:
    """Focal loss of yes and no, summed over the candidates and divided by the right ones, scalar.

    Paper: Lin et al., Focal Loss for Dense Object Detection (ICCV 2017), with its gamma of 2.
    """
    truth = right.float()
    wrong = (logits.sigmoid() - truth).abs()
    weight = torch.where(right, FOCAL_ALPHA, 1 - FOCAL_ALPHA)
    entropy = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    return (weight * wrong.square() * entropy).sum() / right.sum()


def _overlap(first: Tensor, second: Tensor) -> Tensor:
    return generalised_iou(first[None], second[None])[0, 0]


def pretrain_grounding(
    out: Path,
    *,
    pictures: int = 2_500,
    epochs: int = 24,
    seed: int = 0,
    shape: TinyDetector | None = None,
    source: str | Path = EMBEDDED,
    settings: TrainingSettings = SETTINGS,
    command: str = "lpi pretrain grounding",
    on_step: OnStep | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Train the embedded detector and write it to ``out``.

    Args:
        out: the folder to write.
        pictures: general scenes an epoch, new ones in each.
        epochs: how many.
        seed: of the scenes and the initial weights.
        shape: sizes of the model.
        source: the CLIP that it begins as.
        settings: of the training; epochs are those of ``epochs``.
        command: recorded beside the model.
        on_step: told about every step.
        say: told what is going on.
    """
    begun = time.monotonic()
    start, folder = out / "untrained", out / "general"
    if not (start / "preprocessor_config.json").exists():
        untrained(start, shape or TinyDetector(), seed, source)
    if not (folder / "model.safetensors").exists():
        say(f"general: training goes on in {out} if it is stopped")
        learner = SceneDetector(load_grounding_backbone(start))
        supply = SceneSupply(learner.tuned, pictures, seed=seed)
        chosen = settings.model_copy(update={"epochs": epochs})
        learn_phase(learner, supply, start, folder, out / "progress.pt", settings=chosen, seed=seed, on_step=on_step)
    return finish(out, folder, command, begun)
