"""A folder or a hub name -> GroundingBackbone: Grounding DINO, MM-Grounding-DINO, OWL-ViT or OWLv2."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import (
    GroundingDinoForObjectDetection,
    GroundingDinoProcessor,
    MMGroundingDinoForObjectDetection,
    Owlv2ForObjectDetection,
    Owlv2Processor,
    OwlViTForObjectDetection,
    OwlViTProcessor,
)

from lpi.backbones.attention import use_own_attention
from lpi.backbones.detectors.base import EMBEDDED, GroundingBackbone
from lpi.backbones.detectors.inputs import GroundingInputs, PhraseInputs, QueryInputs
from lpi.backbones.detectors.owl import OwlBackbone, clip_part
from lpi.backbones.detectors.swin_bert import PhraseTower, SwinBertBackbone, SwinTower
from lpi.backbones.loading import load_processor, load_stock, load_tokenizer, locate, quiet, read_config
from lpi.backbones.towers import text_tower, vision_tower
from lpi.errors import BackboneError, ConfigError, MissingFileError, did_you_mean

MODELS: dict[str, tuple[Any, Any]] = {  # the model and the processor, by ``model_type``
    "grounding-dino": (GroundingDinoForObjectDetection, GroundingDinoProcessor),
    "mm-grounding-dino": (MMGroundingDinoForObjectDetection, GroundingDinoProcessor),
    "owlv2": (Owlv2ForObjectDetection, Owlv2Processor),
    "owlvit": (OwlViTForObjectDetection, OwlViTProcessor),
}
# What of the configurations decides what is found and can't be seen from the weights.
DECISIVE = (
    "model_type",
    "num_attention_heads",
    "encoder_attention_heads",
    "decoder_attention_heads",
    "num_heads",
    "depths",
    "window_size",
    "patch_size",
    "hidden_act",
    "layer_norm_eps",
    "num_queries",
    "two_stage",
    "positional_embedding_temperature",
)


def load_grounding_backbone(
    source: str | Path, *, image_size: int | None = None, dtype: torch.dtype = torch.float32
) -> GroundingBackbone:
    """A frozen detector that reads expressions.

    Args:
        source: a folder in transformers' layout, the name of a model on the hub, or ``lpi-tiny-grounding``.
        image_size: another size than the checkpoint's processor asks for: the shortest side where proportions are kept
            (the longest moves with it), the side of the square for OWL-ViT and OWLv2.
        dtype: of the weights.

    Raises:
        MissingFileError: a path that leads nowhere.
        BackboneError: no detector that is known here, or its files are absent or damaged.
        ConfigError: ``image_size`` doesn't fit the patches.
    """
    with quiet():
        path = embedded() if str(source) == EMBEDDED else locate(source)
        family = str(read_config(path).get("model_type", ""))
        if family not in MODELS:
            raise BackboneError(
                f"{path}: a model of type {family!r} is no detector that reads expressions. "
                f"{did_you_mean(family, MODELS)}"
            )
        kind, processor_kind = MODELS[family]
        model, _ = load_stock(kind, path)
        images, tokenizer = load_processor(path), load_tokenizer(path)
        if image_size is not None:
            resize(images, image_size)
        processor = processor_kind(images, tokenizer)
        build = _owl if family.startswith("owl") else _swin_bert
        backbone = build(model, processor, str(source))
        # after the identity: the same weights in a smaller type are the same backbone
        return backbone if dtype == torch.float32 else backbone.to(dtype)


def embedded() -> Path:
    """The folder of the detector that comes with the package.

    Raises:
        MissingFileError: its weights aren't there.
    """
    folder = Path(str(resources.files("lpi.backbones") / "lpi_tiny_grounding"))
    if not (folder / "model.safetensors").is_file():
        raise MissingFileError(
            f"{EMBEDDED}: its weights are not in this installation ({folder}). Make them: lpi pretrain grounding --out "
            f"{EMBEDDED}, and name that folder."
        )
    return folder


def resize(images: Any, side: int) -> None:
    """Set the size that an image processor brings pictures to.

    Raises:
        ConfigError: no size at all.
    """
    if side < 1:
        raise ConfigError(f"image_size must be at least 1; got {side}.")
    size = images.size
    kind = type(size)
    if size.height and size.width:
        images.size = kind(height=side, width=side)
    else:
        images.size = kind(shortest_edge=side, longest_edge=round(side * size.longest_edge / size.shortest_edge))


def _swin_bert(model: Any, processor: Any, name: str) -> GroundingBackbone:
    vision, text = model.config.backbone_config.model_type, model.config.text_config.model_type
    if (vision, text) != ("swin", "bert"):
        raise BackboneError(f"{name}: towers must be a swin and a bert; these are {vision!r} and {text!r}.")
    inputs = PhraseInputs(processor, context=min(model.config.max_text_len, int(processor.tokenizer.model_max_length)))
    side = min(inputs.image_size)
    places = places_of(model.config, side)
    if places < model.config.num_queries:
        raise ConfigError(
            f"image_size must give at least the {model.config.num_queries} places that {name} proposes boxes from; "
            f"{side} gives {places}. Take a larger one."
        )
    return SwinBertBackbone(
        model,
        vision=SwinTower(model.model.backbone.conv_encoder.model),
        text=PhraseTower(model.model.text_backbone, model.model.special_tokens),
        inputs=cast(Any, inputs),
        name=name,
        identity=identify(model, inputs, (model.config, model.config.backbone_config, model.config.text_config)),
    )


def places_of(config: Any, side: int) -> int:
    """Places of all maps of a square picture: where a Grounding DINO's proposals come from."""
    swin = config.backbone_config
    width, widths = -(-side // swin.patch_size), {}
    for stage in range(1, len(swin.depths) + 1):
        widths[f"stage{stage}"] = width
        width = -(-width // 2)
    maps = [widths[stage] for stage in swin.out_features]
    while len(maps) < config.num_feature_levels:
        maps.append(-(-maps[-1] // 2))
    return sum(side * side for side in maps)


def _owl(model: Any, processor: Any, name: str) -> GroundingBackbone:
    family, clip = clip_part(model)
    vision, text = (
        vision_tower(clip.vision_model, clip.visual_projection),
        text_tower(clip.text_model, clip.text_projection),
    )
    context = min(text.context, int(processor.tokenizer.model_max_length))
    inputs = QueryInputs(processor, context=context, square=family == "owlv2")
    patch = vision.config.patch_size
    if any(side % patch for side in inputs.image_size):
        raise ConfigError(f"image_size must be a multiple of the patch size {patch}; got {inputs.image_size[0]}.")
    use_own_attention(model)
    return OwlBackbone(
        model,
        vision=vision,
        text=text,
        inputs=cast(Any, inputs),
        name=name,
        identity=identify(model, inputs, (model.config, model.config.vision_config, model.config.text_config)),
    )


def identify(model: nn.Module, inputs: GroundingInputs, configs: tuple[Any, ...]) -> str:
    """16 hexadecimal digits that stand for a detector's weights, its decisive configuration and its preprocessing.

    As for a dual encoder, tensors are hashed without their names, which change between versions of transformers.
    """
    described = [{key: getattr(config, key, None) for key in DECISIVE} for config in configs]
    with ThreadPoolExecutor() as pool:
        hashes = sorted(pool.map(_hashed, model.parameters()))
    text = json.dumps([described, inputs.describe(), hashes], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _hashed(tensor: Tensor) -> str:
    data = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(repr(tuple(data.shape)).encode())
    digest.update(data.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
