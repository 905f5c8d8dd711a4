"""How well a picture fits a query: measured once, kept, and honest about what has no meaning."""

from collections.abc import Iterator
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np
import pytest
from commands import Type
from PIL import Image
from search_world import World

from lpi.backbones import DualEncoder
from lpi.errors import ConfigError
from lpi.search.encoding import image_probes, text_probes
from lpi.search.fit import FILE, QUERIES, WELL, Fit, Scale, meaningless, standing_out
from lpi.search.index import SearchIndex
from lpi.search.suggestions import suggestions


@pytest.fixture(scope="module", autouse=True)
def few_words() -> Iterator[None]:
    """The tiny models have few words; what is counted is the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lpi.search.fit.LEAST_WORDS", 0)
        yield


def test_of_a_model_with_few_words_nothing_is_said(world: World, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lpi.search.fit.LEAST_WORDS", 1000)
        assert not SearchIndex.open(world.copy(tmp_path).index, device="cpu").measure()


@pytest.fixture(scope="module")
def measured(world: World) -> SearchIndex:
    opened = SearchIndex.open(world.index, device="cpu")
    assert opened.measure()
    return opened


def test_half_of_a_scale_is_where_so_many_are_above() -> None:
    seen = np.arange(100, dtype=np.float32)
    scale = Scale.of(seen, 0.1)
    assert (scale(seen) > WELL).sum() == 10
    assert (np.diff(scale(seen)) > 0).all()
    assert Scale.of(np.ones(3, dtype=np.float32), 0.1)(np.ones(1)) == WELL  # all alike: no division by nothing


def test_what_stands_out_is_the_same_as_counted_over_all_queries() -> None:
    draw = np.random.default_rng(0)
    vectors, nonsense, query = draw.normal(size=(5, 8)), draw.normal(size=(50, 8)), draw.normal(size=8)
    table = nonsense @ vectors.T
    expected = (vectors @ query - table.mean(axis=0)) / table.std(axis=0, ddof=1)
    found = standing_out(vectors @ query, vectors, nonsense.mean(axis=0), np.cov(nonsense.T))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_queries_without_meaning_are_of_the_models_own_words(clip: DualEncoder, dual: DualEncoder) -> None:
    for backbone in (clip, dual):
        words = backbone.inputs.words()
        assert {"dog", "the"} <= set(words)
        assert all(len(word) > 2 and word.isalpha() for word in words)
    words = [f"word{letter}" * 2 for letter in ascii_lowercase * 2]
    queries = meaningless(words)
    assert queries == meaningless(words)
    assert len(queries) == QUERIES
    assert {word for query in queries for word in query.split()} <= set(words)


def test_hits_say_how_well_they_fit_once_that_is_measured(world: World, measured: SearchIndex, tmp_path: Path) -> None:
    fresh = SearchIndex.open(world.copy(tmp_path).index, device="cpu")
    (fresh.folder / "models" / fresh.at().stage.model / FILE).unlink()
    fresh = SearchIndex.open(fresh.folder, device="cpu")
    assert all(hit.fit is None for hit in fresh.search("a red dot"))
    again = SearchIndex.open(world.index, device="cpu")
    assert again.search("a red dot") == measured.search("a red dot")
    hits = measured.search("a red dot", count=24)
    fits = [hit.fit for hit in hits]
    assert all(fit is not None and 0 <= fit <= 1 for fit in fits)
    middle = sorted(fits)[12]  # type: ignore[type-var]
    assert [hit.fit for hit in measured.search("a red dot", count=3)] == fits[:3]  # however few are asked for
    kept = measured.search("a red dot", count=24, least=middle)
    assert [hit.id for hit in kept] == [hit.id for hit in hits if hit.fit >= middle]  # type: ignore[operator]
    assert 0 < len(kept) < 24
    picture = world.photos / "warm" / "red" / "dot.png"
    assert measured.search_image(picture, 1, least=WELL)[0].path == "warm/red/dot.png"


def test_a_measure_is_kept_and_taken_again_when_the_pictures_change(world: World, tmp_path: Path) -> None:
    own = world.copy(tmp_path)
    first = SearchIndex.open(own.index, device="cpu")
    kept = own.index / "models" / first.at().stage.model / FILE
    assert first.measure()
    written = kept.stat().st_mtime_ns
    again = SearchIndex.open(own.index, device="cpu")
    assert again.measure()
    assert kept.stat().st_mtime_ns == written
    assert scales(again) == pytest.approx(scales(first))
    own.paint("new.png", "teal", "bar", 1)
    own.update()
    assert again.refresh()
    assert again.measure()
    assert kept.stat().st_mtime_ns != written
    kept.write_bytes(b"spoiled")
    assert SearchIndex.open(own.index, device="cpu").measure()


def scales(index: SearchIndex) -> list[float]:
    known = index.at().fitting.known
    assert isinstance(known, Fit)
    return [known.words.half, known.words.spread, known.pictures.half, known.pictures.spread]


def test_least_is_between_nothing_and_all(measured: SearchIndex) -> None:
    for least in (-0.1, 1.1):
        with pytest.raises(ConfigError, match="least must be between 0 and 1"):
            measured.search("a dot", least=least)


def test_of_a_few_pictures_nothing_is_said(world: World, tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for number in range(3):
        Image.new("RGB", (32, 32), (40 * number, 9, 9)).save(few / f"{number}.png")
    index = SearchIndex.build(world.model, few, index=tmp_path / "index", device="cpu")
    assert not index.measure()
    with pytest.raises(ConfigError, match="fewer than 20 pictures"):
        index.search("a dot", least=0.5)
    assert index.search("a dot")[0].fit is None


def test_a_query_knows_what_it_was_made_of(world: World, measured: SearchIndex) -> None:
    method = measured.method()
    assert text_probes(method, ["a dot"], "plain")[0].kind == "text"
    pixels = method.backbone.inputs.pixels([Image.new("RGB", (9, 9))])
    assert image_probes(method, pixels, "routed")[0].kind == "image"


def test_the_command_says_that_nothing_fits_and_shows_less(
    world: World, measured: SearchIndex, type_command: Type, monkeypatch: pytest.MonkeyPatch
) -> None:
    def search(*words: Any) -> Any:
        return type_command("search", "--index", world.index, "--device", "cpu", *words)

    monkeypatch.setattr("lpi.search.fit.WELL", 1.1)  # so that nothing fits, whatever is asked
    ended = search("qwertz asdf")
    assert "nothing here fits well; --least 0 shows more" in ended.err
    assert len(ended.out.splitlines()) == 3
    assert len(search("qwertz asdf", "--least", "0").out.splitlines()) == 10
    monkeypatch.undo()
    assert "as well as 100%" in search("a gray dot", "--least", "1").err


def test_words_to_begin_with_fit_well_and_lead_to_different_pictures(
    measured: SearchIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    for words in suggestions(measured):
        assert (measured.search(words, count=1)[0].fit or 0.0) >= WELL
    monkeypatch.setattr("lpi.search.suggestions.WELL", 0.0)
    found = suggestions(measured)
    assert 0 < len(found) <= 6
    best = [measured.search(words, count=1)[0] for words in found]
    assert len({hit.id for hit in best}) == len(found)
    assert [hit.fit for hit in best] == sorted((hit.fit for hit in best), reverse=True)  # type: ignore[type-var]


def test_a_picture_says_when_its_camera_took_it(world: World, tmp_path: Path) -> None:
    own = world.copy(tmp_path)
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = "2019:07:14 10:30:00"
    Image.new("RGB", (32, 32), "green").save(own.photos / "dated.jpg", exif=exif)
    own.update()
    index = SearchIndex.open(own.index, device="cpu")
    taken = {hit.path: index.taken(hit.id) for hit in index.newest(30)}
    assert taken.pop("dated.jpg") == "2019-07-14T10:30:00"
    assert set(taken.values()) == {""}
