"""The embedded backbone: a small CLIP that this project trains itself on a part of the embedded world.

``lpi pretrain scenes`` makes a folder in the stock format of ``transformers`` (configuration, weights, tokenizer,
preprocessing) with a card that says how it came about. The general world leaves out a part of the kinds, styles,
places, colours and words that the tasks bring; a shorter second phase shows most of them now and then, and some
never, so that there is something to learn.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from lpi.backbones.loading import load_backbone, quiet
from lpi.config import TrainingSettings
from lpi.data.records import CaptionedImage
from lpi.data.scenes import BROAD, general_scenes
from lpi.pretrain.phases import finish, learn_phase
from lpi.pretrain.positions import AnyPosition, lengthened
from lpi.tasks.stream import Task
from lpi.trainer import OnStep, derived_seed

SETTINGS = TrainingSettings(
    batch=128,
    captions_per_image=2,
    learning_rate=1e-3,
    weight_decay=0.05,
    warmup=0.05,
    precision="bfloat16",
)
START, END = "<|startoftext|>", "<|endoftext|>"


@dataclass(frozen=True)
class TinyShape:
    """Sizes of the embedded backbone. The towers differ in depth and width, as many real pairs do."""

    image_size: int = 96
    patch: int = 12
    vision_width: int = 128
    vision_layers: int = 6
    text_width: int = 128
    text_layers: int = 4
    heads: int = 4
    features: int = 128
    vocabulary: int = 1000
    context: int = 77  # CLIP's


def train_tokenizer(captions: Iterable[str], shape: TinyShape) -> CLIPTokenizer:
    """CLIP's kind of byte-pair tokenizer, learned from captions."""
    model = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    model.pre_tokenizer = pre_tokenizers.Whitespace()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=shape.vocabulary - 2 - 2 * len(alphabet),
        end_of_word_suffix="</w>",
        min_frequency=5,
        show_progress=False,
    )
    model.train_from_iterator((caption.lower() for caption in captions), trainer)
    learned = _merges(model)
    tokens = dict.fromkeys([*alphabet, *(f"{letter}</w>" for letter in alphabet)])
    tokens.update(dict.fromkeys("".join(pair) for pair in learned))
    names = [*tokens, START, END]  # the end token last: CLIP's legacy pooling looks for the highest id
    merges: Any = learned  # its annotation says text, its code wants pairs
    return CLIPTokenizer(
        vocab={token: number for number, token in enumerate(names)}, merges=merges, model_max_length=shape.context
    )


def _merges(model: Tokenizer) -> list[tuple[str, str]]:
    merges = json.loads(model.to_str())["model"]["merges"]
    return [tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in merges]


def untrained(folder: Path, captions: Iterable[str], shape: TinyShape, seed: int) -> None:
    """Write a randomly initialised backbone to a folder, in the stock format."""
    tokenizer = train_tokenizer(captions, shape)
    tokens = len(tokenizer)
    special: dict[str, Any] = {"bos_token_id": tokens - 2, "eos_token_id": tokens - 1, "pad_token_id": tokens - 1}
    torch.manual_seed(derived_seed(seed, "weights"))
    model = CLIPModel(
        CLIPConfig(
            text_config={
                "vocab_size": tokens,
                "hidden_size": shape.text_width,
                "intermediate_size": 4 * shape.text_width,
                "num_hidden_layers": shape.text_layers,
                "num_attention_heads": shape.heads,
                "max_position_embeddings": shape.context,
                "projection_dim": shape.features,
                **special,
            },
            vision_config={
                "hidden_size": shape.vision_width,
                "intermediate_size": 4 * shape.vision_width,
                "num_hidden_layers": shape.vision_layers,
                "num_attention_heads": shape.heads,
                "image_size": shape.image_size,
                "patch_size": shape.patch,
                "projection_dim": shape.features,
            },
            projection_dim=shape.features,
        )
    )
    side = {"height": shape.image_size, "width": shape.image_size}
    processor = CLIPImageProcessorPil(size=side, crop_size=side, do_center_crop=False)
    folder.mkdir(parents=True, exist_ok=True)
    with quiet():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processor.save_pretrained(folder)


def pretrain(
    out: Path,
    *,
    pictures: int = 24_000,
    epochs: int = 8,
    seed: int = 0,
    shape: TinyShape | None = None,
    settings: TrainingSettings = SETTINGS,
    command: str = "lpi pretrain scenes",
    on_step: OnStep | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Train the embedded backbone in two phases and write it to ``out``.

    First the general world; then, half as many pictures for half as many epochs at half the rate, the broad one,
    which shows now and then most of what the general world leaves out. A stopped pre-training goes on where it was
    when started again with the same folder. Each phase's weights are written as float16 and read back.

    Args:
        out: the folder to write.
        pictures: how many different general scenes.
        epochs: passes over them.
        seed: of the scenes, the initial weights and the batches.
        shape: sizes of the model.
        settings: of the training; epochs are those of ``epochs``.
        command: recorded beside the model.
        on_step: told about every step.
        say: told what is going on.
    """
    begun = time.monotonic()
    general = tuple(lengthened(general_scenes(pictures, seed=seed), seed=seed))
    start = out / "untrained"
    if not (start / "preprocessor_config.json").exists():
        untrained(start, (caption for record in general for caption in record.captions), shape or TinyShape(), seed)
    phases: list[tuple[str, Callable[[], tuple[CaptionedImage, ...]], dict[str, float], float]] = [
        ("general", lambda: general, {"epochs": epochs}, 0.0),
        (
            "broad",
            lambda: tuple(lengthened(general_scenes(pictures // 2, seed=seed, world=BROAD), seed=seed)),
            {"epochs": epochs // 2, "learning_rate": settings.learning_rate / 2},
            30.0,  # captions that learned to be read anywhere come to mean the same everywhere
        ),
    ]
    for name, records, changes, steady in phases:
        folder = out / name
        if not (folder / "model.safetensors").exists():
            say(f"{name}: training goes on in {out} if it is stopped")
            phase = settings.model_copy(update=changes)
            learner = AnyPosition(load_backbone(start), AnyPosition.Options(learn_temperature=True, steady=steady))
            shown = records()
            task = Task(name, train=shown, validation=(), test=shown[:1])
            learn_phase(learner, task, start, folder, out / "progress.pt", settings=phase, seed=seed, on_step=on_step)
        start = folder
    return finish(out, start, command, begun)
