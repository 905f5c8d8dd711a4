"""A saved method comes back bit by bit, onto the backbone it was made for and no other."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lpi.backbones import DualEncoder, load_backbone
from lpi.errors import CheckpointError, MissingFileError, OutputError
from lpi.methods import checkpoint, method
from lpi.methods.base import Method
from lpi.methods.checkpoint import KEYS, load_method, save_method, saved_files, task_file
from lpi.methods.finetune import FineTune
from lpi.methods.low_rank import TaskPrompts
from lpi.methods.lpi import LPI
from lpi.prompts.interaction import Interaction
from lpi.prompts.low_rank import LowRankPrompts
from lpi.prompts.task_keys import TaskKeys
from lpi.routing.base import Kept
from lpi.storage import read_json, read_tensors, unsealed, write_json, write_tensors
from lpi.tasks.stream import TaskStream

Learn = Callable[..., Method]


@pytest.fixture(scope="module")
def learned(clip: DualEncoder, small: dict[str, Any], learn: Learn, stream: TaskStream) -> Method:
    return learn(method("lpi", clip, **small), stream.tasks)


@pytest.fixture
def folder(learned: Method, tmp_path: Path) -> Path:
    save_method(learned, tmp_path / "model")
    return tmp_path / "model"


def encoded(model: Method, pictures: Tensor, captions: list[str], **options: Any) -> tuple[Tensor, Tensor]:
    return model.encode_images(pictures, **options), model.encode_texts(captions, **options)


def same(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("name", ["nnn", "condu"])
def test_what_is_kept_of_all_tasks_must_be_whole(
    name: str, clip: DualEncoder, learn: Learn, stream: TaskStream, tmp_path: Path
) -> None:
    save_method(learn(method(name, clip), stream.tasks[:1]), tmp_path)
    (file,) = tmp_path.glob("shared-*.safetensors")
    whole = read_tensors(file)
    first = next(part for part, tensor in whole.items() if tensor.dim() == 2)
    for wrong in ({part: own for part, own in whole.items() if part != first}, {**whole, first: whole[first][:, 1:]}):
        write_tensors(file, wrong)
        with pytest.raises(CheckpointError, match="the tensors don't fit the options"):
            load_method(tmp_path, backbone=clip)


def test_cut_short_while_it_saves_the_stage_before_is_whole(
    clip: DualEncoder, learn: Learn, stream: TaskStream, pictures: Tensor, captions: list[str], tmp_path: Path
) -> None:
    model = learn(method("condu", clip), stream.tasks[:1])
    save_method(model, tmp_path)
    before = encoded(load_method(tmp_path, backbone=clip), pictures, captions, task="warm")
    learn(model, stream.tasks[1:2])  # which changes the first task's part, too

    def killed(path: Path, content: Any) -> None:
        if path.name == "config.json":
            raise KeyboardInterrupt
        write_json(path, content)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            save_method(model, tmp_path)
    assert same(before, encoded(load_method(tmp_path, backbone=clip), pictures, captions, task="warm"))
    for task in stream.tasks[2:]:
        save_method(model, tmp_path)
        learn(model, [task])
    save_method(model, tmp_path)
    again = load_method(tmp_path, backbone=clip)
    for task in model.tasks:
        assert same(encoded(model, pictures, captions, task=task), encoded(again, pictures, captions, task=task))
    assert len(list((tmp_path / "tasks").iterdir())) == 2 * len(model.tasks)


VARIANTS = [
    {},
    {"injection": "replace", "start": "paper", "interaction": False},
    {"injection": "add", "start": "neutral", "norm": "none"},
    {"decomposition": "free", "placement": "last", "depth": 1, "ood": "fallback"},
    {"sharing": "none", "semantics": "both", "metric": "l1"},
]


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_a_saved_method_comes_back_bit_identical(
    options: dict[str, Any],
    clip: DualEncoder,
    small: dict[str, Any],
    learn: Learn,
    stream: TaskStream,
    pictures: Tensor,
    captions: list[str],
    tmp_path: Path,
) -> None:
    model = learn(method("lpi", clip, **{**small, **options}), stream.tasks[:2])
    save_method(model, tmp_path)
    loaded = load_method(tmp_path, backbone=clip)
    assert isinstance(loaded, LPI)
    assert loaded.tasks == model.tasks
    assert loaded.options == model.options
    before, after = model.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert same(encoded(model, pictures, captions), encoded(loaded, pictures, captions))
    for task in model.tasks:
        assert same(encoded(model, pictures, captions, task=task), encoded(loaded, pictures, captions, task=task))
    assert torch.equal(model.near(), loaded.near())
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_a_loaded_method_goes_on_learning_as_the_original_would(
    clip: DualEncoder,
    small: dict[str, Any],
    learn: Learn,
    stream: TaskStream,
    pictures: Tensor,
    captions: list[str],
    tmp_path: Path,
) -> None:
    model = learn(method("lpi", clip, **small), stream.tasks[:2])
    save_method(model, tmp_path)
    loaded = load_method(tmp_path, backbone=clip)
    for either in (model, loaded):
        learn(either, stream.tasks[2:])
    assert same(encoded(model, pictures, captions), encoded(loaded, pictures, captions))


def test_it_moves_onto_the_same_backbone_loaded_anew(
    folder: Path, learned: Method, clip: DualEncoder, pictures: Tensor, captions: list[str], tmp_path: Path
) -> None:
    copied = tmp_path / "elsewhere"
    shutil.copytree(clip.name, copied)  # another path on another machine
    moved = load_method(folder, backbone=load_backbone(copied))
    assert moved.backbone.name != clip.name
    assert same(encoded(learned, pictures, captions), encoded(moved, pictures, captions))


def test_the_backbone_is_found_by_its_name(
    folder: Path, learned: Method, pictures: Tensor, captions: list[str]
) -> None:
    assert same(encoded(learned, pictures, captions), encoded(load_method(folder), pictures, captions))


def test_a_backbone_of_another_picture_size_is_found_too(
    clip: DualEncoder, small: dict[str, Any], learn: Learn, stream: TaskStream, tmp_path: Path
) -> None:
    larger = load_backbone(clip.name, image_size=48)
    save_method(learn(method("lpi", larger, **small), stream.tasks[:1], steps=1), tmp_path)
    assert load_method(tmp_path).backbone.inputs.image_size == (48, 48)
    with pytest.raises(CheckpointError, match=f"made for the backbone {larger.identity}; this one is {clip.identity}"):
        load_method(tmp_path, backbone=clip)


def test_the_files_of_a_task_are_small_and_named_after_it(folder: Path) -> None:
    files = sorted(path.name for path in (folder / "tasks").iterdir())
    assert files == [
        f"{index:02d}-{name}.{ending}"
        for index, name in enumerate(("warm", "cold", "dull"))
        for ending in ("json", "safetensors")
    ]
    assert all(path.stat().st_size < 50_000 for path in folder.rglob("*") if path.is_file())


def test_a_task_of_clip_vit_b_16_shapes_takes_tens_of_kilobytes(tmp_path: Path) -> None:
    widths, generator = {"vision": 768, "text": 512}, torch.Generator()
    prompts = LowRankPrompts(layers=9, length=16, widths=widths, rank=4, generator=generator)
    mixing = Interaction(layers=9, widths=widths, rank=4, generator=generator)
    task = TaskPrompts(prompts, mixing, gated=False, features=512)
    kept, parts = Kept(), ("centroids", "radius", "scale", "spread", "rest")
    for tower in widths:
        keys = TaskKeys(torch.zeros(5, 512), *torch.ones(2), torch.zeros(16, 512).half(), torch.tensor(1.0))
        for part in parts:
            kept.keep(f"{part}_{tower}", getattr(keys, part).clone())
    task.semantics = torch.zeros(512)
    routing = {f"routing/{name}": tensor for name, tensor in kept.state_dict().items()}
    write_tensors(tmp_path / "task.safetensors", dict(task.state_dict()) | routing)
    assert 120_000 < (tmp_path / "task.safetensors").stat().st_size < 135_000


@pytest.mark.parametrize(
    ("name", "expected"),
    [("Sea & Harbour", "03-sea-harbour"), ("../../etc", "03-etc"), ("狗", "03-task"), ("x" * 99, "03-" + "x" * 40)],
)
def test_any_name_of_a_task_makes_a_safe_file_name(name: str, expected: str) -> None:
    assert task_file(3, name) == expected


def test_saving_again_takes_away_what_was_forgotten(
    clip: DualEncoder, small: dict[str, Any], learn: Learn, stream: TaskStream, tmp_path: Path
) -> None:
    model = learn(method("lpi", clip, **small), stream.tasks, steps=1)
    save_method(model, tmp_path)
    model.forget("warm")
    save_method(model, tmp_path)
    stems = sorted(path.stem for path in (tmp_path / "tasks").glob("*.json"))
    assert stems == ["00-cold", "01-dull"]
    assert load_method(tmp_path, backbone=clip).tasks == ["cold", "dull"]


def test_a_tuned_model_keeps_one_file_of_weights(
    clip: DualEncoder, learn: Learn, stream: TaskStream, pictures: Tensor, captions: list[str], tmp_path: Path
) -> None:
    model = method("finetune", clip)
    for task in stream.tasks[:2]:
        learn(model, [task], steps=1, learning_rate=1e-3)
        save_method(model, tmp_path)
    assert [path.name for path in tmp_path.glob("shared-*")] == ["shared-02.safetensors"]
    assert same(encoded(model, pictures, captions), encoded(load_method(tmp_path), pictures, captions))


# What lies there besides ----------------------------------------------------------------------------------------------


def test_saving_takes_away_nothing_that_it_did_not_write(learned: Method, tmp_path: Path) -> None:
    foreign = [tmp_path / name for name in ("tasks/notes.txt", "tasks/07-mine.json", "shared-holiday.safetensors")]
    (tmp_path / "tasks").mkdir()
    for file in foreign:
        file.write_text("precious")
    for _ in range(2):
        learned.save_pretrained(tmp_path)
        assert [file.read_text() for file in foreign] == ["precious"] * 3


@pytest.mark.parametrize("content", ['{"model_type": "clip"}', "[]", '{"format": 1}', "half of", '{"method": "x"}'])
@pytest.mark.parametrize("way", ["save_method", "save_pretrained"])
def test_a_folder_of_something_else_is_not_saved_into(way: str, content: str, learned: Method, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(OutputError, match=r"config\.json isn't of a saved method.* Name another folder"):
        save_method(learned, tmp_path) if way == "save_method" else learned.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    assert (tmp_path / "config.json").read_text() == content


@pytest.mark.parametrize("shared", ["shared-../victim", "shared-/../victim", "notes.txt", "", None])
def test_no_other_file_is_called_a_part_of_a_method(shared: object, folder: Path) -> None:
    own = saved_files(folder)
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | {"shared": shared}))
    assert saved_files(folder) == {file for file in own if not file.name.startswith("shared-")}


def test_a_config_with_the_least_that_a_method_needs_is_a_methods(folder: Path) -> None:
    own, content = saved_files(folder), json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({key: content[key] for key in KEYS}))
    assert saved_files(folder) == {file for file in own if not file.name.startswith("shared-")}


def test_a_config_cannot_have_files_elsewhere_deleted(folder: Path, learned: Method) -> None:
    victim = folder.parent / "victim.json"
    victim.write_text("precious")
    content = json.loads((folder / "config.json").read_text())
    content |= {"files": ["../../victim", 5, "../tasks/../../victim"], "shared": "../victim.json"}
    (folder / "config.json").write_text(json.dumps(content))
    save_method(learned, folder)
    assert victim.read_text() == "precious"


# Refusals -------------------------------------------------------------------------------------------------------------


def test_another_backbone_is_refused(folder: Path, clip: DualEncoder, tmp_path: Path) -> None:
    other = load_backbone(tiny.tiny_clip(tmp_path / "other", seed=1))
    with pytest.raises(
        CheckpointError, match=f"/model was made for the backbone {clip.identity}; this one is {other.identity}"
    ):
        load_method(folder, backbone=other)


def test_what_was_made_for_the_earlier_embedded_backbone_says_since_when_there_is_another(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["backbone"] |= {"name": "lpi-tiny", "identity": "be5ceb753a8ea2ae"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"be5ceb753a8ea2ae; .*lpi-tiny itself was trained anew on 2026-11-30"):
        load_method(folder, backbone=load_backbone("lpi-tiny"))


def test_a_task_file_made_for_another_backbone_is_refused_by_name(
    folder: Path, clip: DualEncoder, small: dict[str, Any], learn: Learn, stream: TaskStream, tmp_path: Path
) -> None:
    other = load_backbone(tiny.tiny_clip(tmp_path / "other", seed=1))
    save_method(learn(method("lpi", other, **small), stream.tasks[:1], steps=1), tmp_path / "second")
    for file in (tmp_path / "second" / "tasks").iterdir():
        shutil.copy(file, folder / "tasks" / file.name)
    with pytest.raises(CheckpointError, match=r"00-warm.json was made for the backbone"):
        load_method(folder, backbone=clip)


def test_a_truncated_task_file_is_refused_by_name(folder: Path, clip: DualEncoder) -> None:
    file = folder / "tasks" / "01-cold.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"01-cold.safetensors is damaged"):
        load_method(folder, backbone=clip)


@pytest.mark.parametrize("name", ["tasks/01-cold.safetensors", "tasks/01-cold.json", "config.json"])
def test_a_missing_file_is_named(folder: Path, clip: DualEncoder, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(MissingFileError, match=f"{name} is not there"):
        load_method(folder, backbone=clip)


def test_a_missing_folder_is_named(tmp_path: Path, clip: DualEncoder) -> None:
    with pytest.raises(MissingFileError, match="nowhere: there is no such folder"):
        load_method(tmp_path / "nowhere", backbone=clip)


def test_a_task_file_of_other_shapes_is_refused(
    folder: Path, clip: DualEncoder, small: dict[str, Any], learn: Learn, stream: TaskStream, tmp_path: Path
) -> None:
    wide = learn(method("lpi", clip, **{**small, "rank": 3}), stream.tasks[:1], steps=1)
    save_method(wide, tmp_path / "wide")
    shutil.copy(tmp_path / "wide/tasks/00-warm.safetensors", folder / "tasks")
    with pytest.raises(CheckpointError, match=r"00-warm.safetensors doesn't hold what its .json says"):
        load_method(folder, backbone=clip)
    shutil.copy(tmp_path / "wide/tasks/00-warm.json", folder / "tasks")
    with pytest.raises(CheckpointError, match=r"the tensors don't fit the options in config.json \(size mismatch"):
        load_method(folder, backbone=clip)


def test_a_config_of_something_else_is_refused(folder: Path, clip: DualEncoder) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(CheckpointError, match=r"config.json isn't of a saved method"):
        load_method(folder, backbone=clip)


def test_a_config_of_a_later_version_is_refused(folder: Path, clip: DualEncoder) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "format": 99}))
    with pytest.raises(CheckpointError, match=r"config.json has format 99; this version reads 1"):
        load_method(folder, backbone=clip)


# The hub's mixin ------------------------------------------------------------------------------------------------------


def test_the_hubs_methods_save_and_load(
    learned: Method, clip: DualEncoder, pictures: Tensor, captions: list[str], tmp_path: Path
) -> None:
    learned.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").is_file()
    for kind, options in ((LPI, {}), (Method, {"backbone": clip})):
        loaded = kind.from_pretrained(tmp_path, **options)
        assert isinstance(loaded, LPI)
        assert same(encoded(learned, pictures, captions), encoded(loaded, pictures, captions))
    assert loaded.backbone is clip
    learned.save_pretrained(tmp_path)  # again, over what is there
    assert load_method(tmp_path, backbone=clip).tasks == learned.tasks


def test_a_model_of_another_method_is_refused(folder: Path, clip: DualEncoder) -> None:
    with pytest.raises(CheckpointError, match="holds a LPI, not a FineTune"):
        FineTune.from_pretrained(folder, backbone=clip)


# What is wrong in a saved method --------------------------------------------------------------------------------------


def tensors(change: Callable[[Tensor], Tensor]) -> Callable[[Path], None]:
    """Changes the numbers of a task's file, which knows no checksum then."""

    def spoil(folder: Path) -> None:
        file = folder / "tasks" / "01-cold.safetensors"
        kept = {name: change(value) if value.is_floating_point() else value for name, value in load_file(file).items()}
        save_file(kept, file)

    return spoil


def config(**changes: Any) -> Callable[[Path], None]:
    """Changes or takes away (``...``) parts of ``config.json``."""

    def spoil(folder: Path) -> None:
        kept = {**json.loads((folder / "config.json").read_text()), **changes}
        write_json(folder / "config.json", {name: value for name, value in kept.items() if value is not ...})

    return spoil


def about(folder: Path) -> None:
    file = folder / "tasks" / "01-cold.json"
    file.write_text(file.read_text().replace('"cold"', '"other"'))


SPOILT: dict[str, tuple[Callable[[Path], None], str]] = {
    "not a number": (tensors(lambda value: torch.full_like(value, torch.nan)), "holds what is no number"),
    "infinity": (tensors(lambda value: torch.full_like(value, torch.inf)), "holds what is no number"),
    "half precision": (tensors(lambda value: value.to(torch.float64)), "doesn't hold what its .json says"),
    "no shared": (config(shared=...), "its 'shared' can't be right"),
    "a backbone that is a name": (config(backbone="x"), "its 'backbone' can't be right"),
    "a method that is a list": (config(method=[]), "was saved by a method of its own"),
    "files that are numbers": (config(files=[1, 2, 3]), "its 'files' can't be right"),
    "tasks that are an object": (config(tasks={}), "its 'tasks' can't be right"),
    "another problem": (config(problem="x"), "its 'problem' can't be right"),
    "options that are a list": (config(options=[]), "its 'options' can't be right"),
    "another task": (about, "is of the task 'other'; config.json says 'cold'"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_saved_method_that_is_wrong_is_refused_in_one_line(name: str, folder: Path, clip: DualEncoder) -> None:
    spoil, said = SPOILT[name]
    spoil(folder)
    with pytest.raises(CheckpointError, match=said):
        load_method(folder, backbone=clip)


def test_numbers_so_large_that_features_are_none_are_refused(folder: Path, clip: DualEncoder) -> None:
    tensors(lambda value: torch.full_like(value, 6e4))(folder)
    loaded = load_method(folder, backbone=clip)
    with pytest.raises(CheckpointError, match="features that are no numbers"):
        loaded.encode_texts(["x"], task="cold")


@pytest.mark.parametrize("name", ["tasks/00-warm.json", "tasks/00-warm.safetensors"])
def test_somebody_elses_files_of_our_names_are_kept(learned: Method, tmp_path: Path, name: str) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / name).write_text("precious")
    with pytest.raises(OutputError, match=f"{name} isn't of a saved method"):
        save_method(learned, tmp_path)
    assert (tmp_path / name).read_text() == "precious"


def test_a_save_that_was_cut_short_is_made_again(learned: Method, folder: Path) -> None:
    (folder / "config.json").unlink()
    save_method(learned, folder)
    assert (folder / "config.json").is_file()


def test_a_closed_form_of_an_earlier_version_is_refused_in_one_line(clip: DualEncoder, tmp_path: Path) -> None:
    save_method(method("lpi", clip, dimensions=4), tmp_path / "model")
    config = read_json(tmp_path / "model" / "config.json", dict)
    del config["options"]["closing"]["projection"]
    write_json(tmp_path / "model" / "config.json", config)
    with pytest.raises(CheckpointError, match=r"of an earlier version, which read less of a picture\. Learn"):
        load_method(tmp_path / "model", backbone=clip)


def test_a_model_of_before_there_were_closed_forms_opens_without_one(
    clip: DualEncoder, stream: TaskStream, captions: list[str], tmp_path: Path
) -> None:
    learned = method("lpi", clip, preset="best", dimensions=0, adapter_rank=1, length=2, rank=2, clusters=1)
    learned.learn(stream.tasks[0], steps=1)
    save_method(learned, tmp_path / "model")
    config = unsealed(tmp_path, read_json(tmp_path / "model" / "config.json", dict))
    del config["options"]["closing"]
    write_json(tmp_path / "model" / "config.json", config)
    loaded = load_method(tmp_path / "model", backbone=clip)
    assert loaded.options.closing.dimensions == 0
    assert torch.equal(loaded.encode_texts(captions), learned.encode_texts(captions))
