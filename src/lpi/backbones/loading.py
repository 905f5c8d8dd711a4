"""A folder or a hub name -> DualEncoder: CLIP-like models, or any vision tower beside any text tower."""

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    CLIPModel,
    Siglip2Model,
    SiglipModel,
    VisionTextDualEncoderModel,
)
from transformers.utils import logging as transformers_logging

from lpi.backbones.attention import use_own_attention
from lpi.backbones.base import DualEncoder, Tower
from lpi.backbones.features import load_feature_backbone
from lpi.backbones.inputs import Inputs, PixelRecipe
from lpi.backbones.openai_layout import VOCABULARY, is_openai_layout, load_openai, openai_tokenizer
from lpi.backbones.towers import Siglip2VisionTower, SiglipTextTower, text_tower, vision_tower
from lpi.data.features import RECORDS
from lpi.devices import pick_device
from lpi.errors import BackboneError, ConfigError, MissingFileError, did_you_mean, kind_of
from lpi.reading import UnreadableError, parse_json, read_bytes

# Untyped in transformers.
logging: Any = transformers_logging
image_processors: Any = AutoImageProcessor

MODELS: dict[str, Any] = {
    "clip": CLIPModel,
    "siglip": SiglipModel,
    "siglip2": Siglip2Model,
    "vision-text-dual-encoder": VisionTextDualEncoderModel,
}
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt", "spiece.model")
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
# What of a configuration decides the features and can't be seen from the weights.
DECISIVE = ("model_type", "num_attention_heads", "hidden_act", "layer_norm_eps", "patch_size", "eos_token_id")

EMBEDDED = "lpi-tiny"
"""The name of the backbone that comes with the package."""


def load_backbone(
    source: str | Path,
    *,
    image_size: int | None = None,
    dtype: torch.dtype = torch.float32,
    tokenizer: str | Path | None = None,
    device: str = "cpu",
) -> DualEncoder:
    """A frozen backbone.

    Args:
        source: a folder in transformers' layout, the name of a model on the hub, a checkpoint file in OpenAI's
            original layout (``.pt``, ``.bin`` or ``.safetensors``), or a folder of features (``lpi features``).
        image_size: side of the pictures in pixels, where it shall not be the checkpoint's own; positions are
            interpolated.
        dtype: of the weights in memory.
        tokenizer: folder or name of the tokenizer, where it isn't beside the weights.
        device: where it shall be: ``cpu``, ``cuda``, ``auto``.

    Raises:
        MissingFileError: there is no such folder or file.
        BackboneError: what is there can't serve as a backbone; the message says why.
        ConfigError: ``image_size`` doesn't fit the patches, there is no such device, or ``source`` is no path.
    """
    if not isinstance(source, str | PathLike) or not str(source).strip():
        raise ConfigError(f"a backbone is a folder, a file or a name on the hub; got {kind_of(source)}.")
    if image_size is not None and (not isinstance(image_size, int) or isinstance(image_size, bool) or image_size < 1):
        raise ConfigError(f"image_size must be a whole number of pixels; got {kind_of(image_size)}.")
    place = pick_device(device)
    with quiet():
        path = locate(source)
        if (path / RECORDS).is_file():
            return load_feature_backbone(path).to(place)
        if path.is_file() or is_openai_layout(path):
            model, recipe, beside = load_openai(path)
        else:
            model, recipe, beside = _load_model(path), PixelRecipe.from_processor(load_processor(path)), path
        vision = vision_tower(model.vision_model, getattr(model, "visual_projection", None))
        text = text_tower(model.text_model, getattr(model, "text_projection", None))
        _check_pooled(vision, text)
        if image_size is not None:
            recipe = recipe.at(image_size)
        check_size(vision, recipe)
        inputs = make_inputs(text, recipe, load_tokenizer(beside if tokenizer is None else locate(tokenizer)))
        use_own_attention(model)
        backbone = DualEncoder(
            model, vision=vision, text=text, inputs=inputs, name=str(source), identity=identify(model, inputs)
        )
        # After the identity: the same weights in a smaller type are the same backbone.
        return (backbone if dtype == torch.float32 else backbone.to(dtype)).to(place)


def locate(source: str | Path) -> Path:
    """The local folder or file of a model; one on the hub is downloaded first.

    Raises:
        MissingFileError: a path that leads nowhere.
        BackboneError: the hub has no such model, or can't be reached.
    """
    if str(source) == EMBEDDED:
        return Path(str(resources.files("lpi.backbones") / "lpi_tiny"))
    path = Path(source).expanduser()
    if path.exists():
        return path
    name = str(source)
    if isinstance(source, Path) or name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name:
        raise MissingFileError(f"{source}: there is no such model folder. Check the path.")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.txt", "*.model", "*.safetensors", "*.bin"]))
    except Exception as error:  # the hub's client raises from several libraries, by what went wrong
        raise BackboneError(
            f"{name!r} is neither a folder here nor a model that the hub gives ({_first_line(error)}). "
            "Give the path of a model folder, or connect to the network."
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' own messages and progress bars from the user: what matters, this library says itself."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def make_inputs(text: Tower, recipe: PixelRecipe, tokenizer: Any) -> Inputs:
    """The inputs of a backbone: the context is what both tokenizer and positions allow."""
    context = min(text.context, int(tokenizer.model_max_length))
    whole = isinstance(text, SiglipTextTower)  # the pooled token is the last of the context, padding or not
    return Inputs(recipe, tokenizer, context=context, whole_context=whole)


def load_tokenizer(path: Path) -> Any:
    """The tokenizer in a folder.

    Raises:
        BackboneError: there is none, or it is damaged.
    """
    if (path / VOCABULARY).exists():
        return openai_tokenizer(path / VOCABULARY)
    if not any((path / name).exists() for name in TOKENIZERS):
        raise BackboneError(
            f"{path}: no tokenizer (looked for {', '.join(TOKENIZERS[:3])}, ...). "
            "Copy the checkpoint's tokenizer files there, or name their folder with tokenizer=."
        )
    try:
        return AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever its files make the library raise
        raise BackboneError(f"{path}: the tokenizer can't be read ({_first_line(error)}).") from error


def identify(model: nn.Module, inputs: Inputs) -> str:
    """16 hexadecimal digits that stand for a model's weights, its decisive configuration and its preprocessing.

    Tensors are hashed one by one and their hashes sorted, without their names: transformers renames modules between
    versions, and a backbone must be recognised nonetheless.
    """
    config: Any = model.config
    towers = [
        {key: getattr(part, key, None) for key in DECISIVE} for part in (config.vision_config, config.text_config)
    ]
    with ThreadPoolExecutor() as pool:  # hashing lets other threads run
        hashes = sorted(pool.map(_hash_tensor, model.parameters()))
    described = json.dumps([towers, inputs.describe(), hashes], sort_keys=True)
    return hashlib.sha256(described.encode()).hexdigest()[:16]


def _hash_tensor(tensor: torch.Tensor) -> str:
    data = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(repr(tuple(data.shape)).encode())
    digest.update(data.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _load_model(path: Path) -> Any:
    config = read_config(path)
    family = config.get("model_type", "")
    if family not in MODELS:
        raise BackboneError(f"{path}: a model of type {family!r} is no dual encoder. {did_you_mean(family, MODELS)}")
    return load_stock(MODELS[family], path)[0]


def read_config(path: Path) -> dict[str, Any]:
    """A model folder's ``config.json``.

    Raises:
        BackboneError: there is none, or it isn't JSON.
    """
    file = path / "config.json"
    if not file.exists():
        raise BackboneError(f"{path}: no config.json, so this is no model folder. Name the folder that has it.")
    try:
        config = parse_json(read_bytes(file))
    except UnreadableError as error:
        raise BackboneError(f"{file}: not JSON ({error}). Copy the file again.") from error
    if not isinstance(config, dict):
        raise BackboneError(f"{file}: expected an object; got a {type(config).__name__}. Copy the file again.")
    return config


def check_config(config: Any, path: Path) -> None:
    """Refuse a configuration, nested ones included, that names code to be fetched and run.

    Raises:
        BackboneError: it does.
    """
    waiting = [config]
    while waiting:
        for key, value in waiting.pop().items():
            if isinstance(value, dict):
                waiting.append(value)
            elif key.endswith("_implementation") and isinstance(value, str) and "/" in value:
                raise BackboneError(
                    f"{path}/config.json asks for the code {value[:80]!r} from the hub. Remove {key!r}."
                )


def load_stock(kind: Any, path: Path, *, optional: str | None = None) -> tuple[Any, list[str]]:
    """A stock model in float32 from a folder, with no tensor left to chance.

    Args:
        kind: the class.
        path: the folder.
        optional: tensors whose names begin so may be absent.

    Returns:
        The model, and the names of the optional tensors that are absent (and random now).

    Raises:
        BackboneError: weights are absent, damaged, incomplete, or of other shapes than the configuration says.
    """
    check_config(read_config(path), path)
    if not any((path / name).exists() for name in WEIGHTS):
        raise BackboneError(f"{path}: no weights (looked for {', '.join(WEIGHTS[::2])}).")
    try:
        model, report = kind.from_pretrained(
            path,
            local_files_only=True,
            trust_remote_code=False,  # unsaid, it would ask the person at the keyboard
            dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:  # damaged files make several libraries raise errors of their own
        raise BackboneError(f"{path}: the model can't be loaded ({_first_line(error)}).") from error
    absent = sorted(report["missing_keys"])
    missing = [name for name in absent if optional is None or not name.startswith(optional)]
    if missing:
        raise BackboneError(
            f"{path}: the weights lack {len(missing)} tensors that config.json asks for, first {missing[0]!r}. "
            "Is the file of another model, or incomplete?"
        )
    return model, absent


def load_processor(path: Path) -> Any:
    """The image processor in a folder, in its PIL form.

    Raises:
        BackboneError: there is none, or it is damaged.
    """
    if not any((path / name).exists() for name in PROCESSORS):
        raise BackboneError(
            f"{path}: no preprocessor_config.json, which says how pictures are resized and normalised. "
            "Copy the checkpoint's own there."
        )
    try:
        return image_processors.from_pretrained(path, local_files_only=True, trust_remote_code=False, backend="pil")
    except Exception as error:  # whatever its files make the library raise
        raise BackboneError(f"{path}: the image processor can't be read ({_first_line(error)}).") from error


def _check_pooled(vision: Tower, text: Tower) -> None:
    for tower in (vision, text):
        if tower.pooler is not None and getattr(tower.module, tower.pooler, None) is None:
            raise BackboneError(
                f"The {type(tower.module).__name__} has no {tower.pooler}, so it gives no features of whole "
                "pictures or texts. Use a checkpoint that has one."
            )


def check_size(vision: Tower, recipe: PixelRecipe) -> None:
    """Refuse pictures that the vision tower can't cut into patches.

    Raises:
        ConfigError: their size is no multiple of the patch's.
        BackboneError: one of the two wants patches, and the other doesn't.
    """
    patch = vision.module.config.patch_size
    if any(side % patch for side in recipe.size):
        raise ConfigError(
            f"image_size must be a multiple of the patch size {patch}; got {recipe.size[0]} x {recipe.size[1]}."
        )
    if isinstance(vision, Siglip2VisionTower) != (recipe.patch is not None):
        raise BackboneError("The image processor and the vision tower disagree on whether pictures come as patches.")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
