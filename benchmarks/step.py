"""How near are a training step and embedding to the least that this machine needs for them?

    python benchmarks/step.py --results results/step.json

Sizes are CLIP ViT-B/16's with random weights: 8 pictures of 224 x 224 pixels, 8 captions of which the longest has 18
tokens beside start and end, 16 prompts in each of the first 9 layers, float32. Every figure is a multiple of a floor.

**The floor** is floating-point work over the matrix-multiply peak:

- Work, forward: for every sample and token, 2 operations a weight of the blocks' matrices (query, key, value, output
  and the two of the MLP; no biases, no norms), plus the two products of attention (QK^T and AV), 4 x tokens^2 x width
  a layer; the causal mask saves nothing of it.
- Not counted: patch and token embedding, pooling, projection, normalisation, softmax, activation, the loss, and the
  few operations that make the prompts.
- A training step is twice the forward work of both towers: weights are frozen, so that backward only passes through
  the activations. (Attention's own backward is twice its forward work; counting it once makes the floor lower.)
- Tokens: 1 + 196 + 16 of a picture, and 2 + 18 + 16 of a caption: each caption is counted as long as the batch's
  longest. Prompts that are added *into* tokens, and no prompts at all, have 16 fewer; their rows have floors of their
  own.
- Peak: the fastest of several ``torch.mm`` in the same run, of the towers' shapes and a large square; the highest
  rate of any repetition. On AMD that is MKL's, and oneDNN, by which the towers compute, is faster: multiples may be
  below 1. ``of_onednn_floor`` has the same with oneDNN's own peak.

**The rows**: ``ours``: `lpi.methods.lpi.LPI`, prompt tokens of their own in every prompted layer (``replace``; at the
text's placeholders), the whole loss of a first task (item and layer level) and backward to the factors. ``stock``: the
same prompts as plain parameters through a loop over the stock modules, text padded to 77 tokens, item loss.
``into``: our default injection. ``frozen``: the frozen model, ours and stock ``get_image_features`` and
``get_text_features`` (padded to 77). ``bfloat16``: ``ours`` under autocast, as multiples of the *float32* floor, and
of its own. ``auto``: what a user gets here, one of the two. ``speedup_over_stock``: seconds of ``stock`` over those of
``auto``. ``authors``, where ``--authors`` names a checkout of their release: the same by their own code
(``authors_step.py``). Tokenising, decoding and the optimiser's step are outside all of them.

Variants are measured in turn, round by round, so that a noisy minute hits all of them; figures are medians of rounds.
"""

import argparse
import json
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from authors_step import authors_work
from tokenizers import pre_tokenizers
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from lpi.backbones.attention import use_own_attention
from lpi.backbones.base import DualEncoder, TextInputs
from lpi.backbones.inputs import PixelRecipe
from lpi.backbones.kernels import has_onednn, linear
from lpi.backbones.loading import make_inputs
from lpi.backbones.towers import text_tower, vision_tower
from lpi.devices import multiplies_bfloat16, settled_precision
from lpi.evaluation.machine import environment
from lpi.losses import item_loss
from lpi.methods import method
from lpi.methods.base import TaskData, TrainingBatch, begin
from lpi.methods.encoder import tokens as tokens_of
from lpi.methods.lpi import LPI
from lpi.storage import write_json
from lpi.trainer import is_wide

Seconds = dict[str, dict[str, list[float]]]
Work = Callable[[], object]
Multiply = Callable[[Tensor, Tensor], Tensor]
PARTS = ("train", "image", "text")


@dataclass(frozen=True)
class Sizes:
    """What is measured: shapes of a model and of a batch."""

    vision: dict[str, int]
    text: dict[str, int]
    features: int
    context: int
    batch: int
    prompts: int
    depth: int
    longest: int
    square: int  # side of the large matrix product

    @property
    def patches(self) -> int:
        return (self.vision["image_size"] // self.vision["patch_size"]) ** 2


CLIP_B16 = Sizes(
    vision={
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "image_size": 224,
        "patch_size": 16,
    },
    text={"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8},
    features=512,
    context=77,
    batch=8,
    prompts=16,
    depth=9,
    longest=18,
    square=4096,
)
TINY = Sizes(
    vision={
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 8,
    },
    text={"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2},
    features=16,
    context=24,
    batch=4,
    prompts=4,
    depth=2,
    longest=6,
    square=128,
)


# The floor ----------------------------------------------------------------------------------------------------------


def forward_work(tower: dict[str, int], tokens: int, batch: int) -> float:
    """Floating-point operations of a tower's blocks; see the top of the file.

    >>> round(forward_work(CLIP_B16.vision, 1 + 196 + 16, 8) / 1e9, 1)
    302.8
    """
    width, inner, layers = tower["hidden_size"], tower["intermediate_size"], tower["num_hidden_layers"]
    weights = 4 * width**2 + 2 * width * inner
    attention = 4 * tokens**2 * width
    return float(batch * layers * (2 * weights * tokens + attention))


def floor_work(sizes: Sizes, *, prompt_tokens: bool) -> dict[str, float]:
    """Floating-point operations of each part."""
    extra = sizes.prompts if prompt_tokens else 0
    image = forward_work(sizes.vision, 1 + sizes.patches + extra, sizes.batch)
    text = forward_work(sizes.text, 2 + sizes.longest + extra, sizes.batch)
    return {"train": 2 * (image + text), "image": image, "text": text}


def products(sizes: Sizes, dtype: torch.dtype, multiply: Multiply = torch.mm) -> list[tuple[float, Work]]:
    """Matrix products whose best rate is the peak, each with its operations."""
    shapes = [(sizes.square, sizes.square, sizes.square)]
    for tower, tokens in ((sizes.vision, 1 + sizes.patches), (sizes.text, 2 + sizes.longest)):
        rows = sizes.batch * (tokens + sizes.prompts)
        width, inner = tower["hidden_size"], tower["intermediate_size"]
        shapes += [(rows, width, width), (rows, width, inner), (rows, inner, width)]
        shapes += [(4 * rows, width, inner)]
    found: list[tuple[float, Work]] = []
    for rows, inner, columns in shapes:
        left, right = torch.randn(rows, inner, dtype=dtype), torch.randn(columns, inner, dtype=dtype)
        found.append((2.0 * rows * inner * columns, lambda a=left, b=right: multiply(a, b.T)))  # type: ignore[misc]
        if rows == sizes.square:
            found.append((2.0 * rows**3, lambda a=left, b=right: multiply(a, b)))  # type: ignore[misc]
    return found


# What is measured ---------------------------------------------------------------------------------------------------


class Frozen:
    """Random frozen features: all that a method wants to see of a task before its first step."""

    def __init__(self, rows: int, features: int) -> None:
        self.image_features = nn.functional.normalize(torch.randn(rows, features), dim=-1)
        self.text_features = nn.functional.normalize(torch.randn(rows, features), dim=-1)


def tokenizer(context: int) -> CLIPTokenizer:
    """CLIP's tokenizer over single letters: a word of one letter is one token."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=context)


def models(sizes: Sizes) -> tuple[DualEncoder, Any]:
    """A backbone of ours and a stock model over the very same random weights."""
    words = tokenizer(sizes.context)
    text = {
        **sizes.text,
        "vocab_size": len(words),
        "max_position_embeddings": sizes.context,
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
    }

    def build() -> Any:
        config: Any = CLIPConfig(text_config=text, vision_config=sizes.vision, projection_dim=sizes.features)
        config._attn_implementation = "sdpa"
        model: Any = CLIPModel(config)
        return model.eval().requires_grad_(False)

    model, stock = build(), build()
    stock.load_state_dict(model.state_dict(), assign=True)
    use_own_attention(model)
    side = sizes.vision["image_size"]
    recipe = PixelRecipe(side, (side, side), 3, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 1 / 255)
    vision_side = vision_tower(model.vision_model, model.visual_projection)
    text_side = text_tower(model.text_model, model.text_projection)
    inputs = make_inputs(text_side, recipe, words)
    ours = DualEncoder(model, vision=vision_side, text=text_side, inputs=inputs, name="random", identity="0" * 16)
    return ours, stock


class StockLoop:
    """Deep prompts through a plain loop over the stock modules, text padded to the whole context."""

    def __init__(self, model: Any, prompts: dict[str, Tensor]) -> None:
        self.model = model
        self.prompts = {tower: nn.Parameter(states.detach().clone()) for tower, states in prompts.items()}

    def image_features(self, pixels: Tensor) -> Tensor:
        vision, prompts = self.model.vision_model, self.prompts["vision"]
        states = vision.embeddings(pixels)
        tokens = states.shape[1]
        for block, layer in enumerate(vision.encoder.layers):
            if block < len(prompts):
                states = torch.cat([states[:, :tokens], prompts[block].expand(len(states), -1, -1)], dim=1)
                states = vision.pre_layrnorm(states) if block == 0 else states
            states = layer(states, attention_mask=None)
        features: Tensor = self.model.visual_projection(vision.post_layernorm(states[:, 0]))
        return nn.functional.normalize(features, dim=-1)

    def text_features(self, ids: Tensor) -> Tensor:
        """Of captions that have placeholder tokens behind the start token, [texts, features]."""
        text, prompts = self.model.text_model, self.prompts["text"]
        embeddings, length = text.embeddings, prompts.shape[1]
        states = embeddings.token_embedding(ids)
        mask = torch.full((ids.shape[1],) * 2, torch.finfo(states.dtype).min).triu(1)[None, None]
        for block, layer in enumerate(text.encoder.layers):
            if block < len(prompts):
                here = prompts[block].expand(len(states), -1, -1)
                states = torch.cat([states[:, :1], here, states[:, 1 + length :]], dim=1)
            if block == 0:
                states = states + embeddings.position_embedding.weight[: ids.shape[1]]
            states = layer(states, attention_mask=mask)
        ends = (ids == text.eos_token_id).int().argmax(dim=-1)
        states = text.final_layer_norm(states)
        return nn.functional.normalize(self.model.text_projection(states[torch.arange(len(ids)), ends]), dim=-1)

    def loss(self, pixels: Tensor, ids: Tensor, positives: Tensor) -> Tensor:
        images, texts = self.image_features(pixels), self.text_features(ids)
        return item_loss(images, texts, positives, logit_scale=self.model.logit_scale.exp())


class Bench:
    """One batch, and everything that is done with it."""

    def __init__(self, sizes: Sizes) -> None:
        torch.manual_seed(0)
        self.sizes = sizes
        self.backbone, self.stock = models(sizes)
        side, batch = sizes.vision["image_size"], sizes.batch
        self.pixels = torch.randn(batch, 3, side, side)
        lengths = [max(2, sizes.longest - 2 * (place % 5)) for place in range(batch)]
        self.captions = [" ".join("a" * length) for length in lengths]
        self.replace = self._learner(injection="replace", start="paper")
        self.into = self._learner(injection="into", start="neutral")
        prompts = self.replace.tower_prompts(0)
        self.loop = StockLoop(self.stock, {tower: prompts[tower].states for tower in ("vision", "text")})
        self.padded = self._padded(self.captions)
        held = [" ".join("x" * sizes.prompts) + " " + caption for caption in self.captions]
        self.placeholders = self._padded(held)
        self._agree()

    def _learner(self, **options: Any) -> LPI:
        sizes = self.sizes
        learner: LPI = method("lpi", self.backbone, length=sizes.prompts, depth=sizes.depth, **options)
        data = TaskData("random", Frozen(sizes.batch, sizes.features), self.captions)
        begin(learner, data, torch.Generator().manual_seed(0))
        return learner

    def _padded(self, captions: list[str]) -> Tensor:
        encoded = self.backbone.inputs.tokenizer(
            captions, padding="max_length", max_length=self.sizes.context, return_tensors="pt"
        )
        ids: Tensor = encoded["input_ids"]
        return ids

    @torch.no_grad()
    def _agree(self) -> None:
        """Ours and the stock loop must compute the same features, or the comparison says nothing."""
        tokens = tokens_of(self.replace, self.captions)
        assert tokens.ids.shape[1] == self.sizes.longest + 2
        pairs = [
            (self.replace.image_features(self.pixels, 0), self.loop.image_features(self.pixels)),
            (self.replace.text_features(tokens, 0), self.loop.text_features(self.placeholders)),
        ]
        for ours, stock in pairs:
            torch.testing.assert_close(ours, stock, rtol=0, atol=1e-4)

    def learner_work(self, learner: LPI, dtype: torch.dtype | None = None) -> dict[str, Work]:
        """Training step and embedding with a method of ours, under autocast if ``dtype`` is given."""
        tokens = tokens_of(learner, self.captions)
        batch = self._training_batch(tokens)

        def cast() -> Any:
            return nullcontext() if dtype is None else torch.autocast("cpu", dtype=dtype)

        def train() -> None:
            with cast():
                loss = torch.stack(list(learner.loss(batch).values())).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            for parameter in learner.trainable():
                parameter.grad = None

        def image() -> Tensor:
            with torch.no_grad(), cast():
                return learner.image_features(self.pixels, 0)

        def text() -> Tensor:
            with torch.no_grad(), cast():
                return learner.text_features(tokens, 0)

        return {"train": train, "image": image, "text": text}

    def _training_batch(self, tokens: TextInputs) -> TrainingBatch:
        rows = self.sizes.batch
        frozen = Frozen(rows, self.sizes.features)
        return TrainingBatch(
            images=self.pixels,
            texts=tokens,
            positives=torch.eye(rows, dtype=torch.bool),
            owner=torch.arange(rows),
            frozen=lambda: (frozen.image_features, frozen.text_features),
        )

    def stock_work(self) -> dict[str, Work]:
        """The same with the loop over stock modules."""
        positives = torch.eye(self.sizes.batch, dtype=torch.bool)

        def train() -> None:
            self.loop.loss(self.pixels, self.placeholders, positives).backward()  # type: ignore[no-untyped-call]
            for parameter in self.loop.prompts.values():
                parameter.grad = None

        def image() -> Tensor:
            with torch.no_grad():
                return self.loop.image_features(self.pixels)

        def text() -> Tensor:
            with torch.no_grad():
                return self.loop.text_features(self.placeholders)

        return {"train": train, "image": image, "text": text}

    def unprompted_work(self) -> dict[str, dict[str, Work]]:
        """Embedding by the frozen model, ours and stock."""
        tokens = self.backbone.inputs.tokenize(self.captions)
        quiet = torch.no_grad()
        ours: dict[str, Work] = {
            "image": quiet(lambda: self.backbone.encode_images(self.pixels)),
            "text": quiet(lambda: self.backbone.encode_texts(tokens)),
        }
        stock: dict[str, Work] = {
            "image": quiet(lambda: self.stock.get_image_features(pixel_values=self.pixels)),
            "text": quiet(lambda: self.stock.get_text_features(input_ids=self.padded)),
        }
        return {"frozen ours": ours, "frozen stock": stock}

    def variants(self, bfloat16: bool, authors: Path | None) -> dict[str, dict[str, Work]]:
        """Everything to measure, by row and part."""
        found = {"ours": self.learner_work(self.replace), "stock": self.stock_work()}
        found |= {"into": self.learner_work(self.into), **self.unprompted_work()}
        if bfloat16:
            found["bfloat16"] = self.learner_work(self.replace, torch.bfloat16)
        if authors is not None:
            found["authors"] = authors_work(authors, self.sizes, self.pixels, self.placeholders)
        return found


# Measuring ----------------------------------------------------------------------------------------------------------


def timed(work: Work) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(
    bench: Bench, rounds: int, bfloat16: bool, authors: Path | None, say: Callable[[str], None]
) -> tuple[Seconds, dict[str, float]]:
    """Seconds of every row and part in every round, and the peak of each type in operations a second."""
    variants = bench.variants(bfloat16, authors)
    types = {"float32": torch.float32} | ({"bfloat16": torch.bfloat16} if bfloat16 else {})
    multiply = {name: products(bench.sizes, dtype) for name, dtype in types.items()}
    if has_onednn():
        multiply["onednn"] = products(bench.sizes, torch.float32, lambda a, b: linear(a, b.T, None))
    for work in [work for parts in variants.values() for work in parts.values()]:
        work()  # the first call allocates and picks kernels
    seconds: Seconds = {row: {part: [] for part in parts} for row, parts in variants.items()}
    peaks = dict.fromkeys(multiply, 0.0)
    for number in range(rounds):
        for name, works in multiply.items():
            for operations, work in works:
                fastest = min(timed(work) for _ in range(3))
                peaks[name] = max(peaks[name], operations / fastest)
        for row, parts in variants.items():
            for part, work in parts.items():
                repeats = 5 if part == "text" else 1  # short ones are the noisiest
                seconds[row][part] += [timed(work) for _ in range(repeats)]
        say(f"round {number + 1}/{rounds}: peak {peaks['float32'] / 1e9:.0f} GFLOP/s")
    return seconds, peaks


def record(sizes: Sizes, seconds: Seconds, peaks: dict[str, float], rounds: int, auto: str) -> dict[str, Any]:
    """All figures, as they are written to the file."""
    with_tokens, without = floor_work(sizes, prompt_tokens=True), floor_work(sizes, prompt_tokens=False)

    def multiples(row: str, work: dict[str, float], peak: str = "float32") -> dict[str, float]:
        parts = seconds[row]
        return {part: round(statistics.median(parts[part]) * peaks[peak] / work[part], 3) for part in parts}

    found: dict[str, Any] = {
        "peak_gflops": round(peaks["float32"] / 1e9, 1),
        "ours": multiples("ours", with_tokens),
        "stock": multiples("stock", with_tokens),
        "into": multiples("into", without),
        "frozen": {side: multiples(f"frozen {side}", without) for side in ("ours", "stock")},
        "bfloat16": None,
        "auto": multiples(auto, with_tokens),
        "speedup_over_stock": {
            part: round(statistics.median(seconds["stock"][part]) / statistics.median(seconds[auto][part]), 3)
            for part in PARTS
        },
        "of_onednn_floor": None,
    }
    if "authors" in seconds:
        found["authors"] = multiples("authors", with_tokens)
    if "onednn" in peaks:
        found["of_onednn_floor"] = {
            "peak_gflops": round(peaks["onednn"] / 1e9, 1),
            "ours": multiples("ours", with_tokens, "onednn"),
            "auto": multiples(auto, with_tokens, "onednn"),
        }
    if "bfloat16" in seconds:
        found["bfloat16"] = {
            **multiples("bfloat16", with_tokens),
            "peak_gflops": round(peaks["bfloat16"] / 1e9, 1),
            "of_own_floor": multiples("bfloat16", with_tokens, "bfloat16"),
        }
    found["floor_gflop"] = {part: round(work / 1e9, 2) for part, work in with_tokens.items()}
    found["floor_gflop_without_prompt_tokens"] = {part: round(work / 1e9, 2) for part, work in without.items()}
    found["seconds"] = {
        row: {
            part: {"median": round(statistics.median(times), 5), "min": round(min(times), 5)}
            for part, times in parts.items()
        }
        for row, parts in seconds.items()
    }
    command = " ".join(["python", "benchmarks/step.py", *map(shlex.quote, sys.argv[1:])])
    return {**found, "rounds": rounds, "command": command, **environment()}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="A training step and embedding as multiples of their floors.")
    parser.add_argument("--results", type=Path, help="also write the figures to this JSON file")
    parser.add_argument("--rounds", type=int, default=7, help="how often everything is measured (default: 7)")
    parser.add_argument("--threads", type=int, help="threads of torch; by default torch's own choice")
    parser.add_argument("--quick", action="store_true", help="tiny sizes and one round: only shows that it runs")
    parser.add_argument("--authors", type=Path, help="also measure the code in this checkout of the authors' release")
    choices = parser.parse_args()
    if choices.rounds < 1:
        parser.error(f"--rounds must be at least 1; got {choices.rounds}")
    if choices.threads is not None:
        torch.set_num_threads(choices.threads)
    sizes, rounds = (TINY, 1) if choices.quick else (CLIP_B16, choices.rounds)

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    bench, here = Bench(sizes), torch.device("cpu")
    seconds, peaks = measure(bench, rounds, multiplies_bfloat16(here), choices.authors, say)
    precision = settled_precision("auto", here, wide=is_wide(bench.replace))
    figures = record(sizes, seconds, peaks, rounds, "ours" if precision == "float32" else precision)
    if choices.results is not None:
        write_json(choices.results, figures)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
