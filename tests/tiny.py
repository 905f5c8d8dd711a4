"""Tiny models with random weights, saved as folders in the stock layout: one of every family, made without a network.

Each function writes model, tokenizer and image processor into ``folder``, and returns the folder. Weights depend on
the seed only. Widths of the two towers differ on purpose.
"""

import json
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    BitImageProcessorPil,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTokenizer,
    Dinov2Config,
    Dinov2Model,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
    RobertaTokenizer,
    Siglip2Config,
    Siglip2ImageProcessorPil,
    Siglip2Model,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
)

VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4}
TEXT = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 2}
PICTURE = {"image_size": 32, "patch_size": 8}


def tiny_clip(folder: Path | str, *, seed: int = 0, context: int = 24, legacy_end: bool = False) -> Path:
    """A CLIP: 17 tokens of width 32 and 4 blocks beside width 24 and 3 blocks, 16 features.

    Args:
        folder: is made.
        seed: of the weights.
        context: most tokens of a caption.
        legacy_end: the configuration names the end token wrongly, as OpenAI's first uploads do.
    """
    tokenizer = clip_tokenizer(context)
    end = 2 if legacy_end else tokenizer.eos_token_id
    text = {
        **TEXT,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": context,
        "eos_token_id": end,
        "bos_token_id": tokenizer.bos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = CLIPConfig(text_config=text, vision_config={**VISION, **PICTURE}, projection_dim=16)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return _save(folder, _random(CLIPModel, seed, config), tokenizer, processor)


def tiny_siglip(folder: Path | str, *, seed: int = 0, context: int = 24) -> Path:
    """A SigLIP: 16 tokens, no class token; both towers of width 32, which is also the number of features."""
    tokenizer = siglip_tokenizer(context)
    text = {
        **TEXT,
        "projection_size": 32,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": context,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    config = SiglipConfig(text_config=text, vision_config={**VISION, **PICTURE})
    processor = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    return _save(folder, _random(SiglipModel, seed, config), tokenizer, processor)


def tiny_siglip2(folder: Path | str, *, seed: int = 0, context: int = 24) -> Path:
    """A SigLIP 2 of the NaFlex kind: at most 16 patches of 8 x 8 pixels in a grid of any shape."""
    tokenizer = siglip_tokenizer(context)
    text = {
        **TEXT,
        "projection_size": 32,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": context,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    vision = {**VISION, "num_patches": 16, "patch_size": 8}
    config = Siglip2Config(text_config=text, vision_config=vision)
    processor = Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16)
    return _save(folder, _random(Siglip2Model, seed, config), tokenizer, processor)


def tiny_dual(
    folder: Path | str, *, vision: str = "dinov2", text: str = "bert", seed: int = 0, context: int = 24
) -> Path:
    """Two towers that were joined: ``vision`` "dinov2" or "vit" beside ``text`` "bert" or "roberta"."""
    image_model, processor = _vision(vision, seed)
    text_model, tokenizer = _text(text, seed, context)
    config = VisionTextDualEncoderConfig.from_vision_text_configs(
        image_model.config, text_model.config, projection_dim=16
    )
    torch.manual_seed(seed)
    model = VisionTextDualEncoderModel(config, image_model, text_model)
    return _save(folder, _shake(model, seed), tokenizer, processor)


def tiny_vision(folder: Path | str, *, kind: str = "dinov2", seed: int = 0) -> Path:
    """A vision tower of its own, to be joined: "dinov2" or "vit"."""
    model, processor = _vision(kind, seed)
    return _save(folder, model, None, processor)


def tiny_text(folder: Path | str, *, kind: str = "bert", seed: int = 0, context: int = 24) -> Path:
    """A text tower of its own, to be joined: "bert" or "roberta"."""
    model, tokenizer = _text(kind, seed, context)
    return _save(folder, model, tokenizer, None)


FAMILIES: dict[str, Any] = {
    "clip": tiny_clip,
    "clip-legacy": lambda folder: tiny_clip(folder, legacy_end=True),
    "siglip": tiny_siglip,
    "siglip2": tiny_siglip2,
    "dinov2-bert": tiny_dual,
    "vit-roberta": lambda folder: tiny_dual(folder, vision="vit", text="roberta"),
}


# Tokenizers ---------------------------------------------------------------------------------------------------------


def clip_tokenizer(context: int = 24) -> CLIPTokenizer:
    """CLIP's byte-pair tokenizer over single bytes, its start and end token last in the vocabulary as in CLIP."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(f"{letter}</w>" for letter in alphabet), "th", "the</w>", "do", "dog</w>"]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    merges = [("t", "h"), ("th", "e</w>"), ("d", "o"), ("do", "g</w>")]
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=context)


def siglip_tokenizer(context: int = 24) -> PreTrainedTokenizerFast:
    """Letters, an end token that is also the padding, lower case."""
    letters = ["</s>", "<unk>", *string.ascii_lowercase, *string.digits, *" .,!?'-"]
    backend = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, [], unk_token="<unk>"))
    backend.normalizer = normalizers.Lowercase()
    backend.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A $B </s>", special_tokens=[("</s>", 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=context,
        eos_token="</s>",
        pad_token="</s>",
        unk_token="<unk>",
        model_input_names=["input_ids"],
        padding_side="right",
    )


def bert_tokenizer(context: int = 24) -> BertTokenizer:
    """WordPiece over letters and a few words."""
    letters = [*string.ascii_lowercase, *string.digits, *string.punctuation]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "dog", "cat", "red", "a", *letters]
    tokens = list(dict.fromkeys([*tokens, *(f"##{letter}" for letter in letters)]))
    vocabulary = {token: number for number, token in enumerate(tokens)}
    return BertTokenizer(vocab=vocabulary, model_max_length=context)


def roberta_tokenizer(context: int = 24) -> RobertaTokenizer:
    """Byte-pair tokenizer over single bytes with RoBERTa's special tokens in front."""
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    return RobertaTokenizer(vocab=vocabulary, merges=[], model_max_length=context)


# Parts --------------------------------------------------------------------------------------------------------------


def _vision(kind: str, seed: int) -> tuple[nn.Module, Any]:
    if kind == "vit":
        processor = ViTImageProcessorPil(size={"height": 32, "width": 32})
        return _random(ViTModel, seed, ViTConfig(**VISION, **PICTURE)), processor
    sizes = {key: value for key, value in VISION.items() if key != "intermediate_size"}
    config = Dinov2Config(**sizes, mlp_ratio=2, image_size=56, patch_size=8)  # trained larger than it is used
    processor = BitImageProcessorPil(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32})
    return _random(Dinov2Model, seed, config), processor


def _text(kind: str, seed: int, context: int) -> tuple[nn.Module, Any]:
    if kind == "roberta":
        tokenizer: Any = roberta_tokenizer(context)
        config: Any = RobertaConfig(
            **TEXT, vocab_size=len(tokenizer), max_position_embeddings=context + 2, type_vocab_size=1, pad_token_id=1
        )
        return _random(RobertaModel, seed, config), tokenizer
    tokenizer = bert_tokenizer(context)
    config = BertConfig(**TEXT, vocab_size=len(tokenizer), max_position_embeddings=context)
    return _random(BertModel, seed, config), tokenizer


def _random(kind: Any, seed: int, config: Any) -> Any:
    torch.manual_seed(seed)
    return _shake(kind(config), seed)


def _shake(model: Any, seed: int) -> Any:
    """Weights large enough that every part of the model shows in the features: initial ones hardly do."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in _weights(model):
            scale = 0.1 if weight.dim() < 2 else weight.shape[-1] ** -0.5
            weight.add_(torch.randn(weight.shape, generator=generator), alpha=scale if "logit" not in name else 0.0)
    return model.eval()


def _weights(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return iter(sorted(model.named_parameters()))


def _save(folder: Path | str, model: Any, tokenizer: Any, processor: Any) -> Path:
    folder = Path(folder)
    for part in (model, tokenizer, processor):
        if part is not None:
            part.save_pretrained(folder)
    return folder


def json_values(file: Path) -> Iterator[Any]:
    """Every plain value in a JSON file, however deep."""

    def walk(value: Any) -> Iterator[Any]:
        if isinstance(value, dict | list):
            for inner in value.values() if isinstance(value, dict) else value:
                yield from walk(inner)
        else:
            yield value

    return walk(json.loads(file.read_text(encoding="utf-8")))
