"""A training step and embedding by the code of LPI's authors, from a checkout that a person names; see ``step.py``.

The checkout is that of github.com/Kelvin-ywc/LPI; nothing of it comes with this project. Its towers, prompts and losses
run as they are, with random weights of the measured sizes in float32; captions are padded to the whole context, as
there. Tokenising is outside, and so is what it imports for files and pictures: a step doesn't use that, and what of it
isn't installed is stood in for.
"""

import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import torch
from torch import Tensor, nn

UNUSED = ("torchvision", "ftfy", "regex")


class StandIns(MetaPathFinder, Loader):
    """Finds what a step doesn't use, where it isn't installed."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] in UNUSED else None

    def create_module(self, spec: ModuleSpec) -> Any:
        return MagicMock(__path__=[], __spec__=spec)

    def exec_module(self, module: ModuleType) -> None:
        pass


def authors_work(folder: Path, sizes: Any, pixels: Tensor, ids: Tensor) -> dict[str, Callable[[], object]]:
    """What is measured, by part: ``train``, ``image``, ``text``.

    Args:
        folder: of the checkout.
        sizes: those of ``step.py``.
        pixels: [pictures, 3, height, width].
        ids: of captions with placeholders behind the start token, [captions, context].
    """
    if not (folder / "retrieval" / "models" / "slinet.py").is_file():
        raise SystemExit(
            f"{folder} is no checkout of github.com/Kelvin-ywc/LPI: retrieval/models/slinet.py is missing."
        )
    sys.path.insert(0, str(folder / "retrieval"))
    sys.meta_path.append(StandIns())  # behind the others: what is installed is taken
    theirs, clip, reading = (
        importlib.import_module(f"models.{name}") for name in ("slinet", "clip.model", "clip.prompt_learner")
    )
    see, read, width = sizes.vision, sizes.text, sizes.text["hidden_size"]
    visual = clip.VisionTransformer(
        *(see[key] for key in ("image_size", "patch_size", "hidden_size", "num_hidden_layers", "num_attention_heads")),
        sizes.features,
    )
    unseen = torch.full((sizes.context, sizes.context), float("-inf")).triu_(1)
    text = reading.TextEncoder(
        SimpleNamespace(
            transformer=clip.Transformer(width, read["num_hidden_layers"], read["num_attention_heads"], unseen),
            positional_embedding=0.01 * torch.randn(sizes.context, width),
            ln_final=clip.LayerNorm(width),
            text_projection=width**-0.5 * torch.randn(width, sizes.features),
            dtype=torch.float32,
        )
    )
    visual.requires_grad_(False), text.requires_grad_(False)
    net = theirs.SliNet.__new__(theirs.SliNet)
    nn.Module.__init__(net)
    net.args, net.numtask, net.logit_scale = {"prompt_type": "lpi"}, 1, torch.tensor(100.0).log()
    net.loss, net.alignment_loss = theirs.ClipLoss(), theirs.ClipLoss()
    net.prompts = theirs.DecomposedPrompt(sizes.depth, sizes.prompts, see["hidden_size"], width)
    embedded = 0.02 * torch.randn(*ids.shape, width)

    def image(prompts: Tensor) -> Tensor:
        return nn.functional.normalize(visual(pixels, prompts.expand(len(pixels), -1, -1, -1)), dim=-1)

    def words(prompts: Tensor) -> Tensor:
        prompts = prompts.expand(len(ids), -1, -1, -1)
        whole = torch.cat([embedded[:, :1], prompts[:, 0], embedded[:, 1 + sizes.prompts :]], dim=1)
        return nn.functional.normalize(text(whole, ids, prompts), dim=-1)

    def train() -> None:
        seen, said = net.prompts()
        losses = net.cal_loss(image(seen), words(said), seen, said)["loss"]
        sum(losses.values()).backward()
        net.prompts.zero_grad(set_to_none=True)

    with torch.no_grad():
        seen, said = net.prompts()
    quiet = torch.no_grad()
    return {"train": train, "image": quiet(lambda: image(seen)), "text": quiet(lambda: words(said))}
