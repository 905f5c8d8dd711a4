"""What learning boxes costs with detectors of real sizes: memory, seconds a step, and that every part of it works.

    python benchmarks/grounding_sizes.py --results results/grounding_sizes.json

Three checkpoint folders are made with random weights, in the layout of the published ones: Grounding DINO and
MM-Grounding-DINO (Swin-T and BERT-base, 900 queries) and OWLv2 (ViT-B/16). On each, the experiment ``grounding_scenes``
learns one task for a few steps, saves it, is loaded again and locates an object; each in a process of its own, so that
its memory is its own. Random weights find nothing, so no figure here says how well.

``step_seconds`` is the median over all steps but the first; ``peak_mb`` the highest resident memory of the whole
process, weights and libraries included.
"""

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from transformers import (
    BertTokenizer,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessorPil,
    GroundingDinoProcessor,
    MMGroundingDinoConfig,
    MMGroundingDinoForObjectDetection,
    Owlv2Config,
    Owlv2ForObjectDetection,
    Owlv2ImageProcessorPil,
    Owlv2Processor,
)

from lpi.backbones.loading import EMBEDDED, load_tokenizer, locate, quiet
from lpi.config import read_experiment
from lpi.data.expressions.scenes import load_scene_expressions
from lpi.evaluation.machine import environment
from lpi.evaluation.memory import PeakMemory
from lpi.evaluation.scheduler import run_experiment
from lpi.methods.checkpoint import load_method
from lpi.storage import read_json, write_json

MODELS = ("grounding-dino", "mm-grounding-dino", "owlv2")
SWIN_T: dict[str, Any] = {
    "model_type": "swin",
    "image_size": 224,
    "patch_size": 4,
    "embed_dim": 96,
    "depths": [2, 2, 6, 2],
    "num_heads": [3, 6, 12, 24],
    "window_size": 7,
    "out_indices": [2, 3, 4],
}
VIT_B16 = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
CLIP_TEXT = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8}
QUICK_VIT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
QUICK_TEXT = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 2}


def spelling_tokenizer() -> BertTokenizer:
    """BERT's own delimiters and size of vocabulary, and letters: as many tokens as an expression has letters."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    names = {number: f"[unused{number}]" for number in range(30_522)}
    names |= {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]", 1012: ".", 1029: "?"}
    names |= {2000 + place: piece for place, piece in enumerate([*letters, *(f"##{letter}" for letter in letters)])}
    return BertTokenizer(vocab={name: number for number, name in names.items()}, model_max_length=256)


def make(name: str, folder: Path, side: int, *, quick: bool = False) -> None:
    """Write a detector with random weights and the sizes of the published one."""
    torch.manual_seed(0)
    model: Any
    processor: Any
    if name == "owlv2":
        tokenizer = load_tokenizer(locate(EMBEDDED))
        tokenizer.model_max_length = 32
        vision, text = (QUICK_VIT, QUICK_TEXT) if quick else (VIT_B16, CLIP_TEXT)
        ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
        config = Owlv2Config(
            vision_config={**vision, "image_size": side, "patch_size": 16},
            text_config={**text, "vocab_size": 49_408, "max_position_embeddings": 32, **ends},
            projection_dim=text["hidden_size"],
        )
        model = Owlv2ForObjectDetection(config)
        processor = Owlv2Processor(Owlv2ImageProcessorPil(size={"height": side, "width": side}), tokenizer)
    else:
        mm = name.startswith("mm")
        kind = MMGroundingDinoConfig if mm else GroundingDinoConfig
        config = kind(backbone_config=SWIN_T, text_config={"model_type": "bert"})
        model = (MMGroundingDinoForObjectDetection if mm else GroundingDinoForObjectDetection)(config)
        images = GroundingDinoImageProcessorPil(size={"shortest_edge": side, "longest_edge": round(side * 1333 / 800)})
        processor = GroundingDinoProcessor(images, spelling_tokenizer())
    with quiet():
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        processor.tokenizer.save_pretrained(folder)
        processor.image_processor.save_pretrained(folder)


def measure(name: str, folder: Path, *, side: int, batch: int, steps: int, quick: bool = False) -> dict[str, Any]:
    """Learn a task for a few steps, save, load and locate; with figures, in this process."""
    memory = PeakMemory()
    make(name, folder / name, side, quick=quick)
    experiment = read_experiment(
        "grounding_scenes",
        [
            f"name={name}",
            f"backbone={folder / name}",
            'stream.families=["food"]',
            f"stream.train={batch * steps}",
            "stream.validation=0",
            "stream.test=1",
            "stream.held_out=0",
            f"training.batch={batch}",
            f"training.steps={steps}",
            "evaluation.batch=1",
            "evaluation.examples=1",
        ],
    )
    ticks = [time.monotonic()]
    losses: list[float] = []

    def note(step: Any) -> None:
        ticks.append(time.monotonic())
        losses.append(step.loss)

    run = run_experiment(experiment, out=folder / "runs", say=lambda line: None, on_step=note)["lpi"][0]
    result = read_json(run / "result.json")
    learner = load_method(run / "model")
    picture = load_scene_expressions(families=["food"], train=0, validation=0, test=1, held_out=0)[0]
    started = time.monotonic()
    ((best, *_),) = learner.locate(picture.picture.open(), [picture.expression], task="food")
    seconds = [after - before for before, after in pairwise(ticks[1:])]
    return {
        "image_size": side,
        "batch": batch,
        "steps": steps,
        "losses": [round(loss, 4) for loss in losses],
        "step_seconds": round(statistics.median(seconds), 3),
        "locate_seconds": round(time.monotonic() - started, 3),
        "peak_mb": memory.megabytes(),
        "parameters": sum(parameter.numel() for parameter in learner.backbone.parameters()),
        "trainable_per_task": result["trainable_per_task"],
        "stored_bytes_per_task": sum(file.stat().st_size for file in (run / "model" / "tasks").glob("*.safetensors")),
        "located": {"box": [round(edge, 1) for edge in best.box], "score": round(best.score, 4), "task": best.task},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--results", type=Path, help="write the figures to this file")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--side", type=int, default=480, help="of the pictures in pixels (published: 800 and 960)")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--one", choices=MODELS, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    sizes = {"side": chosen.side, "batch": chosen.batch, "steps": chosen.steps}
    if chosen.one:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(chosen.one, Path(folder), **sizes)))
        return
    record: dict[str, Any] = {}
    for name in chosen.models:
        words = [word for key, value in sizes.items() for word in (f"--{key}", str(value))]
        done = subprocess.run(
            [sys.executable, __file__, "--one", name, *words], stdout=subprocess.PIPE, text=True, check=True
        )
        record[name] = json.loads(done.stdout.splitlines()[-1])
        print(f"{name}: {record[name]['step_seconds']} s a step, {record[name]['peak_mb']} MB", file=sys.stderr)
    record |= {"command": shlex.join(["python", *sys.argv]), **environment()}
    if chosen.results:
        write_json(chosen.results, record)
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
