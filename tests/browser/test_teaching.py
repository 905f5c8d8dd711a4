"""Teaching and forgetting from the page, as people do it: by folder, by zip, by typing; with keyboard, on a phone."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from search_world import World

from lpi.search import SearchIndex

Visit = Callable[..., Any]
HITS = "main .found .hit"


def known(world: World) -> list[str]:
    return SearchIndex.open(world.index, device="cpu").tasks


def begin(page: Any) -> None:
    page.wait_for_selector("main ul.opening")
    page.click("#teach")
    page.wait_for_selector("#teaching[open] form")


def forget_dull(page: Any) -> None:
    """The world that all tests share knows it already; a copy is to learn it."""
    begin(page)
    page.click("#teaching :text-is('Forget dull')")
    page.click("#teaching .sure")
    page.wait_for_selector("#teaching :text('dull is forgotten')")
    page.wait_for_selector("#stages option:nth-child(3)", state="attached")
    page.click("#teaching :text-is('Teach another')")
    page.wait_for_selector("#teaching form")


def on_trial(page: Any) -> list[str]:
    page.wait_for_selector("#teaching table")
    rows: list[str] = page.locator("#teaching tbody th").all_inner_texts()
    return rows


def test_a_folder_is_taught_looked_at_adopted_and_compared(own: Any, visit: Visit) -> None:
    page = visit(server=own)
    forget_dull(page)
    assert known(own.world) == ["warm", "cold"]
    page.set_input_files("#teaching input[webkitdirectory]", own.world.captioned / "dull")
    page.wait_for_selector("#teaching :text-matches('^[0-9]+ files, ')")
    page.fill("#domain", "dull")
    page.click("text=Learn it on trial")
    assert on_trial(page)[0] == "dull (new)"
    heads = page.locator("#teaching thead th").all_inner_texts()
    assert heads == ["Domain", "captions", "first: before", "after", "in ten: before", "after"]
    assert page.locator("#teaching tbody tr").first.locator("td").first.inner_text() == "16"
    among = len(SearchIndex.open(own.world.index, device="cpu")) + 8
    assert f"find their picture first, or among ten, of {among} pictures" in page.inner_text("#teaching .about")
    page.set_viewport_size({"width": 360, "height": 640})  # the table is moved within itself
    assert page.evaluate("(s => s.scrollWidth <= s.clientWidth)(document.querySelector('#teaching'))")
    page.set_viewport_size({"width": 1280, "height": 800})
    assert known(own.world) == ["warm", "cold"]
    held: list[Any] = []
    page.route("**/api/info", lambda route: held.append(route))
    page.click("#teaching :text-matches('^Adopt it')")
    page.wait_for_selector("#teaching :text('dull is known now')")
    assert known(own.world) == ["warm", "cold", "dull"]
    page.click("#teaching :text-is('Then and now')")  # before the page knows of the stage that it made
    page.wait_for_timeout(300)
    assert page.locator(".columns").count() == 0
    page.route("**/api/info", lambda route: route.continue_())
    held.pop().continue_()
    page.wait_for_selector(".columns section + section .hit")
    assert page.input_value("#words") == "dull"
    assert page.locator(".columns h2").all_inner_texts() == ["Then: 2 · forget dull", "Now: 3 · teach dull"]


def test_a_dropped_zip_is_taught_and_let_go(own: Any, visit: Visit, tmp_path: Path) -> None:
    page = visit(server=own)
    forget_dull(page)
    page.click("#teaching .close")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for file in sorted((own.world.captioned / "dull").rglob("*")):
            archive.write(file, file.relative_to(own.world.captioned))
    (tmp_path / "dull.zip").write_bytes(packed.getvalue())
    page.click("#teach")
    page.set_input_files("#teaching input[multiple]", tmp_path / "dull.zip")
    page.fill("#domain", "greys")
    page.keyboard.press("Enter")
    assert on_trial(page)[0] == "greys (new)"
    page.click("#teaching :text-is('Discard it')")
    page.wait_for_selector("#teaching form")
    assert known(own.world) == ["warm", "cold"]
    assert not list((own.world.index / "sent").glob("*"))


def test_two_folders_at_once_are_refused_rather_than_mixed(own: Any, visit: Visit, tmp_path: Path) -> None:
    page = visit(server=own)
    begin(page)
    files = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        files.append(tmp_path / folder / "captions.jsonl")
        files[-1].write_text('{"image": "a.png", "captions": ["a dot"]}\n')
    page.set_input_files("#teaching input[multiple]", files)
    page.wait_for_selector("#teaching [role=alert]:has-text('Two files are called captions.jsonl. Give one folder')")
    assert page.is_disabled("#teaching :text-is('Learn it on trial')")
    page.set_input_files("#teaching input[multiple]", files[:1])
    page.wait_for_selector("#teaching :text-matches('^1 file, ')")
    assert not page.is_visible("#teaching [role=alert]")


def test_selected_pictures_are_taught_by_saying_what_they_are(own: Any, visit: Visit) -> None:
    page = visit("/?q=a+gray+dot", server=own)
    page.wait_for_selector(HITS)
    page.click("#select")
    for place in range(4):
        assert page.is_disabled("#chosen :text-is('Teach these')") == (place < 3)
        page.locator(HITS).nth(place).click()
    page.click("#chosen :text-is('Teach these')")
    page.wait_for_selector("#teaching .captioned")
    page.fill("#domain", "mine")
    page.fill("#teaching .captioned li:nth-child(2) input", "a very special one")
    page.fill("#teaching label:has-text('What they all are') input", "one of mine")
    captions = page.locator("#teaching .caption").evaluate_all("all => all.map(field => field.value)")
    assert captions == ["one of mine", "a very special one", "one of mine", "one of mine"]
    page.click("text=Learn it on trial")
    assert on_trial(page)[0] == "mine (new)"
    page.keyboard.press("Escape")
    page.wait_for_selector("#teaching", state="hidden")
    page.click("#teach")  # it is still there
    assert on_trial(page)[0] == "mine (new)"
    assert "How many captions of pictures that weren't learned from (1 of mine)" in page.inner_text("#teaching")


def test_it_needs_no_mouse(own: Any, visit: Visit) -> None:
    page = visit("/?q=a+gray+dot", server=own)
    page.wait_for_selector(HITS)
    page.focus("#teach")
    page.keyboard.press("Enter")
    page.wait_for_selector("#teaching form")
    assert page.evaluate("document.activeElement.id") == "teaching-name"  # what it is, is read first
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "domain"
    page.keyboard.type("s/")  # letters, not the page's short cuts
    assert page.input_value("#domain") == "s/"
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "Forget dull":
            break
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.className") == "sure"
    page.keyboard.press("Enter")
    page.wait_for_selector("#teaching :text('dull is forgotten')")
    page.keyboard.press("Escape")
    page.wait_for_selector("#teaching", state="hidden")
    assert page.evaluate("document.activeElement.id") == "teach"
    assert known(own.world) == ["warm", "cold"]


def test_what_is_refused_is_said_and_what_was_typed_stays(own: Any, visit: Visit, tmp_path: Path) -> None:
    page = visit(server=own, failing=True)
    begin(page)
    (tmp_path / "notes.txt").write_text("no picture")
    page.set_input_files("#teaching input[multiple]", tmp_path / "notes.txt")
    page.fill("#domain", "warm")
    page.keyboard.press("Enter")
    page.wait_for_selector("#teaching [role=alert]:has-text(\"'warm' was taught already\")")
    assert page.input_value("#domain") == "warm"
    page.fill("#domain", "notes")
    page.keyboard.press("Enter")
    page.wait_for_selector('#teaching :text("notes wasn\'t learned")')
    assert "captions.jsonl" in page.inner_text("#teaching [role=alert]")
    page.click("text=Try again")
    page.wait_for_selector("#teaching form")


def test_how_far_it_is_and_how_long_it_takes_is_told(own: Any, visit: Visit) -> None:
    page = visit(server=own)
    page.wait_for_selector("main ul.opening")
    working = {"state": "working", "domain": "birds", "what": "learning", "done": 30, "total": 120, "seconds_left": 200}
    page.route("**/api/teaching", lambda route: route.fulfill(json={**working, "problem": ""}))
    page.click("#teach")
    page.wait_for_selector("#teaching :text('about 3 min left')")
    assert page.inner_text("#teaching h2") == "Learning birds"
    assert page.locator("#teaching progress").evaluate("bar => [bar.value, bar.max]") == [30, 120]
    working.update(done=1, total=1, seconds_left=None, what="measuring")
    page.wait_for_selector("#teaching .what:text('measuring')")
    assert page.locator("#teaching progress").evaluate("bar => bar.position") == -1  # nobody can say
    page.unroute("**/api/teaching")
    page.wait_for_selector("#teaching form")


@pytest.mark.parametrize("narrow", [False, True])
def test_the_dialog_fits_the_screen(visit: Visit, narrow: bool) -> None:
    page = visit("/?q=a+red+dot", narrow=narrow)
    page.wait_for_selector(HITS)
    page.emulate_media(color_scheme="dark")
    page.click("#select")
    for place in range(8):
        page.locator(HITS).nth(place).click()
    page.click("#chosen :text-is('Teach these')")
    page.wait_for_selector("#teaching .captioned li:nth-child(8)")
    overflow = "(d => d.scrollWidth - d.clientWidth)(document.getElementById('teaching'))"
    assert page.evaluate(overflow) <= 0
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    colours = "(s => [s.backgroundColor, s.color])(getComputedStyle(document.getElementById('teaching')))"
    paper, ink = page.evaluate(colours)
    assert paper == "rgb(22, 25, 23)"
    assert ink == "rgb(236, 234, 228)"
    page.keyboard.press("Escape")
    page.click("#chosen :text-is('Done')")
