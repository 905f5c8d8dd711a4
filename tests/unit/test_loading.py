"""Folders that load, and one clear line for each that doesn't."""

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from lpi.backbones import loading
from lpi.backbones.loading import identify, load_backbone
from lpi.errors import BackboneError, ConfigError, MissingFileError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.tiny_clip(tmp_path / "clip")


def edit(file: Path, **changes: object) -> None:
    content = json.loads(file.read_text())
    content.update(changes)
    file.write_text(json.dumps(content))


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_family_loads_frozen_and_says_what_it_is(family: str, tmp_path: Path) -> None:
    backbone = load_backbone(tiny.FAMILIES[family](tmp_path / family))
    assert not backbone.training
    assert not any(weight.requires_grad for weight in backbone.parameters())
    assert backbone.widths == {"vision": 32, "text": 24}
    assert backbone.depths == {"vision": 4, "text": 3}
    assert backbone.feature_width == (32 if family.startswith("siglip") else 16)
    assert backbone.logit_scale.shape == ()
    assert (backbone.logit_bias is not None) == family.startswith("siglip")
    assert backbone.name == str(tmp_path / family)
    assert backbone.inputs.context == 24
    assert backbone.inputs.image_size == (32, 32)
    assert backbone.encode_texts(backbone.inputs.tokenize(["dog"])).shape == (1, backbone.feature_width)


def test_identity_is_the_same_for_the_same_model_and_for_it_in_another_type(folder: Path, tmp_path: Path) -> None:
    first = load_backbone(folder)
    assert len(first.identity) == 16
    assert int(first.identity, 16) >= 0
    assert load_backbone(folder).identity == first.identity
    assert load_backbone(folder, dtype=torch.bfloat16).identity == first.identity
    assert load_backbone(tiny.tiny_clip(tmp_path / "again")).identity == first.identity


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: edit(folder / "preprocessor_config.json", image_mean=[0.5, 0.5, 0.5]),
        lambda folder: edit(folder / "tokenizer_config.json", model_max_length=20),
        lambda folder: edit(
            folder / "config.json",
            text_config={**json.loads((folder / "config.json").read_text())["text_config"], "num_attention_heads": 4},
        ),
        lambda folder: save_file(
            {
                name: tensor + (1e-6 if name == "logit_scale" else 0)
                for name, tensor in load_file(folder / "model.safetensors").items()
            },
            folder / "model.safetensors",
            metadata={"format": "pt"},
        ),
    ],
    ids=["mean", "context", "heads", "one weight"],
)
def test_identity_changes_with_anything_that_changes_features(change: Callable[[Path], None], folder: Path) -> None:
    before = load_backbone(folder).identity
    change(folder)
    assert load_backbone(folder).identity != before


def test_identity_of_100_megabytes_takes_less_than_half_a_second() -> None:
    class Config:
        vision_config = text_config = None

    class Inputs:
        def describe(self) -> dict[str, int]:
            return {}

    model = torch.nn.Sequential(*(torch.nn.Linear(1024, 1024) for _ in range(25)))
    model.config = Config()  # type: ignore[assignment]
    times = []
    for _ in range(3):
        start = time.perf_counter()
        identify(model, Inputs())  # type: ignore[arg-type]
        times.append(time.perf_counter() - start)
    assert min(times) < 0.5


def test_weights_in_half_precision_load_as_float32_or_as_asked(folder: Path) -> None:
    weights = {name: tensor.half() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    edit(folder / "config.json", dtype="float16")
    assert {weight.dtype for weight in load_backbone(folder).parameters()} == {torch.float32}
    assert {weight.dtype for weight in load_backbone(folder, dtype=torch.bfloat16).parameters()} == {torch.bfloat16}


def test_loading_says_nothing_and_leaves_the_library_s_messages_as_they_were(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = logging.getLogger("transformers").level
    capfd.readouterr()
    load_backbone(folder)
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("transformers").level == before


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"nowhere: there is no such model folder"):
        load_backbone(tmp_path / "nowhere")
    with pytest.raises(MissingFileError, match=r"\./nowhere: there is no such"):
        load_backbone("./nowhere")


def test_a_hub_name_without_a_network_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> str:
        raise ConnectionError("Name or service not known\nmore lines\n")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    with pytest.raises(BackboneError, match=r"'someone/model' is neither a folder .*not known.*network") as caught:
        load_backbone("someone/model")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "config.json").unlink(), r"no config\.json"),
        (lambda f: (f / "config.json").write_text("{"), r"config\.json: not JSON"),
        (
            lambda f: edit(f / "config.json", model_type="siglib"),
            r"'siglib' is no dual encoder\. Did you mean 'siglip'",
        ),
        (lambda f: edit(f / "config.json", model_type="llama"), r"'llama' is no dual encoder\. Known: clip, siglip"),
        (lambda f: (f / "model.safetensors").unlink(), r"no weights \(looked for model\.safetensors"),
        (lambda f: (f / "model.safetensors").write_bytes(b"broken"), r"can't be loaded \(.*[Hh]eader"),
        (lambda f: (f / "preprocessor_config.json").unlink(), r"no preprocessor_config\.json"),
        (lambda f: (f / "preprocessor_config.json").write_text("{"), r"image processor can't be read"),
        (lambda f: [(f / n).unlink() for n in ("tokenizer.json", "tokenizer_config.json")], r"no tokenizer"),
        (lambda f: (f / "tokenizer.json").write_text("{"), r"tokenizer can't be read"),
    ],
)
def test_a_folder_that_lacks_something_says_what(spoil: Callable[[Path], object], message: str, folder: Path) -> None:
    spoil(folder)
    with pytest.raises(BackboneError, match=message) as caught:
        load_backbone(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_and_misshapen_tensors_are_named(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["text_projection.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BackboneError, match=r"lack 1 tensors .* 'text_projection\.weight'"):
        load_backbone(folder)
    save_file({**weights, "text_projection.weight": torch.zeros(2, 2)}, folder / "model.safetensors")
    with pytest.raises(BackboneError, match="can't be loaded"):
        load_backbone(folder)


def test_a_tokenizer_elsewhere_can_be_named(folder: Path, tmp_path: Path) -> None:
    tiny.clip_tokenizer().save_pretrained(tmp_path / "words")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    assert load_backbone(folder, tokenizer=tmp_path / "words").inputs.tokenize(["dog"]).ids.shape == (1, 3)


def test_a_picture_size_that_cannot_be_cut_into_patches_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="multiple of the patch size 8; got 36 x 36"):
        load_backbone(folder, image_size=36)


def test_a_tower_without_a_pooled_output_is_refused(tmp_path: Path) -> None:
    folder = tiny.tiny_siglip(tmp_path / "siglip")
    config = json.loads((folder / "config.json").read_text())
    edit(folder / "config.json", vision_config={**config["vision_config"], "vision_use_head": False})
    with pytest.raises(BackboneError, match="SiglipVisionModel has no head"):
        load_backbone(folder)


def test_families_without_an_adapter_are_refused_with_the_nearest() -> None:
    class Odd(torch.nn.Module):
        config = type("Config", (), {"model_type": "robert"})

    with pytest.raises(BackboneError, match=r"text tower of the family 'robert' .*Did you mean 'roberta'"):
        loading.text_tower(Odd())
