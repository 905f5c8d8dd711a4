"""What the checkpoints that README names cost on this machine: memory, and pictures a second from files to vectors.

    python benchmarks/checkpoints.py --results results/checkpoints.json

Nothing is fetched: each has random weights in the real class and the real sizes, which cost the same. Each is loaded
from a folder by a process of its own, which embeds JPEG files of 640 x 480 pixels as ``lpi index`` does; its peak of
resident memory is the whole process's.
"""

from __future__ import annotations

import argparse
import json
import resource
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pipeline import BATCH, cost, draw, embedding
from step import tokenizer
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
)

from lpi.backbones.loading import load_backbone, quiet
from lpi.evaluation.machine import environment
from lpi.storage import write_json

SIDE = {"height": 224, "width": 224}


def clip(folder: Path) -> None:
    """CLIP ViT-B/16."""
    words = tokenizer(77)
    ends = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    with quiet():
        CLIPModel(CLIPConfig(text_config=ends, vision_config={"patch_size": 16})).save_pretrained(folder)
    words.save_pretrained(folder)
    CLIPImageProcessorPil(size=SIDE, crop_size=SIDE).save_pretrained(folder)


def siglip(folder: Path, vocabulary: int = 32_000) -> None:
    """SigLIP base, patches of 16; SigLIP 2's of a fixed size differs in its words."""
    with quiet():
        SiglipModel(
            SiglipConfig(text_config={"vocab_size": vocabulary}, vision_config={"patch_size": 16})
        ).save_pretrained(folder)
    tokenizer(64).save_pretrained(folder)
    SiglipImageProcessorPil(size=SIDE).save_pretrained(folder)


CHECKPOINTS: dict[str, Callable[[Path], None] | None] = {
    "lpi-tiny": None,  # comes along
    "openai/clip-vit-base-patch16": clip,
    "google/siglip-base-patch16-224": siglip,
    "google/siglip2-base-patch16-224": lambda folder: siglip(folder, 256_000),
}


def embed(model: str, photos: Path) -> dict[str, Any]:
    """Embed a folder's files once to warm up, and once that counts."""
    backbone = load_backbone(model)
    paths = sorted(photos.iterdir())
    embedding(backbone, paths[:BATCH])[0]()
    whole, _ = embedding(backbone, paths)
    seconds = cost(whole, len(paths)).wall
    return {
        "numbers": sum(parameter.numel() for parameter in backbone.parameters()),
        "pictures_per_second": round(1 / seconds, 1),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=128)
    parser.add_argument("--results", type=Path, help="also write the figures to this JSON file")
    parser.add_argument("--one", nargs=2, metavar=("MODEL", "PHOTOS"), help=argparse.SUPPRESS)
    choices = parser.parse_args()
    if choices.one is not None:
        print(json.dumps(embed(choices.one[0], Path(choices.one[1]))))
        return
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="lpi-checkpoints-") as work:
        photos = Path(work) / "photos"
        photos.mkdir()
        draw(photos, choices.pictures)
        for number, (name, write) in enumerate(CHECKPOINTS.items()):
            folder = Path(work) / f"model-{number}"
            torch.manual_seed(0)
            if write is not None:
                write(folder)
            model = name if write is None else str(folder)
            words = [sys.executable, __file__, "--one", model, str(photos)]
            done = subprocess.run(words, check=True, capture_output=True, text=True)
            found[name] = json.loads(done.stdout.splitlines()[-1])
            print(name, found[name], file=sys.stderr, flush=True)
    command = " ".join(["python", "benchmarks/checkpoints.py", *map(shlex.quote, sys.argv[1:])])
    record = {"pictures": choices.pictures, "checkpoints": found, "command": command, **environment()}
    if choices.results is not None:
        write_json(choices.results, record)
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
