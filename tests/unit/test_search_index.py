"""An index follows its folder: what is new, changed, moved, gone or broken; and what it answers."""

import io
import json
import os
import shutil
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image, WebPImagePlugin
from search_world import World, vectors_of

import lpi
from lpi.data.content import content_id
from lpi.errors import CheckpointError, ConfigError, DataError, MissingFileError, OutputError, UnknownNameError
from lpi.methods.base import Method
from lpi.methods.checkpoint import save_method
from lpi.methods.encoder import routing_features
from lpi.search import Filters, SearchIndex
from lpi.search.best import best_rows_each
from lpi.search.building import create
from lpi.search.files import Content
from lpi.search.manifest import read_manifest
from lpi.search.scoring import Probe
from lpi.search.writer import change
from lpi.storage import read_json, read_sealed


@pytest.fixture
def mine(world: World, tmp_path: Path) -> World:
    """A world to be spoiled, indexed."""
    world.build_once()
    return world.copy(tmp_path)


def paths(index: SearchIndex) -> list[str]:
    return sorted(path for own in index.rows().columns("paths")["paths"] for path in own)


# ---- the folder changes ----------------------------------------------------------------------------------------------


def test_every_picture_is_found_once(index: SearchIndex, world: World) -> None:
    assert len(index) == 24
    assert paths(index) == sorted(file.relative_to(world.photos).as_posix() for file in world.photos.rglob("*.png"))


def test_nothing_is_embedded_or_written_again_when_nothing_changed(mine: World) -> None:
    for file in mine.photos.rglob("*.png"):  # one painted a moment ago is looked at again, and noted as settled
        os.utime(file, (1e9, 1e9))
    mine.update()
    before = (mine.index / "index.json").read_bytes()
    done = mine.update()
    assert (done.embedded, done.added, done.gone, done.moved) == (0, 0, 0, 0)
    assert (mine.index / "index.json").read_bytes() == before


def test_new_changed_moved_and_deleted_files_are_told_apart_by_content(mine: World) -> None:
    (mine.photos / "warm" / "red" / "dot.png").rename(mine.photos / "here.png")
    (mine.photos / "warm" / "red" / "box.png").unlink()
    mine.paint("warm/red/bar.png", "red", "bar", 1)
    mine.paint("new/picture.png", "gold", "tip", 1)
    done = mine.update()
    assert (done.added, done.moved, done.gone, done.embedded) == (2, 1, 2, 2)
    index = SearchIndex.open(mine.index, device="cpu")
    assert "here.png" in paths(index)
    assert not {"warm/red/dot.png", "warm/red/box.png"} & set(paths(index))
    assert content_id(mine.photos / "new" / "picture.png") in vectors_of(index)
    fresh = mine.build(mine.root / "again")
    assert vectors_of(fresh) == vectors_of(index)


def test_a_copy_is_one_picture_with_two_files(mine: World) -> None:
    shutil.copy(mine.photos / "cold" / "blue" / "dot.png", mine.photos / "aaa.png")
    assert mine.update().embedded == 0
    index = SearchIndex.open(mine.index, device="cpu")
    hit = index.picture(content_id(mine.photos / "aaa.png"))
    assert (hit.path, hit.copies) == ("aaa.png", ("cold/blue/dot.png",))
    assert len(index) == 24
    (mine.photos / "aaa.png").unlink()
    assert mine.update().moved == 1


def test_a_file_is_read_again_only_if_size_or_time_changed_or_everything_is_rehashed(mine: World) -> None:
    file = mine.photos / "warm" / "red" / "dot.png"
    other = mine.photos / "warm" / "red" / "box.png"
    past = 1_600_000_000
    content = file.read_bytes()
    for path in (file, other):
        os.utime(path, (past, past))
    mine.update()
    altered = bytearray(content)
    altered[-1] ^= 1  # in the last chunk's checksum, which nobody needs
    file.write_bytes(altered)
    os.utime(file, (past, past))
    assert mine.update().added == 0, "same size and time: trusted"
    assert mine.update(rehash=True).added == 1


def test_broken_files_are_skipped_with_a_reason_on_record(mine: World) -> None:
    whole = (mine.photos / "warm" / "red" / "dot.png").read_bytes()
    (mine.photos / "cut.png").write_bytes(whole[:80])
    (mine.photos / "empty.jpg").write_bytes(b"")
    (mine.photos / "words.jpg").write_text("not a picture")
    (mine.photos / "notes.txt").write_text("not looked at")
    (mine.photos / ".hidden.png").write_bytes(b"not looked at")
    done = mine.update()
    assert set(done.skipped) == {"cut.png", "empty.jpg", "words.jpg"}
    assert all("can't be read" in reason for reason in done.skipped.values())
    assert read_json(mine.index / "skipped.json") == done.skipped
    assert done.pictures == 24
    (mine.photos / "cut.png").write_bytes(whole)
    assert set(mine.update().skipped) == {"empty.jpg", "words.jpg"}


def test_pipes_and_what_decoders_choke_on_are_skipped_by_name_and_stop_nothing(
    mine: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise KeyError("planes")

    os.mkfifo(mine.photos / "pipe.jpg")
    (mine.photos / "script.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    Image.new("RGB", (9, 9)).save(mine.photos / "odd.webp")
    Image.new("RGB", (1, 5000), "teal").save(mine.photos / "line.png")
    monkeypatch.setattr(WebPImagePlugin.WebPImageFile, "load", fails)
    done = mine.update()
    assert set(done.skipped) == {"pipe.jpg", "script.jpg", "odd.webp"}
    assert "it is a pipe" in done.skipped["pipe.jpg"]
    assert "its content is none of" in done.skipped["script.jpg"]
    assert "KeyError: 'planes'" in done.skipped["odd.webp"]
    assert done.pictures == 25


def test_a_name_that_is_not_utf8_is_skipped_with_a_reason(mine: World) -> None:
    try:
        shutil.copy(mine.photos / "warm" / "red" / "dot.png", os.fsencode(mine.photos) + b"/\xff.png")
    except OSError:
        pytest.skip("this file system knows only UTF-8 names")
    assert list(mine.update().skipped.values()) == ["its name isn't UTF-8. Rename it."]


def test_an_empty_folder_is_not_believed_unless_said_so(mine: World) -> None:
    shutil.rmtree(mine.photos)
    with pytest.raises(MissingFileError, match="connect the disk"):
        mine.update()
    mine.photos.mkdir()
    with pytest.raises(DataError, match="holds no picture any more, and the index 24"):
        mine.update()
    assert mine.update(emptied=True).gone == 24
    index = SearchIndex.open(mine.index, device="cpu")
    assert index.search_text("a red dot") == []


def test_the_index_may_lie_inside_the_folder_and_is_not_indexed(world: World, tmp_path: Path) -> None:
    mine = world.copy(tmp_path)
    shutil.rmtree(mine.index)
    index = mine.build(mine.photos / "search")
    (mine.photos / "search" / "in.png").write_bytes((mine.photos / "warm" / "red" / "dot.png").read_bytes())
    with change(mine.photos / "search", device="cpu") as writer:
        writer.update()
    assert paths(index) == paths(SearchIndex.open(mine.photos / "search", device="cpu"))


# ---- who may use it --------------------------------------------------------------------------------------------------


def test_only_one_command_changes_an_index_at_a_time(mine: World) -> None:
    with change(mine.index, device="cpu"), pytest.raises(OutputError, match="is being changed by another command"):
        mine.update()


def test_a_folder_with_other_things_is_not_taken_for_an_index(mine: World) -> None:
    with pytest.raises(OutputError, match="holds other things, first 'cold'"):
        create(mine.photos, mine.photos, mine.model, device="cpu")
    with pytest.raises(OutputError, match="holds an index already"):
        create(mine.index, mine.photos, mine.model, device="cpu")
    with pytest.raises(MissingFileError, match="there is no index"):
        SearchIndex.open(mine.photos)


def test_a_damaged_manifest_is_refused_with_one_line(mine: World) -> None:
    file = mine.index / "index.json"
    whole = file.read_text()
    for text, said in (
        (whole[:100], "damaged"),
        (whole.replace('"format": 1', '"format": 7'), "isn't of format 1"),
        (whole.replace('"root"', '"rot"'), "damaged"),
        ("[]", "isn't of format 1"),
    ):
        file.write_text(text)
        with pytest.raises(CheckpointError, match=said):
            SearchIndex.open(mine.index)


def test_a_model_whose_prompts_were_exchanged_is_refused_by_name(mine: World) -> None:
    from safetensors.torch import load_file, save_file

    model = next((mine.index / "models").iterdir())
    file = sorted((model / "tasks").glob("*.safetensors"))[1]
    tensors = load_file(file)
    tensors["routing/radius_vision"] += 1
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match=r"was made with another model than .*: task 'cold' has prompts"):
        SearchIndex.open(mine.index)


# ---- answers ---------------------------------------------------------------------------------------------------------


def test_scores_are_the_cosines_of_the_models_own_vectors(index: SearchIndex, world: World) -> None:
    method = index.method()
    files = sorted(world.photos.rglob("*.png"))
    pictures = method.encode_images([Image.open(file).convert("RGB") for file in files])
    scores = (method.encode_texts(["a red dot"]) @ pictures.T)[0]
    expected = dict(zip((content_id(file) for file in files), scores.tolist(), strict=True))
    hits = index.search_text("a red dot", 24)
    assert [hit.id for hit in hits] == sorted(
        (hit.id for hit in hits), key=lambda key: -next(h.score for h in hits if h.id == key)
    )
    for hit in hits:
        assert hit.score == pytest.approx(expected[hit.id], abs=2e-3)  # kept in half precision


def test_a_picture_finds_itself_and_similar_leaves_it_out(index: SearchIndex, world: World) -> None:
    file = world.photos / "cold" / "teal" / "bar.png"
    hit = index.search_image(file, 3)[0]
    assert (hit.path, hit.score) == ("cold/teal/bar.png", pytest.approx(1.0, abs=1e-3))
    assert (hit.width, hit.height) == (32, 32)
    near = index.similar(hit.id, 23)
    assert len(near) == 23
    assert hit.id not in {other.id for other in near}
    by_picture = [other.id for other in index.search_image(file, 24)][1:]
    assert [other.id for other in near][:5] == by_picture[:5]


def test_a_hit_names_its_task_and_how_sure_the_router_was(index: SearchIndex) -> None:
    method = index.method()
    rows = index.rows().columns("id", "distances", "task")
    for key, distances, task in zip(*rows.values(), strict=True):
        hit = index.picture(key)
        assert hit.task == task == method.tasks[distances.index(min(distances))]
        assert hit.margin == pytest.approx(max(distances) - min(distances), abs=1e-6)
        sure = method.router.posteriors("vision", torch.tensor([distances])).max()
        assert hit.confidence == pytest.approx(float(sure), abs=1e-5)


@pytest.mark.parametrize("scoring", ["plain", "routed"])
def test_filters_leave_the_order_of_what_remains(index: SearchIndex, scoring: str) -> None:
    everything = index.search_text("a dot", 24, scoring=scoring)
    assert len(everything) == 24
    for filters, keep in (
        (Filters(folder="cold"), lambda hit: hit.path.startswith("cold/")),
        (Filters(folder="cold/teal/"), lambda hit: hit.path.startswith("cold/teal/")),
        (Filters(folder="."), lambda hit: True),
        (Filters(task="warm"), lambda hit: hit.task == "warm"),
        (Filters(since="2001-01-01", until="2999-01-01T00:00:00"), lambda hit: True),
        (Filters(until="2001-01-01"), lambda hit: False),
    ):
        found = index.search_text("a dot", 24, filters, scoring=scoring)
        assert [hit.id for hit in found] == [hit.id for hit in everything if keep(hit)], filters


def posteriors(method: Method, tower: str, looks: torch.Tensor) -> torch.Tensor:
    """How likely each task is, [items, tasks], of what routes them."""
    return method.router.posteriors(tower, method.router(tower, looks).distances)


def test_routed_scores_add_the_agreement_of_both_sides_to_the_cosine(index: SearchIndex, world: World) -> None:
    method, rows = index.method(), index.rows()
    columns = rows.columns("id", "paths")
    vectors = torch.from_numpy(rows.vectors(columns["id"]))
    pictures = [Image.open(world.photos / paths[0]).convert("RGB") for paths in columns["paths"]]
    prepared = method.backbone.inputs.normalise(
        torch.stack([torch.tensor(method.backbone.inputs.prepare(picture)).permute(2, 0, 1) for picture in pictures])
    )
    theirs = posteriors(method, "vision", routing_features(method.router, method.backbone, "vision", prepared))
    words = ["a dot", "a teal bar"]
    ours = posteriors(method, "text", routing_features(method.router, method.backbone, "text", words))
    scores = method.encode_texts(words) @ vectors.T + 0.1 * ours @ theirs.T
    for word, own in zip(words, scores, strict=True):
        found = {hit.id: hit.score for hit in index.search_text(word, 24, scoring="routed")}
        assert found == pytest.approx(dict(zip(columns["id"], own.tolist(), strict=True)), abs=1e-3)  # half precision
        assert found != pytest.approx({hit.id: hit.score for hit in index.search_text(word, 24)}, abs=1e-3)
    own = method.encode_images(pictures[:1]) @ vectors.T + 0.1 * theirs[:1] @ theirs.T
    found = {hit.id: hit.score for hit in index.search_image(pictures[0], 24, scoring="routed")}
    assert found == pytest.approx(dict(zip(columns["id"], own[0].tolist(), strict=True)), abs=1e-3)


def test_what_agrees_best_is_found_however_far_down_the_cosines_it_stands(index: SearchIndex) -> None:
    view = index.at()
    probes = [
        Probe(index.method().encode_texts(["a dot"])[0], torch.tensor(weights))
        for weights in ([9.0, 0.0], [0.0, 9.0], [0.1, 0.0], [0.0, 0.0])
    ]
    found = best_rows_each(view.rows, probes, 2, Filters(), False, membership=view.membership)
    every = view.rows.columns("id", "task", "distances")
    rows = [dict(zip(every, values, strict=True)) for values in zip(*every.values(), strict=True)]
    vectors = torch.from_numpy(view.rows.vectors(every["id"]))
    for own, best in zip(probes, found, strict=True):
        scores = vectors @ own.vector + view.membership(rows) @ own.membership
        order = sorted(range(len(rows)), key=lambda row: (-float(scores[row]), every["id"][row]))
        assert [row["id"] for row in best] == [every["id"][row] for row in order[:2]]
    assert len({row["task"] for best in found[:2] for row in best}) == 2


def test_a_model_without_tasks_has_nothing_to_agree_on(index: SearchIndex, world: World, tmp_path: Path) -> None:
    save_method(lpi.method("lpi", index.method().backbone), tmp_path / "untaught")
    create(tmp_path / "index", world.photos, tmp_path / "untaught", device="cpu")
    plain = SearchIndex.open(tmp_path / "index", device="cpu")
    assert plain.search_text("a dot", 5, scoring="routed") == plain.search_text("a dot", 5)


def test_captions_are_ranked_by_their_scores(index: SearchIndex, world: World) -> None:
    captions = ["a red dot", "teal bar", "black tip", "teal bar"]
    file = world.photos / "cold" / "teal" / "bar.png"
    for scoring in ("plain", "routed"):
        ranked = index.rank_captions(file, captions, scoring=scoring)
        assert sorted(text for text, _ in ranked) == sorted(captions)
        assert [score for _, score in ranked] == sorted((score for _, score in ranked), reverse=True)
    picture = index.method().encode_images([Image.open(file).convert("RGB")])
    scores = (index.method().encode_texts(captions) @ picture.T)[:, 0].tolist()
    found = sorted(score for _, score in index.rank_captions(file, captions))
    assert found == pytest.approx(sorted(scores), abs=1e-5)


def test_requests_that_make_no_sense_are_refused_by_name(index: SearchIndex, world: World) -> None:
    with pytest.raises(ConfigError, match="got an empty text"):
        index.search_text("  ")
    with pytest.raises(ConfigError, match="k must be at least 1; got 0"):
        index.search_text("a dot", 0)
    with pytest.raises(ConfigError, match=r"scoring must be plain or routed; got 'rooted'\. Did you mean 'routed'"):
        index.search_text("a dot", scoring="rooted")
    with pytest.raises(ConfigError, match="stage must be between 0 and 0; got 3"):
        index.search_text("a dot", stage=3)
    with pytest.raises(UnknownNameError, match=r"No domain is called 'wram'\. Did you mean 'warm'"):
        index.search_text("a dot", filters=Filters(task="wram"))
    with pytest.raises(ConfigError, match="since must be a date like 2024-05-31; got 'May'"):
        Filters(since="May")
    with pytest.raises(UnknownNameError, match="no picture has the id 'x'"):
        index.similar("x' OR 'a' = 'a"[:1])
    with pytest.raises(UnknownNameError, match="no picture has the id"):
        index.picture("x' OR 'a' = 'a")
    with pytest.raises(ConfigError, match="no captions"):
        index.rank_captions(world.photos / "cold" / "teal" / "bar.png", [])
    with pytest.raises(MissingFileError, match=r"nothing\.png"):
        index.search_image("nothing.png")


# ---- files, by id ----------------------------------------------------------------------------------------------------


def test_a_thumbnail_is_of_the_very_picture_that_was_indexed(mine: World) -> None:
    index = SearchIndex.open(mine.index, device="cpu")
    file = mine.photos / "dull" / "gray" / "tip.png"
    key = content_id(file)
    assert index.path(key) == mine.photos.resolve() / "dull" / "gray" / "tip.png"
    image = Image.open(io.BytesIO(index.thumbnail(key, 16)))
    assert (image.format, image.size) == ("JPEG", (16, 16))
    mine.paint("dull/gray/tip.png", "red", "tip", 0)
    with pytest.raises(MissingFileError, match="no longer there, or changed"):
        index.thumbnail(key)
    with pytest.raises(ConfigError, match="side must be between 16 and 2048"):
        index.thumbnail(key, 5000)


def test_a_photograph_on_its_side_is_upright_and_dated_by_its_camera(mine: World) -> None:
    image = Image.new("RGB", (60, 40), "teal")
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8769)[0x9003] = "2019:07:04 12:30:00"
    image.save(mine.photos / "side.jpg", exif=exif)
    mine.update()
    index = SearchIndex.open(mine.index, device="cpu")
    hit = index.picture(content_id(mine.photos / "side.jpg"))
    assert (hit.width, hit.height, hit.date) == (40, 60, "2019-07-04T12:30:00")
    found = index.search_text("a dot", filters=Filters(since="2019-07-04", until="2019-07-04"))
    assert [other.id for other in found] == [hit.id]


# ---- beside a command that changes it --------------------------------------------------------------------------------


def test_a_snapshot_stays_as_it_is_until_it_is_refreshed(mine: World) -> None:
    index = SearchIndex.open(mine.index, device="cpu")
    before = index.search_text("a dot", 24)
    mine.paint("new.png", "red", "dot", 0)
    (mine.photos / "warm" / "red" / "dot.png").unlink()
    mine.update()
    assert index.search_text("a dot", 24) == before
    assert index.refresh()
    assert "new.png" in {hit.path for hit in index.search_text("a dot", 24)}
    assert not index.refresh()


def test_what_was_written_but_not_published_does_not_count_and_is_done_again(mine: World) -> None:
    mine.paint("new.png", "red", "dot", 0)
    manifest = read_manifest(mine.index)
    mine.update()
    late = read_manifest(mine.index).current.version
    manifest.write(mine.index)  # as if the process had died just before
    index = SearchIndex.open(mine.index, device="cpu")
    assert len(index) == len(index.rows()) == 24
    done = mine.update()
    assert (done.added, done.embedded) == (1, 0), "its feature is there"
    assert read_manifest(mine.index).current.version > late
    index.refresh()
    assert len(index) == 25
    assert len(set(index.rows().columns("id")["id"])) == 25


def test_the_approximate_index_finds_what_the_exact_one_finds(mine: World) -> None:
    mine.paint("new.png", "red", "dot", 0)
    for number in range(10):
        for colour in ("red", "blue", "gray"):
            for shape in ("dot", "box", "bar", "tip"):
                image = Image.open(mine.paint(f"more/{colour}-{shape}-{number}.png", colour, shape, number % 5))
                image.putpixel((0, number), (1, 2, 3))
                image.save(mine.photos / "more" / f"{colour}-{shape}-{number}.png")
    with change(mine.index, device="cpu", approximate_from=64) as writer:
        writer.update()
    index = SearchIndex.open(mine.index, device="cpu")
    assert index.rows()._table.list_indices()
    exact, found = (index.search_text("a dot", 5, exact=exact) for exact in (True, False))
    # the index sums products in another order, and some processors round that otherwise
    assert [hit.score for hit in found] == pytest.approx([hit.score for hit in exact], abs=1e-6)
    assert [replace(hit, score=0.0) for hit in found] == [replace(hit, score=0.0) for hit in exact]


def test_an_index_of_an_earlier_version_says_how_to_make_it_anew(mine: World, monkeypatch: pytest.MonkeyPatch) -> None:
    stage, other = read_manifest(mine.index).current, "f" * 16  # as if the model had been known by another name
    models = mine.index / "models"
    (models / stage.model).rename(models / other)
    content = read_sealed(mine.index / "index.json")
    (mine.index / "index.json").write_text(json.dumps(content).replace(stage.model, other))
    with pytest.raises(CheckpointError, match="was made with another model than"):
        SearchIndex.open(mine.index, device="cpu")
    monkeypatch.setattr("lpi.search.identity.FORMAT", 3)  # as the next version has it
    with pytest.raises(CheckpointError, match=r"made by an earlier version, .*: lpi index .* --index NEW_FOLDER"):
        SearchIndex.open(mine.index, device="cpu")


def test_links_to_folders_and_devices_own_folders_are_left_out_and_said(mine: World, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    first = next(mine.photos.rglob("*.png"))
    shutil.copy(first, tmp_path / "elsewhere" / "a.png")
    (mine.photos / "linked").symlink_to(tmp_path / "elsewhere")
    (mine.photos / "@eaDir").mkdir()
    Image.new("RGB", (20, 20), "pink").save(mine.photos / "@eaDir" / "thumb.png")
    done = mine.update()
    assert done.added == 0
    assert "links to folders aren't followed" in done.skipped["linked"]
    assert "a device's own" in done.skipped["@eaDir"]


def test_what_a_person_excludes_stays_out_with_later_updates(mine: World) -> None:
    mine.paint("old/a.png", "red", "dot", 4)
    Image.new("RGB", (20, 20), "pink").save(mine.photos / "b.gif")
    with change(mine.index, device="cpu") as writer:
        writer.leave_out(["old", "*.gif"])
        assert writer.update().added == 0
    assert mine.update().added == 0
    assert read_manifest(mine.index).exclude == ("old", "*.gif")


def test_a_folder_is_found_however_its_letters_are_composed(mine: World) -> None:
    mine.paint(unicodedata.normalize("NFD", "Köln/a.png"), "red", "dot", 4)
    mine.update()
    index = SearchIndex.open(mine.index, device="cpu")
    (hit,) = index.search_text("a red dot", 9, Filters(folder="Köln"))
    assert unicodedata.normalize("NFC", hit.path) == "Köln/a.png"
    with pytest.raises(UnknownNameError, match=r"No folder is called 'Kölm'. Did you mean"):
        index.search_text("a red dot", 9, Filters(folder="Kölm"))
    assert [found.path for found in index.newest(9, Filters(folder="Köln"))] == [hit.path]
    assert (index.count(Filters(folder="Köln")), index.count(Filters(folder="Kölm"))) == (1, 0)
    with pytest.raises(UnknownNameError, match=r"No folder is called 'Kölm'"):
        index.newest(9, Filters(folder="Kölm"))
    with pytest.raises(ConfigError, match="since must be a date without a time zone"):
        Filters(since="2024-05-02T10:00:00+02:00")
    with pytest.raises(ConfigError, match="since must not be after until"):
        Filters(since="2024-05-02", until="2024-05-01")


def test_a_file_of_no_believable_time_ends_nothing() -> None:
    content = Content("0" * 32, ("a.png",), (f"10:{2**40 * 10**9}",))
    assert content.modified == "9999-12-31T23:59:59"
    assert Content("0" * 32, ("a.png",), (f"10:{-(2**40) * 10**9}",)).modified == "0001-01-01T00:00:00"
    assert Content("0" * 32, ("a.png",), ("?10:1700000000123456789",)).modified == "2023-11-14T22:13:20"


def test_words_that_the_model_does_not_read_are_told_of(index: SearchIndex) -> None:
    short, long = index.encode_texts(["a red dot", "red dot " * 200])
    assert (short.cut, long.cut) == (False, True)
