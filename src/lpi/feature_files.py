"""Writes what a backbone gives for a stream to a folder, over which methods then run in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lpi.backbones.base import DualEncoder
from lpi.backbones.tower import pooled_states
from lpi.data.features import RECORDS, TENSORS, captions_of, read_features
from lpi.devices import in_full
from lpi.errors import LpiError, OutputError
from lpi.features import text_batches
from lpi.methods.base import chunks
from lpi.prompts.low_rank import TOWERS
from lpi.routing.whitened import WhitenedKeys
from lpi.storage import checksum, write_json, write_tensors
from lpi.tasks.batches import PictureStore
from lpi.tasks.stream import TaskStream


def check_own(folder: Path) -> None:
    """Refuse a folder whose file of records is something else's.

    Raises:
        OutputError: it is, and would be lost.
    """
    if not (folder / RECORDS).exists():
        return
    try:
        read_features(folder)
    except LpiError as error:
        raise OutputError(
            f"{folder / RECORDS} speaks of no features, and would be lost. Name another --out."
        ) from error


@torch.no_grad()
def write_features(stream: TaskStream, backbone: DualEncoder, folder: Path, *, batch: int = 128) -> None:
    """Write what a backbone gives for a stream's pictures and captions; see :mod:`lpi.data.features`.

    Args:
        stream: all its splits.
        backbone: whose features, what closed forms read, and the states that the router ``whitened`` looks at.
        folder: is made; what of it is there is written anew.
        batch: pictures or captions encoded at once.

    Raises:
        OutputError: it can't be written, or holds another program's file of that name.
    """
    check_own(folder)
    parts = [(task.name, split, one) for task in stream.tasks for split, records in task.splits() for one in records]
    parts += [(record.task, "held_out", record) for record in stream.held_out]
    records, usual = [record for *_, record in parts], WhitenedKeys.Options()
    looked = {tower: round(getattr(usual, f"depth_{tower}") * depth) for tower, depth in backbone.depths.items()}

    def rows(tower: str, given: Any, real: Tensor | None) -> Tensor:
        encoder = getattr(backbone, tower)
        with in_full(backbone.device):
            state = encoder.advance(encoder.begin(given), 0, looked[tower])
            look = pooled_states(state.states, state.real if real is None else real)
            return torch.cat([*backbone.with_summary(tower, state), look], dim=1).float().cpu()

    inputs, captions = backbone.inputs, captions_of(records)
    store = PictureStore([record.picture for record in records], inputs.prepare, side=min(inputs.image_size))
    turns = store.in_turn(chunks(range(len(store)), batch))
    vision = torch.cat([rows("vision", inputs.normalise(pixels.to(backbone.device)), None) for pixels in turns])
    batches = text_batches(backbone, captions, batch)
    text = torch.cat([rows("text", words, words.mask) for _, words in batches])
    text = text[torch.tensor([place for places, _ in batches for place in places]).argsort()]
    (folder / RECORDS).unlink(missing_ok=True)  # cut short between the two, no file speaks of the other's rows
    tensors = {"vision": vision, "text": text, "logit_scale": backbone.logit_scale.detach().cpu()}
    write_tensors(folder / TENSORS, tensors)
    pictures = [
        {"name": record.picture.name, "captions": record.captions, "task": task, "split": split}
        for task, split, record in parts
    ]
    write_json(
        folder / RECORDS,
        {
            "of": stream.name,
            "backbone": backbone.identity,
            "features": backbone.feature_width,
            "summary": {tower: backbone.summary_width(tower) for tower in TOWERS},
            "depth": backbone.depths,
            "looked": looked,
            "tensors": checksum(tensors),
            "pictures": pictures,
        },
    )
