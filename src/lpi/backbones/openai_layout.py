"""OpenAI's original CLIP checkpoints: the same model under other names, with its sizes to be read from the shapes.

Read are plain state dicts (``.pt``, ``.bin``, ``.safetensors``) and the TorchScript archives that OpenAI published;
open_clip's files have the same names, and an ``open_clip_config.json`` beside them is obeyed. Vision transformers only.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from lpi.backbones.inputs import PixelRecipe
from lpi.backbones.script_archive import is_script, read_script
from lpi.errors import BackboneError
from lpi.reading import UnreadableError, decoded, parse_json, read_bytes, read_gzip

SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")
VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
HEAD_WIDTH = 64  # of every CLIP that OpenAI published; the shapes don't tell
# In blocks, theirs: ours; the fused attention input is cut into three beside these.
BLOCK = {
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
OTHERS = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "logit_scale": "logit_scale",
}
TRANSPOSED = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}


def is_openai_layout(path: Path) -> bool:
    """Whether a folder without ``config.json`` holds a checkpoint file that may be in OpenAI's layout."""
    return not (path / "config.json").exists() and len(_checkpoints(path)) == 1


def load_openai(path: Path) -> tuple[Any, PixelRecipe, Path]:
    """A checkpoint in OpenAI's layout as a stock CLIP.

    Args:
        path: the file, or a folder with this file and no other checkpoint.

    Returns:
        The model in float32, how it wants its pictures, and the folder to look for the tokenizer in.

    Raises:
        BackboneError: the file is damaged, incomplete, or of another model.
    """
    file = path if path.is_file() else _checkpoints(path)[0]
    state = _read(file)
    if "visual.conv1.weight" not in state or "token_embedding.weight" not in state:
        kind = "a ResNet of it" if "visual.layer1.0.conv1.weight" in state else "another model"
        raise BackboneError(
            f"{file}: no CLIP vision transformer in OpenAI's layout, but {kind}, and no config.json is there "
            "to say more. Name a model folder that has one."
        )
    card = _open_clip_card(file.parent)
    config = _config(state, card.get("model_cfg", {}), quick=not card)
    model: Any = CLIPModel(config)
    converted = {name: tensor.float() for name, tensor in _rename(state).items()}
    try:
        missing = model.load_state_dict(converted, strict=False).missing_keys
    except RuntimeError as error:
        raise BackboneError(
            f"{file}: the tensors don't fit together ({str(error).splitlines()[-1].strip()})."
        ) from error
    if missing:
        raise BackboneError(f"{file}: lacks {len(missing)} of a CLIP's tensors, first {missing[0]!r}. Is it complete?")
    side = config.vision_config.image_size
    seen = card.get("preprocess_cfg", {})
    recipe = PixelRecipe(
        resize=side,
        crop=(side, side),
        resample=int(Image.Resampling.BICUBIC),
        mean=tuple(seen.get("mean", MEAN)),
        std=tuple(seen.get("std", STD)),
        factor=1 / 255,
    )
    return model, recipe, file.parent


def openai_tokenizer(file: Path) -> CLIPTokenizer:
    """The tokenizer from OpenAI's own vocabulary file, ``bpe_simple_vocab_16e6.txt.gz``.

    Raises:
        BackboneError: the file is damaged, or another.
    """
    try:
        lines = decoded(read_gzip(file)).split("\n")[1 : 49152 - 256 - 2 + 1]
    except UnreadableError as error:
        raise BackboneError(f"{file} can't be read: {error}. Take it from its publisher again.") from error
    pairs = [tuple(line.split()) for line in lines]
    if any(len(pair) != 2 for pair in pairs):
        raise BackboneError(f"{file}: expected two pieces of words a line. Take it from its publisher again.")
    # bytes in the order of the original: printable ones first, then the others moved behind 255
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(byte) for byte in printable] + [chr(256 + place) for place in range(256 - len(printable))]
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in pairs)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    merges: Any = pairs
    vocabulary = {token: place for place, token in enumerate(tokens)}
    try:
        return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)
    except Exception as error:  # a bare one, where a piece is made of what isn't known
        raise BackboneError(f"{file}: {error}. Take it from its publisher again.") from error


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix in SUFFIXES)


def _read(file: Path) -> Mapping[str, Tensor]:
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        if is_script(file):
            return read_script(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
        reason = str(error).strip().splitlines()
        raise BackboneError(f"{file}: can't be read ({reason[0] if reason else type(error).__name__}).") from error
    except Exception as error:  # pickle's own error, which says at length how to switch the safety off
        raise BackboneError(f"{file}: is no file of weights, or holds more than weights.") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else {}
    return {name.removeprefix("module."): tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}


def _open_clip_card(folder: Path) -> dict[str, Any]:
    file = folder / "open_clip_config.json"
    if not file.exists():
        return {}
    try:
        card = parse_json(read_bytes(file))
    except UnreadableError as error:
        raise BackboneError(f"{file}: not JSON ({error}). Copy the file again.") from error
    return card if isinstance(card, dict) else {}


def _config(state: Mapping[str, Tensor], card: Mapping[str, Any], *, quick: bool) -> Any:
    width, _, patch, _ = state["visual.conv1.weight"].shape
    grid = round((len(state["visual.positional_embedding"]) - 1) ** 0.5)
    vocabulary, text_width = state["token_embedding.weight"].shape
    activation = "quick_gelu" if quick or card.get("quick_gelu", False) else "gelu"
    vision_heads = width // card.get("vision_cfg", {}).get("head_width", HEAD_WIDTH)
    text_heads = card.get("text_cfg", {}).get("heads", text_width // HEAD_WIDTH)
    return CLIPConfig(
        projection_dim=state["text_projection"].shape[1],
        vision_config={
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": _depth(state, "visual.transformer"),
            "num_attention_heads": max(1, vision_heads),
            "image_size": grid * patch,
            "patch_size": patch,
            "hidden_act": activation,
        },
        text_config={
            "hidden_size": text_width,
            "intermediate_size": 4 * text_width,
            "num_hidden_layers": _depth(state, "transformer"),
            "num_attention_heads": max(1, text_heads),
            "max_position_embeddings": len(state["positional_embedding"]),
            "vocab_size": vocabulary,
            "hidden_act": activation,
            "bos_token_id": vocabulary - 2,
            "pad_token_id": vocabulary - 1,
            "eos_token_id": 2,  # transformers' word for: the end is at the largest id, as in the original
        },
    )


def _depth(state: Mapping[str, Tensor], prefix: str) -> int:
    found = {int(m[1]) for name in state if (m := re.match(rf"{re.escape(prefix)}\.resblocks\.(\d+)\.", name))}
    return len(found)


def _rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Theirs to ours; tensors that have no place in the stock model (buffers of sizes and masks) fall out."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        found = re.match(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)", name)
        if name in OTHERS:
            renamed[OTHERS[name]] = tensor
        elif name in TRANSPOSED:
            renamed[TRANSPOSED[name]] = tensor.T
        elif found:
            block = f"{'vision' if found[1] else 'text'}_model.encoder.layers.{found[2]}"
            part, _, kind = found[3].rpartition(".")
            if part in BLOCK:
                renamed[f"{block}.{BLOCK[part]}.{kind}"] = tensor
            elif part == "attn":  # in_proj_weight and in_proj_bias
                for letter, third in zip("qkv", tensor.chunk(3), strict=True):
                    renamed[f"{block}.self_attn.{letter}_proj.{kind.removeprefix('in_proj_')}"] = third
    return renamed
