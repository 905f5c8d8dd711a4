"""A stock CLIP written in OpenAI's original layout and read back gives the same features."""

import gzip
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel

from lpi.backbones import TowerPrompts, load_backbone
from lpi.backbones.openai_layout import VOCABULARY, openai_tokenizer
from lpi.errors import BackboneError


def original_names(model: CLIPModel) -> dict[str, Tensor]:
    """The state dict that OpenAI's own code would have written for this model, spelled out here a second time."""
    ours, theirs = model.state_dict(), {}

    def copy(to: str, source: str) -> None:
        theirs[to] = ours[source].contiguous()

    for side, prefix in (("vision", "visual."), ("text", "")):
        for block in range(getattr(model.config, f"{side}_config").num_hidden_layers):
            new, old = f"{prefix}transformer.resblocks.{block}", f"{side}_model.encoder.layers.{block}"
            for kind in ("weight", "bias"):
                parts = [ours[f"{old}.self_attn.{letter}_proj.{kind}"] for letter in "qkv"]
                theirs[f"{new}.attn.in_proj_{kind}"] = torch.cat(parts)
                copy(f"{new}.attn.out_proj.{kind}", f"{old}.self_attn.out_proj.{kind}")
                copy(f"{new}.ln_1.{kind}", f"{old}.layer_norm1.{kind}")
                copy(f"{new}.ln_2.{kind}", f"{old}.layer_norm2.{kind}")
                copy(f"{new}.mlp.c_fc.{kind}", f"{old}.mlp.fc1.{kind}")
                copy(f"{new}.mlp.c_proj.{kind}", f"{old}.mlp.fc2.{kind}")
    for kind in ("weight", "bias"):
        copy(f"visual.ln_pre.{kind}", f"vision_model.pre_layrnorm.{kind}")
        copy(f"visual.ln_post.{kind}", f"vision_model.post_layernorm.{kind}")
        copy(f"ln_final.{kind}", f"text_model.final_layer_norm.{kind}")
    copy("visual.class_embedding", "vision_model.embeddings.class_embedding")
    copy("visual.conv1.weight", "vision_model.embeddings.patch_embedding.weight")
    copy("visual.positional_embedding", "vision_model.embeddings.position_embedding.weight")
    copy("token_embedding.weight", "text_model.embeddings.token_embedding.weight")
    copy("positional_embedding", "text_model.embeddings.position_embedding.weight")
    copy("logit_scale", "logit_scale")
    theirs["visual.proj"] = ours["visual_projection.weight"].T.contiguous()
    theirs["text_projection"] = ours["text_projection.weight"].T.contiguous()
    return theirs


@pytest.fixture(scope="module")
def model() -> CLIPModel:
    tokenizer = tiny.clip_tokenizer()
    config = CLIPConfig(
        projection_dim=16,
        # heads are 64 wide in this layout
        vision_config={
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
        },
        text_config={
            "hidden_size": 64,
            "intermediate_size": 256,
            "num_hidden_layers": 3,
            "num_attention_heads": 1,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 24,
            "eos_token_id": tokenizer.eos_token_id,
        },
    )
    torch.manual_seed(0)
    return tiny._shake(CLIPModel(config), 0).requires_grad_(False)


class Holder(nn.Module):
    """Holds tensors under dotted names, so that it can be scripted as OpenAI's archives were."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        groups: dict[str, dict[str, Tensor]] = {}
        for name, tensor in state.items():
            head, _, rest = name.partition(".")
            if rest:
                groups.setdefault(head, {})[rest] = tensor
            else:
                self.register_buffer(head, tensor)
        for head, inner in groups.items():
            setattr(self, head, Holder(inner))

    def forward(self) -> int:
        return 0


def write(state: dict[str, Tensor], file: Path, kind: str) -> None:
    if kind == "script":
        torch.jit.script(Holder(state)).save(str(file))
    elif file.suffix == ".safetensors":
        save_file(state, file)
    else:
        torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, file)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
@pytest.mark.parametrize(
    ("name", "kind"),
    [("clip.pt", "plain"), ("clip.bin", "plain"), ("clip.safetensors", "plain"), ("clip.pt", "script")],
)
def test_features_equal_the_stock_model(name: str, kind: str, model: CLIPModel, tmp_path: Path) -> None:
    write(original_names(model), tmp_path / name, kind)
    tiny.clip_tokenizer().save_pretrained(tmp_path)
    backbone = load_backbone(tmp_path / name)
    pixels, texts = torch.randn(2, 3, 32, 32), backbone.inputs.tokenize(["the dog", "a cat on a mat"])
    expected = model.get_text_features(texts.ids, attention_mask=texts.mask).pooler_output
    assert (backbone.encode_texts(texts) - expected).abs().max() <= 1e-6
    assert (backbone.encode_images(pixels) - model.get_image_features(pixels).pooler_output).abs().max() <= 1e-6
    assert backbone.inputs.image_size == (32, 32)
    assert backbone.inputs.context == 24


def test_a_folder_with_the_file_and_its_tokenizer_is_enough(model: CLIPModel, tmp_path: Path) -> None:
    write(original_names(model), tmp_path / "ViT-tiny.pt", "plain")
    tokenizer = tmp_path / "elsewhere"
    tiny.clip_tokenizer().save_pretrained(tokenizer)
    with pytest.raises(BackboneError, match=r"no tokenizer .*tokenizer="):
        load_backbone(tmp_path)
    backbone = load_backbone(tmp_path, tokenizer=tokenizer)
    prompts = TowerPrompts(torch.randn(2, 3, 128), (0, 1), "replace")
    assert backbone.encode_images(torch.randn(1, 3, 32, 32), prompts).shape == (1, 16)


def test_an_incomplete_file_is_refused_with_the_first_tensor_that_is_not_there(
    model: CLIPModel, tmp_path: Path
) -> None:
    state = original_names(model)
    del state["visual.ln_post.bias"]
    write(state, tmp_path / "clip.pt", "plain")
    with pytest.raises(BackboneError, match=r"lacks 1 of a CLIP's tensors.*post_layernorm\.bias"):
        load_backbone(tmp_path / "clip.pt")


def test_a_file_of_another_model_or_of_more_than_weights_is_refused(tmp_path: Path) -> None:
    torch.save({"layer.weight": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(BackboneError, match=r"other\.pt: no CLIP vision .* another model, and no config"):
        load_backbone(tmp_path / "other.pt")
    torch.save({"visual.layer1.0.conv1.weight": torch.zeros(2)}, tmp_path / "resnet.pt")
    with pytest.raises(BackboneError, match="a ResNet of it"):
        load_backbone(tmp_path / "resnet.pt")
    torch.save(Holder({"a": torch.zeros(2)}), tmp_path / "code.pt")
    with pytest.raises(BackboneError, match=r"code\.pt: is no file of weights"):
        load_backbone(tmp_path / "code.pt")
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    with pytest.raises(BackboneError, match=r"broken\.safetensors: can't be read"):
        load_backbone(tmp_path / "broken.safetensors")


def test_the_original_vocabulary_file_makes_clip_s_tokenizer(tmp_path: Path) -> None:
    merges = ["t h", "th e</w>", "d o", "do g</w>"]
    with gzip.open(tmp_path / VOCABULARY, "wt", encoding="utf-8") as file:
        file.write("\n".join(["#version: 0.2", *merges]))
    tokenizer = openai_tokenizer(tmp_path / VOCABULARY)
    ids = tokenizer("The dog!")["input_ids"]
    # 256 bytes, 256 bytes at a word's end, four merges, start and end; bytes from "!" on
    assert ids == [516, 513, 515, 256, 517]
    assert tokenizer.model_max_length == 77


@pytest.mark.parametrize(
    "content",
    [b"no gzip", gzip.compress(b"#version\nt h\nthree of them\n"), gzip.compress(b"\xff")],
    ids=["no gzip", "three pieces", "no utf-8"],  # packed bytes have the time in them: every process names them anew
)
def test_a_vocabulary_file_that_is_damaged_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / VOCABULARY).write_bytes(content)
    with pytest.raises(BackboneError, match=r"gz.*(can't be read|two pieces of words a line).*Take it from"):
        openai_tokenizer(tmp_path / VOCABULARY)


def test_a_piece_of_a_word_that_is_made_of_unknown_ones_is_one_line(tmp_path: Path) -> None:
    (tmp_path / VOCABULARY).write_bytes(gzip.compress(b"#version\nth e</w>"))
    with pytest.raises(BackboneError, match=r"out of vocabulary.*Take it from its publisher"):
        openai_tokenizer(tmp_path / VOCABULARY)
