"""Options are dataclasses that say what they may be; a person names them flat or in tables, and older files do so."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import torch
from commands import Type, refused
from torch import Tensor

import lpi
from lpi.backbones import DualEncoder
from lpi.config import TrainingSettings
from lpi.errors import CheckpointError, ConfigError
from lpi.methods import method, settled, training_of
from lpi.methods.base import Method
from lpi.methods.checkpoint import load_method
from lpi.methods.lpi import LPI
from lpi.methods.older import renewed
from lpi.methods.options import FLAT, MethodOptions, Preset, options_of
from lpi.options import Above, Count, Share, Table, changed, described
from lpi.storage import read_json, read_tensors, write_json, write_tensors
from lpi.tasks.stream import TaskStream
from lpi.trainer import training_for

Learn = Callable[..., Method]


@dataclass(frozen=True)
class Sizes(Table):
    rank: Annotated[Count, "of the thing"] = 4
    share: Annotated[Share, "of the other"] = 0.5

    def check(self) -> None:
        if self.rank == 7 and self.share == 1.0:
            raise ConfigError("a rank of 7 and a share of 1 don't go together.")


@dataclass(frozen=True)
class Whole(Table):
    sizes: Sizes = Sizes()
    warmth: Annotated[Above | None, "none is cold"] = None
    start: Annotated[Literal["here", "there"], "where it begins"] = "here"
    loud: Annotated[bool, "whether it is"] = False


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("sizes.rank", 0, "sizes.rank must be at least 1; got 0"),
        ("sizes.rank", True, "sizes.rank must be a whole number; got True"),
        ("sizes.rank", "4", "sizes.rank must be a whole number; got '4'"),
        ("sizes.share", 1.5, "sizes.share must be between 0 and 1; got 1.5"),
        ("sizes.share", float("nan"), "sizes.share must be between 0 and 1; got nan"),
        ("warmth", 0.0, "warmth must be above 0; got 0.0"),
        ("warmth", "warm", "warmth must be a number or nothing; got 'warm'"),
        ("start", "ther", "start must be one of here, there; got 'ther'. Did you mean 'there'"),
        ("start", 3, "start must be here or there; got 3"),
        ("loud", 1, "loud must be true or false; got 1"),
        ("lout", True, "there is no option 'lout'. Did you mean 'loud'"),
        ("loud.er", True, "loud is a value and has no options of its own"),
    ],
)
def test_a_value_that_an_option_can_not_have_is_refused(path: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match="^" + message.replace(".", r"\.")):
        changed(Whole(), {path: value})


def test_values_are_set_at_once_and_what_does_not_go_together_is_refused() -> None:
    odd = changed(Whole(), {"sizes.rank": 7, "warmth": 2})
    assert (odd.sizes, odd.warmth, Whole().sizes) == (Sizes(rank=7), 2, Sizes())
    assert changed(odd, {"sizes.share": 1.0, "sizes.rank": 8}).sizes == Sizes(8, 1.0)
    with pytest.raises(ConfigError, match="don't go together"):
        changed(odd, {"sizes.share": 1.0})
    with pytest.raises(ConfigError, match="rank must be at least 1; got -1"):
        Sizes(rank=-1)


def test_options_describe_themselves() -> None:
    found = {option.path: option for option in described(Whole())}
    assert list(found) == ["sizes.rank", "sizes.share", "warmth", "start", "loud"]
    assert found["sizes.rank"][1:] == ("a whole number, at least 1", 4, "of the thing")
    assert found["warmth"].kind == "a number or nothing, above 0"
    assert found["start"].kind == "here or there"


# ---- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        {"rank": 2, "length": 3, "interaction": False, "interaction_rank": 1, "adapter_rank": 5, "memory": 6},
        {"prompts": {"rank": 2, "length": 3}, "interaction": {"enabled": False, "rank": 1}, "adapter": {"rank": 5},
         "losses": {"memory": 6}},
        {"prompts.rank": 2, "prompts_length": 3, "enabled": False, "interaction": {"rank": 1}, "adapter.rank": 5,
         "losses_memory": 6},
    ],
)  # fmt: skip
def test_options_are_named_flat_or_in_tables(given: dict[str, Any]) -> None:
    options = options_of(LPI.Options, given)
    assert (options.prompts.rank, options.prompts.length, options.losses.memory) == (2, 3, 6)
    assert (options.interaction.enabled, options.interaction.rank, options.adapter.rank) == (False, 1, 5)


def test_flat_names_that_do_not_follow_from_a_place_all_lead_somewhere() -> None:
    paths = {option.path for option in described(LPI.Options())}
    assert set(FLAT.values()) <= paths


# ---- what training suits ---------------------------------------------------------------------------------------------


class Suited(Method):
    """A method with training settings, and a preset with more."""

    @dataclass(frozen=True)
    class Options(MethodOptions):
        training = {"learning_rate": 0.5, "batch": 16}  # noqa: RUF012
        size: Annotated[Count, "of nothing"] = 1

        @classmethod
        def presets(cls) -> dict[str, Preset]:
            published = {"learning_rate": 0.25, "optimiser": "sgd", "schedule": "constant", "augment": "flip"}
            return {"published": Preset(cls(size=2), training=published)}


def test_a_presets_training_wins_over_the_methods_and_loses_to_what_is_given(clip: DualEncoder) -> None:
    assert training_of(Suited) == {"learning_rate": 0.5, "batch": 16}
    found = training_for(Suited, {"batch": 8}, preset="published")
    assert (found.learning_rate, found.batch, found.optimiser, found.augment) == (0.25, 8, "sgd", "flip")
    made = method(Suited, clip, preset="published")
    assert (made.options.size, made.options.preset) == (2, "published")
    assert made.options == Suited.Options(size=2)  # equal options are, whatever they began with


def test_an_experiment_takes_the_training_of_its_preset(stream: TaskStream) -> None:
    assert settled({"name": "finetune"}, TrainingSettings()).learning_rate == 6e-5
    assert settled({"name": "finetune"}, TrainingSettings(learning_rate=0.1)).learning_rate == 0.1
    assert settled({"name": "lpi", "preset": "paper"}, TrainingSettings(epochs=2)).learning_rate == 0.05


# ---- what was saved before -------------------------------------------------------------------------------------------

OLD: dict[str, tuple[dict[str, Any], dict[str, Any], Callable[[str], str]]] = {
    "lpi": (
        {"rank": 2, "length": 4, "clusters": 2, "metric": "cosine"},
        {"initial": "fresh", "frozen_share": 0.0, "directions": 16},
        lambda name: name.removeprefix("routing/"),
    ),
    "s_prompts": ({"vision_length": 2, "text_length": 2}, {}, lambda name: name.removeprefix("routing/")),
    "dualprompt": (
        {"general_length": 2, "expert_length": 2},
        {},
        lambda name: name.removeprefix("routing/"),
    ),
    "dar": (
        {"rank": 2, "margin": 0.1},
        {},
        lambda name: name.replace("routing/", "expert/") if "routing" in name else name.replace("t/", "t/change.", 1),
    ),
    "moe_adapters": (
        {"experts": 3, "bottleneck": 2, "ood": "nearest"},
        {},
        lambda name: (
            "selector/{1}.{0}".format(*name.removeprefix("routing/").split("_")) if "routing" in name else name
        ),
    ),
}


@pytest.mark.parametrize("name", OLD)
def test_a_method_that_was_saved_in_the_first_format_comes_back(
    name: str,
    clip: DualEncoder,
    learn: Learn,
    stream: TaskStream,
    pictures: Tensor,
    captions: list[str],
    tmp_path: Path,
) -> None:
    flat, more, older = OLD[name]
    model = learn(method(name, clip, **flat), stream.tasks[:2], steps=2)
    model.save_pretrained(tmp_path)
    config = read_json(tmp_path / "config.json")
    write_json(tmp_path / "config.json", {**config, "format": 1, "options": {**flat, **more}})
    for file in config["files"]:
        place = tmp_path / "tasks" / f"{file}.safetensors"
        state = {older(key): value for key, value in read_tensors(place).items()}
        about = read_json(place.with_suffix(".json"))
        write_tensors(place, state)
        write_json(place.with_suffix(".json"), {**about, "shapes": {k: list(v.shape) for k, v in state.items()}})
    loaded = load_method(tmp_path, backbone=clip)
    assert loaded.options == model.options
    assert torch.equal(loaded.encode_images(pictures), model.encode_images(pictures))
    assert torch.equal(loaded.encode_texts(captions), model.encode_texts(captions))


def test_what_can_not_be_taken_over_is_refused_in_one_line() -> None:
    config = {"method": "lpi", "options": {"frozen_share": 0.3, "rank": 2}}
    with pytest.raises(CheckpointError, match="it was made with frozen_share, which this version doesn't have"):
        renewed(config, "here")
    detector = {"method": "lpi.grounding.lpi", "options": {"memory": 0, "rank": 2, "soft_tasks": 1}}
    assert renewed(detector, "here")["options"] == {"rank": 2, "soft_tasks": 1}
    assert renewed(detector, "here")["problem"] == "grounding"


# ---- lpi methods -----------------------------------------------------------------------------------------------------


def test_methods_are_listed_with_their_papers(type_command: Type) -> None:
    done = type_command("methods", "--json")
    cards = {(card["problem"], card["name"]): card for card in json.loads(done.out)}
    assert cards["retrieval", "lpi"]["paper"].startswith("Low-rank Prompt Interaction (arXiv 2501.14369")
    assert cards["grounding", "lpi"]["presets"] == ["best", "paper", "authors-release"]
    assert "(arXiv 2604" not in done.out
    without = {name for (_, name), card in cards.items() if not card["paper"]}
    assert without == {"finetune", "joint", "zero_shot"}
    shown = type_command("methods").out
    assert "moe_adapters" in shown
    assert "Routers, for methods that tell tasks apart (method.router): learned, merged," in shown


def test_a_methods_options_are_listed_from_its_dataclass(type_command: Type, tmp_path: Path) -> None:
    (card, _) = json.loads(type_command("methods", "lpi", "--json").out)
    options = {option["path"]: option for option in card["options"]}
    assert options["prompts.rank"]["default"] == 4
    assert options["prompts.rank"]["flat"] == "rank"
    assert options["interaction.enabled"]["presets"] == {"authors-release": False}
    assert options["interaction.share"]["kind"] == "a number, between 0 and 1"
    assert all(option["meaning"] for option in options.values())
    shown = type_command("methods", "lpi").out
    assert "prompts.rank (rank) = 4    a whole number, at least 1" in shown
    assert "Presets: best, paper, authors-release" in shown
    refused(type_command("methods", "lpo"), "No method is called 'lpo'")
    guide = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (tmp_path / "my_shift.py").write_text(guide.partition("```python\n")[2].partition("```\n")[0])
    assert "how far one unit of the shift goes" in type_command("methods", tmp_path / "my_shift.py").out


@pytest.mark.parametrize(
    ("name", "options"),
    [("l2p", {"pool": 2**40}), ("l2p", {"length": 2**19, "pool": 2**19}), ("lpi", {"rank": 10**30})],
)
def test_sizes_beyond_any_use_are_refused_before_they_take_memory(name: str, options: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        lpi.method(name, "lpi-tiny", **options)
