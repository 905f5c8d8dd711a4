"""Tiny detectors with random weights, saved as folders in the stock layout, made without a network; see ``tiny``.

The vocabulary of the BERT kind is padded with unused words, since Grounding DINO has the ids of BERT's delimiters
(101, 102, 1012, 1029) built in.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tiny import _random, _save, clip_tokenizer
from transformers import (
    BertTokenizer,
    CLIPTokenizer,
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
    OwlViTConfig,
    OwlViTForObjectDetection,
    OwlViTImageProcessorPil,
    OwlViTProcessor,
)

WORDS = [
    "the",
    "a",
    "red",
    "blue",
    "small",
    "big",
    "dog",
    "cat",
    "car",
    "man",
    "left",
    "right",
    "of",
    "in",
    "on",
    "with",
    "hat",
    "tree",
    "old",
]
DELIMITERS = {"[CLS]": 101, "[SEP]": 102, "[MASK]": 103, ".": 1012, "?": 1029}
EXPRESSIONS = ("the small red car", "dog", "a man with the old hat left of the tree", "Big Cat")


def phrase_tokenizer(context: int = 64) -> BertTokenizer:
    """WordPiece over a few words and letters, with BERT's own ids for what ends a phrase."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    spoken = ["[PAD]", "[UNK]", *WORDS, *letters, *(f"##{letter}" for letter in letters)]
    spoken = list(dict.fromkeys(spoken))
    vocabulary = {f"[unused{number}]": number for number in range(1040)}
    taken = {number: token for token, number in DELIMITERS.items()}
    taken |= {number if number < 100 else number + 100: token for number, token in enumerate(spoken)}
    vocabulary = {taken.get(number, f"[unused{number}]"): number for number in range(1040)}
    return BertTokenizer(vocab=vocabulary, model_max_length=context)


def swin_bert(**other: Any) -> dict[str, Any]:
    """A configuration: 4 Swin blocks in 3 stages (widths 16, 32, 64) beside 3 BERT blocks of width 24."""
    return {
        "backbone_config": {
            "model_type": "swin",
            "image_size": 64,
            "patch_size": 4,
            "embed_dim": 16,
            "depths": [1, 2, 1],
            "num_heads": [2, 2, 4],
            "window_size": 3,
            "out_indices": [2, 3],
        },
        "text_config": {
            "model_type": "bert",
            "vocab_size": 1040,
            "hidden_size": 24,
            "intermediate_size": 40,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "max_position_embeddings": 64,
        },
        "num_queries": 12,
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
        "num_feature_levels": 3,
        "max_text_len": 64,
        **other,
    }


def tiny_dino(folder: Path | str, *, mm: bool = False, seed: int = 0, **other: Any) -> Path:
    """A Grounding DINO, or an MM-Grounding-DINO; pictures keep their proportions, the shortest side is 48 pixels."""
    config, kind = (
        (MMGroundingDinoConfig, MMGroundingDinoForObjectDetection)
        if mm
        else (GroundingDinoConfig, GroundingDinoForObjectDetection)
    )
    images = GroundingDinoImageProcessorPil(size={"shortest_edge": 48, "longest_edge": 80})
    processor = GroundingDinoProcessor(images, phrase_tokenizer())
    return _save(folder, _random(kind, seed, config(**swin_bert(**other))), processor, None)


def tiny_owl(folder: Path | str, *, version: int = 1, seed: int = 0) -> Path:
    """An OWL-ViT, or an OWLv2: 36 patches of 8 x 8 pixels, widths 32 and 24."""
    tokenizer: CLIPTokenizer = clip_tokenizer(context=16)
    tokenizer.pad_token = "!"  # id 0 in OWL's vocabulary; here a letter as good as any
    text = {
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 16,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": 48,
        "patch_size": 8,
    }
    size = {"height": 48, "width": 48}
    if version == 1:
        config: Any = OwlViTConfig(text_config=text, vision_config=vision, projection_dim=24)
        processor: Any = OwlViTProcessor(OwlViTImageProcessorPil(size=size), tokenizer)
        return _save(folder, _random(OwlViTForObjectDetection, seed, config), processor, None)
    config = Owlv2Config(text_config=text, vision_config=vision, projection_dim=24)
    processor = Owlv2Processor(Owlv2ImageProcessorPil(size=size), tokenizer)
    return _save(folder, _random(Owlv2ForObjectDetection, seed, config), processor, None)


DETECTORS: dict[str, Any] = {
    "grounding-dino": tiny_dino,
    "mm-grounding-dino": lambda folder: tiny_dino(folder, mm=True),
    "owlvit": tiny_owl,
    "owlv2": lambda folder: tiny_owl(folder, version=2),
}


def pictures(count: int = 3) -> list[Image.Image]:
    """Noise of several shapes, one of them grey."""
    drawn = np.random.default_rng(0)
    shapes = [(60, 90), (72, 64), (50, 50)]
    images = [
        Image.fromarray(drawn.integers(0, 256, (*shapes[number % 3], 3), dtype=np.uint8)) for number in range(count)
    ]
    return [*images[:-1], images[-1].convert("L")]


IMAGES = pictures(4)
TRUTH = torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.3, 0.3, 0.2, 0.2], [0.7, 0.6, 0.2, 0.5], [0.5, 0.2, 0.6, 0.2]])
