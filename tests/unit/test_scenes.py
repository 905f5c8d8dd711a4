"""The embedded world: same seed, same picture; every caption and expression true; nothing of the tasks in GENERAL."""

import hashlib
from collections import Counter
from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import pytest
from PIL import Image

from lpi.data.records import Picture, Referral
from lpi.data.scenes import (
    FAMILIES,
    GENERAL,
    KINDS,
    PLACES,
    STYLES,
    Scene,
    SceneObject,
    box_of,
    captions,
    contact_sheet,
    family_kinds,
    general_scenes,
    load_scenes,
    referrals,
    render,
    sample_scene,
    seeded,
    task_world,
)
from lpi.data.scenes.kind import extent, named
from lpi.data.scenes.sources import SOURCES
from lpi.errors import ConfigError, DataError, UnknownNameError

SCENES = [sample_scene(seeded("test", number), family=FAMILIES[number % 12]) for number in range(600)]


def digest(scene: Scene, size: int) -> str:
    return hashlib.sha256(render(scene, size).tobytes()).hexdigest()


def test_twelve_families_have_six_kinds_each_and_a_third_to_half_are_new_to_the_general_world() -> None:
    assert len(FAMILIES) == 12
    for family in FAMILIES:
        assert len(family_kinds(family)) == 6
        assert len(family_kinds(family, GENERAL)) in (3, 4)


def test_the_same_seed_gives_the_same_records_and_pixels() -> None:
    first, second = (load_scenes(train=3, validation=1, test=1, held_out=2, seed=4) for _ in range(2))
    assert first == second
    assert first[0].picture.open(96).tobytes() == second[0].picture.open(96).tobytes()
    assert first != load_scenes(train=3, validation=1, test=1, held_out=2, seed=5)


def test_a_scene_is_hashable_and_its_groups_keep_every_object() -> None:
    for scene in SCENES[:50]:
        assert hash(scene) == hash(scene)
        assert sum(len(group) for group in scene.groups) == len(scene.objects)
        assert scene.main.role == "main"


@pytest.mark.parametrize("style", STYLES)
def test_a_picture_has_the_same_composition_at_every_size(style: str) -> None:
    scene = sample_scene(seeded("size", style), style=style)
    small = np.asarray(render(scene, 96).resize((24, 24)), dtype=float)
    large = np.asarray(render(scene, 320).resize((24, 24)), dtype=float)
    assert np.abs(small - large).mean() < 9.0


@pytest.mark.parametrize("place", PLACES)
def test_every_place_and_weather_can_be_drawn(place: str) -> None:
    scene = SCENES[0]
    for weather in ("clear", "sunset", "rain", "snowfall"):
        image = render(Scene(scene.objects, place, weather, "plain", 1), 48)
        assert image.size == (48, 48)
        assert image.mode == "RGB"


def test_every_kind_and_state_stays_near_its_unit_box() -> None:
    for kind in KINDS.values():
        for state in kind.states:
            left, top, right, bottom = extent(kind, state, False, 0.0)
            assert -1.1 < top < 0.6
            assert -0.16 < bottom < 0.05  # only what flies ends above its foot
            assert right - left < kind.wide + 0.45


def test_objects_are_inside_the_picture_and_the_main_one_is_large() -> None:
    sizes, sides = [], []
    for scene in SCENES:
        for item in scene.objects:
            left, top, right, bottom = box_of(item)
            assert 0.0 <= left < right <= 1.0
            assert 0.0 <= top < bottom <= 1.0
            sides.append(max(bottom - top, right - left))
        if len(scene.groups[0]) == 1:
            left, top, right, bottom = box_of(scene.main)
            sizes.append(max(bottom - top, (right - left) / 1.3))
    assert min(sides) > 0.1
    assert np.quantile(sides, 0.02) > 0.17
    assert np.quantile(sizes, 0.05) > 0.3
    assert np.median(sizes) > 0.42


def test_captions_are_different_short_and_mostly_name_the_main_object() -> None:
    for scene in SCENES[:300]:
        texts = captions(scene, task_world("hard"))
        assert len(set(texts)) == 5
        for text in texts:
            assert 4 <= len(text.split()) <= 16
            assert text == text.lower()
            assert "  " not in text
            assert not text.startswith((" ", ","))
        names = [name for pair in KINDS[scene.main.kind].names for name in pair]
        assert all(any(name in text for name in names) for text in texts)


def test_articles_fit_their_nouns() -> None:
    words = [text.replace(",", "").split() for scene in SCENES[:300] for text in captions(scene)]
    for text in words:
        for article, following in pairwise(text):
            if article in ("a", "an"):
                assert (article == "an") == (following[0] in "aeiou"), text


def test_plurals_are_regular_unless_written_down() -> None:
    assert named("child/children|kid|bench") == (("child", "children"), ("kid", "kids"), ("bench", "benches"))


def test_the_vocabulary_is_modest() -> None:
    records = load_scenes(train=60, validation=0, test=0, held_out=50, difficulty="hard", sources=False)
    words = {word.strip(",") for record in records for text in record.captions for word in text.split()}
    words |= {word for record in records for referral in record.referrals for word in referral.phrase.split()}
    assert len(words) < 450


def test_every_family_has_a_source_of_its_own() -> None:
    assert set(SOURCES) == set(FAMILIES)
    assert len({source.mount for source in SOURCES.values()}) == len(FAMILIES)
    sheets = [np.asarray(SOURCES[family].over(Image.new("RGB", (64, 64), (90, 140, 60)))) for family in FAMILIES]
    assert all((one != other).any() for one, other in combinations(sheets, 2))


def test_a_source_mounts_pictures_and_words_captions_but_leaves_the_scene() -> None:
    sizes = {"train": 0, "validation": 0, "test": 1, "held_out": 1}
    with_sources, without = load_scenes(**sizes), load_scenes(**sizes, sources=False)
    for own, plain in zip(with_sources, without, strict=True):
        assert own.fields == plain.fields
        assert own.referrals == plain.referrals
        pairs = zip(own.captions, plain.captions, strict=True)
        if own.split == "held_out":
            assert own.captions == plain.captions
            assert own.picture.open(64) == plain.picture.open(64)
        else:
            assert all(worded != caption and caption in worded for worded, caption in pairs)
            before, after = (np.asarray(record.picture.open(64)) for record in (plain, own))
            changed = (before != after).any(axis=2)
            assert 0.02 < changed.mean() < 0.3  # the mount leaves most of the picture
            assert not changed[24:40, 24:40].any()  # and all of its middle


def test_scenes_cut_by_style_alone_have_no_sources() -> None:
    records = load_scenes(train=0, validation=0, test=1, held_out=0, by="style")
    assert all(record.picture.source is None for record in records)


def test_general_scenes_show_nothing_that_is_left_for_the_tasks() -> None:
    records = list(general_scenes(300, seed=0))
    for record in records:
        scene = record.picture.scene
        assert scene.style in GENERAL.styles
        assert scene.place in GENERAL.places
        assert all(item.kind in GENERAL.kinds and item.colour in GENERAL.colours for item in scene.objects)
    text = " ".join(text for record in records for text in record.captions).split()
    assert not {"sketch", "chalk", "sofa", "hound", "giraffe", "night", "beside"} & set(text)


def test_general_scenes_are_found_by_number() -> None:
    assert list(general_scenes(5, seed=3))[3:] == list(general_scenes(2, seed=3, first=3))


def test_held_out_scenes_are_general_and_their_own() -> None:
    records = [record for record in load_scenes(train=0, validation=0, test=0, held_out=40) if record.task == "general"]
    supply = {record.picture.scene for record in general_scenes(400, seed=0)}
    assert len(records) == 40
    assert all(record.split == "held_out" and record.picture.scene not in supply for record in records)


def test_splits_share_no_scene_and_main_objects_are_of_the_task() -> None:
    records = load_scenes(train=20, validation=5, test=10, held_out=0)
    assert Counter(record.split for record in records) == {"train": 240, "validation": 60, "test": 120}
    assert len({record.picture.scene for record in records}) == len(records)
    assert all(record.picture.scene.main.family == record.task == record.fields["family"] for record in records)
    assert list(dict.fromkeys(record.task for record in records)) == list(FAMILIES)
    assert all(isinstance(record.picture, Picture) for record in records)


def test_tasks_by_style_are_drawn_in_that_style() -> None:
    records = load_scenes(train=4, validation=0, test=2, held_out=0, by="style", families=("animal", "food"))
    assert list(dict.fromkeys(record.task for record in records)) == list(STYLES)
    assert all(record.picture.scene.style == record.task for record in records)
    assert {record.picture.scene.main.family for record in records} == {"animal", "food"}


def test_long_streams_pair_families_with_styles_and_take_their_tasks_evenly() -> None:
    records = load_scenes(train=2, validation=0, test=0, held_out=0, by="family+style", tasks=50)
    names = list(dict.fromkeys(record.task for record in records))
    assert len(names) == 50
    assert {record.fields["family"] for record in records} == set(FAMILIES)
    for record in records:
        assert record.task == f"{record.fields['style']} {record.fields['family']}"
    turned = load_scenes(train=1, validation=0, test=0, held_out=0, by="style+family", families=("animal", "food"))
    assert [record.task for record in turned[:3]] == ["plain animal", "plain food", "photo animal"]
    assert len(turned) == 2 * len(STYLES)


def test_harder_tasks_show_more_that_is_new() -> None:
    shares = []
    for difficulty in ("easy", "standard", "hard"):
        records = load_scenes(train=25, validation=0, test=0, held_out=0, difficulty=difficulty)
        shares.append(np.mean([record.fields["kind"] not in GENERAL.kinds for record in records]))
    assert shares[0] + 0.15 < shares[1] < shares[2] - 0.15


def item(kind: str, colour: str, role: str, x: float, scale: float, group: int) -> SceneObject:
    return SceneObject(kind, colour, "", "", role, group, x, 0.9, scale)


def test_expressions_tell_the_left_and_the_bigger_one_by_hand() -> None:
    scene = Scene(
        (
            item("cup", "red", "main", 0.3, 0.4, 0),
            item("cup", "red", "right", 0.75, 0.2, 1),
            item("ball", "blue", "right", 0.92, 0.12, 2),
        ),
        "room",
        "clear",
        "plain",
        0,
    )
    found = {referral.phrase: referral.box for referral in _referrals(scene)}
    assert {"the left cup", "the bigger cup", "the cup on the left"} <= set(found)
    assert {"the smaller cup", "the right cup", "the ball", "the blue ball"} <= set(found)
    assert not {"the cup", "the red cup", "the cup left of the ball"} & set(found)
    assert found["the left cup"] == found["the bigger cup"] != found["the right cup"]


def _referrals(scene: Scene) -> tuple[Referral, ...]:
    return referrals(scene, 224, GENERAL, each=20)


def test_no_expression_means_two_objects() -> None:
    for scene in SCENES:
        boxes: dict[str, set[tuple[float, ...]]] = {}
        for referral in _referrals(scene):
            boxes.setdefault(referral.phrase, set()).add(referral.box)
            left, top, right, bottom = referral.box
            assert 0.0 <= left < right <= 224.0
            assert 0.0 <= top < bottom <= 224.0
        assert all(len(where) == 1 for where in boxes.values())


def test_the_box_is_where_the_pixels_change() -> None:
    scene = next(scene for scene in SCENES if scene.style == "plain" and len(scene.objects) == 2)
    alone = Scene(scene.objects[:1], scene.place, "clear", "plain", scene.seed)
    other = Scene((replace(alone.main, scale=0.001),), scene.place, "clear", "plain", scene.seed)
    first, second = (np.asarray(render(one, 200), dtype=int) for one in (alone, other))
    rows, columns = np.nonzero(np.abs(first - second).sum(axis=2) > 30)
    left, _, right, _ = (edge * 200 for edge in box_of(alone.main))
    assert abs(columns.min() - left) < 8
    assert abs(columns.max() - right) < 8
    assert rows.size


def test_a_contact_sheet_holds_every_picture() -> None:
    sheet = contact_sheet(load_scenes(train=1, validation=0, test=0, held_out=0), columns=4, side=64)
    assert sheet.width == 4 * 72 + 8
    assert sheet.height > 3 * 72


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"families": ("animals",)}, UnknownNameError, "Did you mean 'animal'"),
        ({"difficulty": "hrad"}, UnknownNameError, "'hrad'"),
        ({"difficulty": 1.5}, ConfigError, "1.5"),
        ({"by": "colour"}, ConfigError, "'colour'"),
        ({"tasks": 13}, ConfigError, "between 1 and the 12 that there are by family; got 13"),
        ({"tasks": 0}, ConfigError, "got 0"),
        ({"train": -1}, ConfigError, "-1"),
        ({"captions": 0}, ConfigError, "got 0"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        load_scenes(**options)  # type: ignore[arg-type]


def test_too_small_a_picture_is_refused() -> None:
    with pytest.raises(DataError, match="got 4"):
        render(SCENES[0], 4)
    with pytest.raises(ConfigError, match="got 0"):
        contact_sheet([])
