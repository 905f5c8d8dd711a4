"""A domain comes and goes: measured first, embedded as little as possible, and bit for bit as if built from nothing."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from search_world import QUICK, World, vectors_of

import lpi
from lpi.backbones.base import DualEncoder, View
from lpi.config import TrainingSettings
from lpi.data.content import content_id
from lpi.data.folder import load_task
from lpi.data.records import CaptionedImage, FilePicture
from lpi.errors import CheckpointError, ConfigError, DataError, MissingFileError, UnknownNameError
from lpi.methods.base import recorded_options, restore, stored_state
from lpi.methods.checkpoint import load_method, save_method
from lpi.methods.encoder import route_images, route_texts
from lpi.metrics.ranking import cosine_block, count_ranks, recall_at, recall_both_directions
from lpi.search import SearchIndex
from lpi.search.encoding import Encoder, text_probes
from lpi.search.identity import ROUTING, load_model
from lpi.search.recorded import (
    HELD_OUT,
    Gallery,
    TestSet,
    on_record,
    put_on_record,
    record_run,
    record_source,
    set_file,
)
from lpi.search.teaching import adopt, learn, read_domain, training_settings
from lpi.search.writer import change
from lpi.storage import read_sealed, write_json
from lpi.tasks.relevance import relevance
from lpi.tasks.stream import TaskStream
from lpi.trainer import learn_task


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, stream: TaskStream) -> World:
    world = World.make(tmp_path_factory.mktemp("world"), stream)
    world.build()
    put_on_record(world.index, TestSet("warm", read_domain(world.captioned / "warm", "warm").test))
    return world


@pytest.fixture(scope="module")
def taught(world: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    """The same, taught the third domain; pictures that need not be embedded again were away meanwhile."""
    mine = world.copy(tmp_path_factory.mktemp("taught"))
    away = mine.root / "away"
    with change(mine.index, device="cpu") as writer:
        lesson = mine.lesson(writer)
        needed = {key for key, task in routed(mine, lesson.method).items() if task == "dull"}
        for file in sorted(mine.photos.rglob("*.png")):
            if content_id(file) not in needed:
                (away / file.relative_to(mine.photos)).parent.mkdir(parents=True, exist_ok=True)
                file.rename(away / file.relative_to(mine.photos))
        stage = adopt(writer, lesson)
        for file in sorted(away.rglob("*.png")):
            file.rename(mine.photos / file.relative_to(away))
    assert stage.embedded == lesson.report["reembed"] == len(needed)
    assert 0 < len(needed) < 24
    return mine


def routed(world: World, method: lpi.Method) -> dict[str, str]:
    """Where another model would send each picture, decided from what the index keeps."""
    index = SearchIndex.open(world.index, device="cpu")
    ids = index.rows().columns("id")["id"]
    tasks = Encoder(method, batch=8).routing(index._stages.store.features(ROUTING, ids)).tasks.tolist()
    return {key: method.tasks[task] for key, task in zip(ids, tasks, strict=True)}


def fresh(world: World, place: Path, stage: int | None = None) -> SearchIndex:
    """A full rebuild with the model of a stage."""
    opened = SearchIndex.open(world.index, device="cpu")
    number = -1 if stage is None else stage
    return world.build(place, model=world.index / "models" / opened.stages()[number].model)


def test_captions_are_read_once_for_models_that_stand_on_one_backbone(
    clip: DualEncoder, stream: TaskStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = (lpi.method("cca", clip, dimensions=4, router="whitened") for _ in range(2))
    learn_task(after, stream.tasks[0], settings=TrainingSettings(epochs=0, device="cpu"))
    read: list[int] = []
    reading = clip.reading

    def counting(tower: str, inputs: Any, view: View | None = None) -> Any:
        read.append(len(inputs.ids))
        return reading(tower, inputs, view)

    monkeypatch.setattr(clip, "reading", counting)
    gallery, words = Gallery([], {}), ["a red dot", "a gray box"]
    seen = [gallery._read(model, words) for model in (before, after)]
    assert seen[0] is seen[1] is not None
    assert read == [2]
    for model in (before, after):
        shared, own = (text_probes(model, words, "plain", one) for one in (seen[0], None))
        torch.testing.assert_close(shared.vectors, own.vectors)
    assert gallery._read(after, words[:1]) is not seen[0]


# ---- exactness -------------------------------------------------------------------------------------------------------


def test_after_teaching_every_vector_has_the_bits_of_a_full_rebuild(taught: World, tmp_path: Path) -> None:
    index = SearchIndex.open(taught.index, device="cpu")
    assert index.tasks == ["warm", "cold", "dull"]
    rebuilt = fresh(taught, tmp_path / "fresh")
    assert vectors_of(index) == vectors_of(rebuilt)
    for query in ("a gray dot", "red box", "bar 2"):
        for scoring in ("plain", "routed"):
            hits = index.search_text(query, 24, scoring=scoring)
            assert hits == rebuilt.search_text(query, 24, scoring=scoring)
            assert len(hits) == 24


def test_the_stage_before_is_still_there_as_it_was(taught: World, world: World) -> None:
    index, before = (SearchIndex.open(own.index, device="cpu") for own in (taught, world))
    assert vectors_of(index, stage=0) == vectors_of(before)
    assert vectors_of(index) != vectors_of(before)
    assert index.search_text("a gray dot", 24, stage=0) == before.search_text("a gray dot", 24)


def test_forgetting_takes_the_domain_away_exactly(taught: World, world: World, tmp_path: Path) -> None:
    mine = taught.copy(tmp_path / "mine")
    with change(mine.index, device="cpu") as writer:
        stage = writer.forget("dull")
    assert (stage.kind, stage.task, stage.embedded) == ("forget", "dull", 0)
    index, never = (SearchIndex.open(own.index, device="cpu") for own in (mine, world))
    assert vectors_of(index) == vectors_of(never)
    assert index.search_text("a gray dot", 24) == never.search_text("a gray dot", 24)
    with change(mine.index, device="cpu") as writer:
        stage = writer.forget("warm")
    index.refresh()
    assert vectors_of(index) == vectors_of(fresh(mine, tmp_path / "fresh"))
    assert {row[1] for row in vectors_of(index).values()} == {"cold"}
    with change(mine.index, device="cpu") as writer, pytest.raises(UnknownNameError, match="No task is called 'dul'"):
        writer.forget("dul")


def test_what_is_forgotten_for_good_leaves_nothing_to_go_back_to(taught: World, world: World, tmp_path: Path) -> None:
    mine = taught.copy(tmp_path)
    with change(mine.index, device="cpu") as writer:
        tables = set(writer.store.names())
        writer.forget("dull")
        writer.drop_history()
        assert len(tables - set(writer.store.names())) == 1, "the features under its prompts"
        with pytest.raises(ConfigError, match="this is the first"):
            writer.rollback()
    index, never = (SearchIndex.open(own.index, device="cpu") for own in (mine, world))
    assert len(index.stages()) == 1
    assert vectors_of(index) == vectors_of(never)
    assert not [file for file in (mine.index / "models").rglob("*") if "dull" in file.name]


def test_rolling_back_takes_the_model_back_and_leaves_todays_pictures(taught: World, tmp_path: Path) -> None:
    mine = taught.copy(tmp_path / "mine")
    mine.paint("new.png", "gray", "dot", 0)
    mine.update()
    with change(mine.index, device="cpu") as writer:
        stage = writer.rollback()
    assert (stage.number, stage.kind, stage.pictures) == (2, "rollback", 25)
    assert stage.embedded <= 1
    index = SearchIndex.open(mine.index, device="cpu")
    assert index.tasks == ["warm", "cold"]
    assert vectors_of(index) == vectors_of(fresh(mine, tmp_path / "fresh"))
    with change(mine.index, device="cpu") as writer:
        assert writer.rollback().embedded == 0, "forward again"
        with pytest.raises(ConfigError, match="the earlier ones are 0 to 2; got 3"):
            writer.rollback(3)
        writer.tidy()
    index.refresh()
    assert index.tasks == ["warm", "cold", "dull"]
    assert [stage.kind for stage in index.stages()] == ["index", "teach", "rollback", "rollback"]


def test_soft_mixtures_are_mixed_anew_from_what_is_kept(world: World, tmp_path: Path, stream: TaskStream) -> None:
    hard = load_method(world.model)
    soft = lpi.method("lpi", hard.backbone, **{**recorded_options(hard), "soft_tasks": 2, "ood": "fallback"})
    restore(soft, [(name, stored_state(hard, row)) for row, name in enumerate(hard.tasks)], {})
    soft.router.kept[0]["radius_vision"].zero_()  # all that lie nearest to the first task fall back
    save_method(soft, tmp_path / "soft")
    mine = world.copy(tmp_path / "mine")
    before = vectors_of(mine.build(mine.root / "index-soft", model=tmp_path / "soft"))
    mine.index = mine.root / "index-soft"
    assert all(row[3].count(",") == 1 for row in before.values()), "two weights each"
    assert any("plain" in row[2] for row in before.values()), "some fall back to the frozen backbone"
    with change(mine.index, device="cpu") as writer:
        lesson = mine.lesson(writer)
        stage = adopt(writer, lesson)
    assert stage.embedded > 0
    assert vectors_of(SearchIndex.open(mine.index, device="cpu")) == vectors_of(fresh(mine, tmp_path / "fresh"))


def test_a_model_that_knows_nothing_yet_searches_with_the_frozen_backbone_and_can_be_taught(
    world: World, tmp_path: Path
) -> None:
    mine = world.copy(tmp_path)
    mine.index = tmp_path / "index-plain"
    index = mine.build(model=world.root / "clip")
    assert index.tasks == []
    hit = index.search_text("a dot")[0]
    assert (hit.task, hit.confidence, hit.margin) == ("", None, None)
    method = index.method()
    backbone = method.backbone
    text = F.normalize(backbone.encode_texts(backbone.inputs.tokenize(["a dot"])), dim=-1)
    picture = F.normalize(backbone.encode_images(_pixels(index, mine, hit.path)), dim=-1)
    plain = (text @ picture.T).item()
    assert hit.score == pytest.approx(plain, abs=2e-3)
    with change(mine.index, device="cpu") as writer:
        adopt(writer, mine.lesson(writer))
    index.refresh()
    assert vectors_of(index) == vectors_of(fresh(mine, tmp_path / "fresh"))


def _pixels(index: SearchIndex, world: World, path: str) -> torch.Tensor:
    return index.method().backbone.inputs.images([Image.open(world.photos / path).convert("RGB")])


# ---- what is gained and lost -----------------------------------------------------------------------------------------


def test_a_test_set_of_a_domain_that_was_never_taught_is_measured_too(world: World, tmp_path: Path) -> None:
    mine = world.copy(tmp_path)
    pictures = read_domain(world.captioned / "cold", "cold").test
    put_on_record(mine.index, TestSet("gulls", pictures))
    with change(mine.index, device="cpu") as writer:
        lesson = mine.lesson(writer)
    assert list(lesson.report["recall"]["old"]) == ["warm", "gulls"]
    tests = len(pictures) + len(lesson.test.records) + len(on_record(mine.index)["warm"].records)
    assert (lesson.report["tests"], lesson.report["among"]) == (tests, 24 + tests)


def test_the_report_measures_new_old_and_held_out_before_and_after(world: World, tmp_path: Path) -> None:
    mine = world.copy(tmp_path)
    held = read_domain(world.captioned / "cold", "cold").test
    put_on_record(mine.index, TestSet(HELD_OUT, held))
    with change(mine.index, device="cpu") as writer:
        lesson = mine.lesson(writer)
        before = writer.method
        report = lesson.report
        assert writer.manifest.current.number == 0, "nothing is adopted yet"
    assert set(report["recall"]["old"]) == {"warm"}
    assert report["unmeasured"] == ["cold"]
    assert report["pictures"] == 24
    assert report["share"] == report["reembed"] / 24
    assert report["seconds"]["learn"] > 0
    archive = [Image.open(file).convert("RGB") for file in sorted(mine.photos.rglob("*.png"))]
    records = (*held, *on_record(mine.index)["warm"].records, *lesson.test.records)
    texts, owner, pairs = relevance(records, equal_captions=True)
    texts, right = texts[: int((owner < len(held)).sum())], torch.from_numpy(pairs)
    for when, method in (("before", before), ("after", lesson.method)):
        pictures = [*(record.picture.open() for record in records), *archive]
        block = cosine_block(method.encode_texts(texts), method.encode_images(pictures))
        ranks = count_ranks(block, len(texts), right[right[:, 0] < len(texts)])
        found = report["recall"]["held_out"][when]
        assert found["captions"] == len(texts) == 2 * len(held)
        assert [found["r1"], found["r10"]] == pytest.approx([recall_at(k, ranks) for k in (1, 10)], abs=1e-6)


def test_the_figures_are_what_the_index_then_finds(world: World, tmp_path: Path) -> None:
    """The archive holds the domain's pictures, learned from and not: whoever types a test caption finds so many."""
    mine = world.copy(tmp_path)
    shutil.copytree(mine.captioned / "dull" / "images", mine.photos / "archive")
    mine.update()
    domain = read_domain(mine.captioned / "dull", "dull")
    fitting: dict[str, set[str]] = {}
    for record in (*domain.train, *domain.validation, *domain.test):
        for caption in record.captions:
            fitting.setdefault(caption, set()).add(content_id(record.picture.path))  # type: ignore[attr-defined]
    with change(mine.index, device="cpu") as writer:
        lesson = mine.lesson(writer)
        stage = adopt(writer, lesson)
    report, warm = lesson.report, len(on_record(mine.index)["warm"].records)
    assert (report["pictures"], report["among"]) == (48, 48 + warm), "the test pictures of dull are in it already"
    assert report["embedded"] == report["reembed"] == stage.embedded > 0
    assert report["seconds"]["embed"] is None
    shutil.copytree(mine.captioned / "warm" / "images", mine.photos / "warm-tests", ignore=_not_tests)
    mine.update()
    index = SearchIndex.open(mine.index, device="cpu")
    assert len(index) == report["among"]
    for number, when in enumerate(("before", "after")):
        told = report["recall"]["new"][when]
        asked = [caption for record in domain.test for caption in record.captions]
        found = [[hit.id for hit in index.search_text(caption, 10, stage=number, exact=True)] for caption in asked]
        for key, count in (("r1", 1), ("r10", 10)):
            hits = [bool(fitting[caption] & set(ids[:count])) for caption, ids in zip(asked, found, strict=True)]
            assert told[key] == pytest.approx(sum(hits) / len(hits), abs=0.5 / len(hits)), (when, key)
        assert told["captions"] == len(asked)


def _not_tests(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if not name.endswith("-2.png")]


def test_of_very_many_pictures_some_are_drawn_and_the_report_says_so(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = world.copy(tmp_path)
    monkeypatch.setattr("lpi.search.teaching.EMBEDDED", 2)
    with change(mine.index, device="cpu") as writer:
        lesson = mine.lesson(writer)
        report = lesson.report
        assert report["among"] < report["pictures"] + report["tests"]
        assert 0 < report["embedded"] < report["reembed"]
        assert report["seconds"]["embed"] is not None
        assert adopt(writer, lesson).embedded == report["reembed"]


def test_nothing_is_measured_without_the_folder_of_pictures(world: World, tmp_path: Path) -> None:
    mine = world.copy(tmp_path)
    mine.photos.rename(tmp_path / "away")
    with change(mine.index, device="cpu") as writer, pytest.raises(MissingFileError, match="Connect the disk"):
        mine.lesson(writer)


def test_what_is_learned_in_two_ways_is_kept_in_both(world: World, tmp_path: Path) -> None:
    mine = world.copy(tmp_path)
    steps: list[int] = []
    domain = read_domain(mine.captioned / "dull", "dull")
    with change(mine.index, device="cpu") as writer:
        for settings in (QUICK, QUICK.model_copy(update={"steps": 2})) * 2:
            learn(writer, domain, settings=settings, on_step=lambda step: steps.append(step.step))
    assert steps == [1, 2, 3, 1, 2]


def test_each_domains_queries_meet_the_pictures_of_all(world: World, tmp_path: Path) -> None:
    mine = world.copy(tmp_path)
    sets = [TestSet(task, read_domain(world.captioned / task, task).test) for task in ("warm", "cold")]
    with change(mine.index, device="cpu") as writer:
        found, routed = (Gallery(sets, {}).recall(writer, writer.method, scoring=way) for way in ("plain", "routed"))
        method = writer.method
    records = [record for own in sets for record in own.records]
    texts, owner, pairs = relevance(records, equal_captions=True)
    image_task = torch.arange(2).repeat_interleave(8)
    inputs, pictures = method.backbone.inputs, [record.picture.open() for record in records]
    pixels = torch.stack([torch.tensor(inputs.prepare(picture)).permute(2, 0, 1) for picture in pictures])
    vectors = method.encode_texts(texts), method.encode_images(pictures)
    routed_to = {"text": route_texts(method, texts), "vision": route_images(method, pixels)}
    sure = [0.1**0.5 * routing.membership for routing in routed_to.values()]
    both = [torch.cat(side, dim=1) for side in zip(vectors, sure, strict=True)]
    for measured, (ours, theirs) in ((found, vectors), (routed, both)):
        expected = recall_both_directions(
            ours,
            theirs,
            torch.from_numpy(pairs),
            text_task=image_task[torch.from_numpy(owner)],
            image_task=image_task,
            ks=(1,),
            similarity="dot",
        )
        for direction, key in (("text_to_image", "r1"), ("image_to_text", "image_to_text")):
            own = [measured[task][key] for task in ("warm", "cold")]
            assert own == pytest.approx(expected[direction]["1"], abs=1e-6)


def test_test_pictures_that_are_gone_are_counted_and_left_out(world: World, tmp_path: Path) -> None:
    mine = world.copy(tmp_path)
    file = next((mine.index / "tests").glob("*.json"))
    file.write_text(json.dumps(read_sealed(file)).replace("red-dot-2.png", "nowhere.png"))
    with change(mine.index, device="cpu") as writer:
        assert mine.lesson(writer).report["unreadable"] == {"warm": 1}


def test_what_was_learned_on_trial_is_not_learned_again(world: World, tmp_path: Path) -> None:
    mine = world.copy(tmp_path)
    steps: list[int] = []
    domain = read_domain(mine.captioned / "dull", "dull")
    with change(mine.index, device="cpu") as writer:
        first = learn(writer, domain, settings=QUICK, on_step=lambda step: steps.append(step.step))
        again = learn(writer, domain, settings=QUICK, on_step=lambda step: steps.append(step.step))
        assert steps == [1, 2, 3]
        assert first.report["recall"] == again.report["recall"]
        learn(writer, domain, settings=QUICK, seed=1, on_step=lambda step: steps.append(step.step))
    assert steps == [1, 2, 3, 1, 2, 3]
    assert len(list((mine.index / "lessons").iterdir())) == 1


def test_pictures_replaced_under_the_same_names_are_learned_anew(world: World, tmp_path: Path) -> None:
    mine = world.copy(tmp_path)
    shutil.copytree(mine.captioned / "dull", tmp_path / "dull")
    steps: list[int] = []
    with change(mine.index, device="cpu") as writer:
        for _ in range(2):
            domain = read_domain(tmp_path / "dull", "dull")
            learn(writer, domain, settings=QUICK, on_step=lambda step: steps.append(step.step))
            file = next((tmp_path / "dull" / "images").glob("*-0.png"))
            shutil.copy(next((world.captioned / "warm" / "images").glob("*-0.png")), file)
    assert steps == [1, 2, 3, 1, 2, 3]


def test_test_sets_of_ones_own_go_on_record_by_their_task(world: World, tmp_path: Path) -> None:
    mine = world.copy(tmp_path)
    assert record_source(mine.index, mine.captioned) == {"warm": 8, "cold": 8, "dull": 8}
    assert set(on_record(mine.index)) == {"warm", "cold", "dull"}
    set_file(mine.index, "dull").write_text("[]")
    with pytest.raises(CheckpointError, match="expected dict; got list"):
        on_record(mine.index)


def test_test_pictures_are_found_again_where_their_folder_is_moved(world: World, tmp_path: Path) -> None:
    photos = shutil.copytree(world.photos, tmp_path / "photos")
    index = photos / ".lpi-index"
    sent = index / "sent" / "0123" / "a.png"
    sent.parent.mkdir(parents=True)
    shutil.copy(world.photos / "warm/red/dot.png", sent)
    outside = world.photos / "warm" / "red" / "box.png"
    files = (sent, photos / "warm" / "red" / "tip.png", outside)
    records = tuple(CaptionedImage(FilePicture(file, file.name), ("a dot",), "x", "test") for file in files)
    put_on_record(index, TestSet("x", records))
    photos.rename(tmp_path / "moved")
    pictures = [record.picture for record in on_record(tmp_path / "moved" / ".lpi-index")["x"].records]
    there = [picture.path for picture in pictures if isinstance(picture, FilePicture)]
    assert [path.relative_to(tmp_path.resolve()).as_posix() for path in there[:2]] == [
        *("moved/.lpi-index/sent/0123/a.png", "moved/warm/red/tip.png")
    ]
    assert there[2] == outside.resolve()
    assert all(path.is_file() for path in there)


def test_what_lies_beside_a_model_is_taken_for_a_run_only_where_it_is_one(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.model, tmp_path / "model")
    write_json(tmp_path / "run.json", {"name": "another program's", "settings": []})
    assert load_model(tmp_path)[1] is None
    write_json(tmp_path / "run.json", {"experiment": "x", "row": "lpi", "settings": []})
    with pytest.raises(CheckpointError, match=r"run\.json: its 'settings' can't be right"):
        load_model(tmp_path / "model")
    settings = {"name": "x", "stream": {"kind": "gone"}, "training": {}}
    write_json(tmp_path / "run.json", {"experiment": "x", "row": "lpi", "settings": settings})
    note = record_run(tmp_path / "index", load_model(tmp_path)[1] or {})
    assert note is not None
    assert "test sets aren't on record: its stream is none that this version reads" in note


def test_a_taught_domain_is_measured_when_the_next_one_comes(taught: World) -> None:
    assert set(on_record(taught.index)) == {"warm", "dull"}


def test_pictures_that_cannot_be_embedded_again_are_dropped_with_a_reason(world: World, tmp_path: Path) -> None:
    mine, other = world.copy(tmp_path), world.copy(tmp_path / "other")
    with change(other.index, device="cpu") as writer:
        needed = sorted(key for key, task in routed(other, other.lesson(writer).method).items() if task == "dull")
    file = next(file for file in mine.photos.rglob("*.png") if content_id(file) == needed[0])
    file.unlink()
    with change(mine.index, device="cpu") as writer:
        stage = adopt(writer, mine.lesson(writer))
    assert (stage.pictures, stage.embedded) == (23, len(needed) - 1)
    name = file.relative_to(mine.photos).as_posix()
    assert "there is no such picture" in (mine.index / "skipped.json").read_text()
    assert name in (mine.index / "skipped.json").read_text()


# ---- mistakes --------------------------------------------------------------------------------------------------------


def test_wrong_domains_are_refused_by_name(taught: World, tmp_path: Path) -> None:
    with change(taught.index, device="cpu") as writer:
        with pytest.raises(ConfigError, match="task 'dull' was learned already"):
            taught.lesson(writer)
        with pytest.raises(ConfigError, match="needs another name; got 'held-out'"):
            learn(writer, read_domain(taught.captioned / "dull", HELD_OUT), settings=QUICK)
        with pytest.raises(ConfigError, match=r"needs another name; got 'two\\nlines'"):
            learn(writer, read_domain(taught.captioned / "dull", "two\nlines"), settings=QUICK)
        with pytest.raises(ConfigError, match=r"training has no option 'epoch'\. Did you mean 'epochs'"):
            training_settings(writer, {"epoch": 3})
        with pytest.raises(ConfigError, match=r"training: batch: .* got 1"):
            training_settings(writer, {"batch": 1})
    with pytest.raises(MissingFileError, match="no such folder of captioned pictures"):
        read_domain(tmp_path / "nowhere", "x")
    with pytest.raises(MissingFileError, match=r"no captions\.jsonl"):
        read_domain(taught.captioned, "x")
    text = (taught.captioned / "dull" / "captions.jsonl").read_text().replace('"test"', '"train"')
    os.symlink(taught.captioned / "dull" / "images", tmp_path / "images")
    (tmp_path / "captions.jsonl").write_text(text)
    with pytest.raises(DataError, match="too few pictures to be tested on"):
        read_domain(tmp_path, "x")
    with pytest.raises(DataError, match="no picture has the split"):
        record_source(taught.index, _only_train(tmp_path))


def _only_train(folder: Path) -> Path:
    file = folder / "captions.jsonl"
    rows = [{**json.loads(line), "task": "x"} for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.parametrize("scoring", ["plain", "routed"])
def test_gains_count_equal_pictures_by_their_share(world: World, tmp_path: Path, scoring: str) -> None:
    """Two files of the same picture, each with captions of its own: whatever the model, each is first half the time."""
    world.build_once()
    mine = world.copy(tmp_path)
    first = next(mine.photos.rglob("*.png"))
    folder = tmp_path / "twins"
    (folder / "images").mkdir(parents=True)
    rows = []
    for number in range(2):
        name = f"images/{number}.png"
        image = Image.open(first)
        image.save(folder / name, compress_level=number)  # other bytes, the same pixels
        rows.append({"image": name, "captions": [f"twin {number}"], "split": "test"})
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    records = tuple(load_task(folder, "twins"))
    with change(mine.index, device="cpu") as writer:
        found = Gallery([TestSet("twins", records)], {}).recall(writer, writer.method, scoring=scoring)["twins"]
    assert found["r1"] == pytest.approx(0.5)
