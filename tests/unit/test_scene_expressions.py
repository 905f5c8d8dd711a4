"""The drawn world's expressions: same seed, same questions; each means one of several alike, and says what is true."""

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from lpi.data.expressions.scenes import WAYS, general_expressions, load_scene_expressions
from lpi.data.scenes import FAMILIES, GENERAL, Scene, box_of, render
from lpi.data.scenes.sources import SOURCES
from lpi.errors import ConfigError, UnknownNameError

DRAWN = load_scene_expressions(train=24, validation=4, test=6, held_out=20, seed=3)


def test_drawn_expressions_are_the_same_for_a_seed_and_as_many_as_asked_for():
    assert load_scene_expressions(train=24, validation=4, test=6, held_out=20, seed=3) == DRAWN
    assert load_scene_expressions(train=24, validation=4, test=6, held_out=20, seed=4) != DRAWN
    assert Counter((one.task, one.split) for one in DRAWN) == {
        **{(family, "train"): 24 for family in FAMILIES},
        **{(family, "val"): 4 for family in FAMILIES},
        **{(family, "test"): 6 for family in FAMILIES},
        ("general", "held_out"): 20,
    }
    # fewer of a task are the first of more
    fewer = load_scene_expressions(families=["animal"], train=5, validation=0, test=0, held_out=0, seed=3)
    assert fewer == [one for one in DRAWN if one.task == "animal"][:5]


def test_what_is_meant_is_never_alone_of_its_kind_and_exactly_one_thing():
    for one in DRAWN:
        scene = one.picture.scene
        boxes = [tuple(round(edge * 224, 2) for edge in box_of(item)) for item in scene.objects]
        same = [item.kind for item in scene.objects if item.kind == one.fields["kind"]]
        assert len(same) > 1
        assert boxes.count(one.box) == 1
        if one.split != "held_out":
            assert scene.objects[boxes.index(one.box)].family == one.task
    boxes = {}
    for one in DRAWN:
        boxes.setdefault((one.picture.name, one.expression), set()).add(one.box)
    assert {len(found) for found in boxes.values()} == {1}


def test_most_pictures_are_asked_about_twice_with_another_answer():
    answers = {}
    for one in DRAWN:
        answers.setdefault(one.picture.name, []).append(one.box)
    assert all(len(set(found)) == len(found) <= 2 for found in answers.values())
    assert sum(len(found) == 2 for found in answers.values()) > 0.8 * len(answers)


def test_every_way_of_meaning_occurs_and_none_rules():
    shares = Counter(one.fields["way"] for one in load_scene_expressions(train=60, validation=0, test=0, held_out=0))
    total = sum(shares.values())
    assert set(shares) == set(WAYS)
    assert max(shares.values()) < 0.5 * total
    assert shares["relation"] > 0.03 * total


def test_what_an_expression_says_is_true():
    """Read off the boxes of all things of the kind, not off the code that made the words."""
    said = Counter()
    for one in DRAWN:
        same = [box_of(item) for item in one.picture.scene.objects if item.kind == one.fields["kind"]]
        own = min(same, key=lambda box: sum(abs(a * 224 - b) for a, b in zip(box, one.box, strict=True)))
        middles, sizes = ([measure(box) for box in same] for measure in (lambda b: b[0] + b[2], _area))
        words = set(re.findall("[a-z]+", one.expression))
        checks = {
            "left": (words & {"left", "leftmost"}, own[0] + own[2] == min(middles)),
            "right": (words & {"right", "rightmost"}, own[0] + own[2] == max(middles)),
            "middle": (words & {"middle"}, own[0] + own[2] == sorted(middles)[1]),
            "large": (words & {"bigger", "biggest"}, _area(own) == max(sizes)),
            "small": (words & {"smaller", "smallest"}, _area(own) == min(sizes)),
        }
        if one.fields["way"] in ("place", "size"):
            assert any(spoken for spoken, _ in checks.values())
            for name, (spoken, true) in checks.items():
                assert true or not spoken, one.name
                said[name] += bool(spoken)
    assert set(said) == {"left", "right", "middle", "large", "small"}
    assert min(said.values()) > 0


def _area(box):
    return (box[2] - box[0]) * (box[3] - box[1])


def test_a_drawn_box_is_where_its_object_is_painted():
    checked = 0
    for one in DRAWN[::40]:
        scene = one.picture.scene
        boxes = [tuple(round(edge * 224, 2) for edge in box_of(item)) for item in scene.objects]
        item = scene.objects[boxes.index(one.box)]
        with_it, without = (
            np.asarray(render(Scene((thing,), scene.place, "clear", "plain", scene.seed), 224), dtype=int)
            for thing in (item, replace(item, scale=0.0005))
        )
        rows, columns = np.nonzero(np.abs(with_it - without).sum(2) > 60)
        left, top, right, bottom = one.box
        assert abs(columns.min() - left) < 7  # its shadow on the ground may reach a little beyond
        assert abs(columns.max() + 1 - right) < 7
        assert abs(rows.min() - top) < 3
        assert -3 < rows.max() + 1 - bottom < 60  # what flies throws its shadow on the ground
        checked += 1
    assert checked > 5


def test_general_scenes_give_all_that_can_be_said_of_them_scene_by_scene():
    scenes = list(general_expressions(12, seed=1))
    assert scenes[5:7] == list(general_expressions(2, seed=1, first=5))
    said = [one for scene in scenes for one in scene]
    assert {one.task for one in said} == {"general"}
    assert {one.fields["kind"] for one in said} <= set(GENERAL.kinds)
    alone = [one for one in said if [item.kind for item in one.picture.scene.objects].count(one.fields["kind"]) == 1]
    assert alone  # also "the cup"
    assert len({one.picture.name for one in said}) == sum(bool(scene) for scene in scenes)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"families": ("animals",)}, UnknownNameError, "Did you mean 'animal'"),
        ({"difficulty": "hrad"}, UnknownNameError, "'hrad'"),
        ({"test": -1}, ConfigError, "test must be 0 or more expressions; got -1"),
        ({"per_picture": 0}, ConfigError, "got 0"),
    ],
)
def test_wrong_options_of_the_drawn_world_are_refused(options, error, words):
    with pytest.raises(error, match=words):
        load_scene_expressions(**options)


def test_each_family_words_and_mounts_what_is_asked_its_own_way():
    """Beside the plain ones: the same scenes and objects, in a collection's words and under its sheet."""
    sizes = {"families": ["animal", "food"], "train": 4, "validation": 0, "test": 2, "held_out": 2}
    mine, plain = (load_scene_expressions(**sizes, sources=sources) for sources in (True, False))
    for one, other in zip(mine, plain, strict=True):
        assert (one.task, one.split) == (other.task, other.split)
        same_picture = one.picture.open(48).tobytes() == other.picture.open(48).tobytes()
        if one.split == "held_out":
            assert one.expression == other.expression
            assert same_picture
            continue
        source = SOURCES[one.task]
        known = [part.split("{}")[0] for part in (*source.before, *source.after) if part]
        assert any(part in one.expression for part in known)
        assert not any(part in other.expression for part in known)
        assert not same_picture
