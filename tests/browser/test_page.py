"""The page of ``lpi serve``, as people use it: with the mouse, with the keyboard, on a phone, in the dark."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from search_world import World

Visit = Callable[..., Any]
HITS = "main .hit"


def names(page: Any, within: str = "main") -> list[str]:
    """The file names of the hits, best first."""
    found: list[str] = page.locator(f"{within} .hit img").evaluate_all("all => all.map(image => image.alt)")
    return found


def found(page: Any, count: int) -> None:
    """Wait for so many hits; the page's policy forbids waiting by a script."""
    page.wait_for_selector(f"main .grid li:nth-child({count}):last-child", state="attached")


def test_a_new_user_types_and_finds_a_picture(visit: Visit) -> None:
    page = visit()
    page.wait_for_selector("text=24 pictures in photos")
    assert page.evaluate("document.activeElement.id") == "words"
    page.keyboard.type("a red dot")  # without Enter: a pause is enough
    page.wait_for_selector(HITS)
    assert page.locator(HITS).count() == 24
    assert re.match(r"24 pictures in \d+ ms · answered by ", page.inner_text("#said"))
    assert page.locator("main .hit img").first.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    assert "q=a+red+dot" in page.url
    page.locator(HITS).first.click()
    page.wait_for_selector("#detail[open] .like img")
    assert page.inner_text("#detail h2") == names(page)[0]
    assert page.locator("#detail .like button").count() == 12
    page.click("#detail .close")
    assert not page.locator("#detail[open]").count()


def test_everything_can_be_done_with_the_keyboard(visit: Visit) -> None:
    page = visit("/?q=a+blue+box")
    page.wait_for_selector(HITS)
    page.keyboard.press("ArrowDown")
    focused = "document.activeElement.getAttribute('aria-label')"
    assert page.evaluate(focused).startswith("1: ")
    page.keyboard.press("ArrowRight")
    assert page.evaluate(focused).startswith("2: ")
    page.keyboard.press("ArrowDown")
    assert int(page.evaluate(focused).split(":")[0]) > 2
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    page.wait_for_selector("#detail[open]")
    shown = page.locator("#detail").get_attribute("data-id")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector(f"#detail[open]:not([data-id='{shown}'])")
    page.keyboard.press("Escape")
    page.wait_for_selector("#detail:not([open])", state="attached")
    page.keyboard.press("s")  # pictures like the one that has the focus
    page.wait_for_selector("#query-picture:not([hidden])")
    assert "like=" in page.url
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "words"


def test_a_dropped_picture_is_searched_with(visit: Visit, taught: World) -> None:
    page = visit()
    page.set_input_files("#file", taught.photos / "dull" / "gray" / "dot.png")
    page.wait_for_selector(HITS)
    assert page.locator(HITS).first.get_attribute("title").startswith("dull/gray/dot.png")
    assert page.locator("#query-picture img").evaluate("image => image.naturalWidth") > 0
    page.click("#drop-query")
    page.wait_for_selector(".message")
    page.set_input_files("#file", {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no picture"})
    page.wait_for_selector("text=notes.txt is not a picture")


def test_filters_narrow_what_is_found_and_can_be_cleared(visit: Visit) -> None:
    page = visit("/?q=dot")
    page.wait_for_selector(HITS)
    page.select_option("#folder", "cold")
    found(page, 8)
    assert all(title.startswith("cold/") for title in page.locator(HITS).evaluate_all("a => a.map(h => h.title)"))
    page.fill("#until", "2001-01-01")
    page.wait_for_selector("text=No picture passes these filters.")
    page.click("main button")
    found(page, 24)
    assert page.url.endswith("?q=dot")
    page.go_back()
    page.wait_for_selector("text=Nothing found")
    assert page.input_value("#folder") == "cold"


def test_two_stages_stand_side_by_side(visit: Visit) -> None:
    page = visit("/?q=a+gray+dot")
    page.wait_for_selector(HITS)
    now = names(page)
    assert page.inner_text("#stage-label") == "now"
    page.focus("#stage")
    page.keyboard.press("ArrowLeft")
    page.wait_for_url("**stage=0*")
    page.wait_for_selector("body:not(.busy)")
    page.check("#compare")
    page.wait_for_selector(".columns section + section .hit")
    assert names(page, ".columns section:nth-child(2)") == now
    assert page.locator(".columns section").count() == 2
    assert page.locator(".columns h2").all_inner_texts()[1].startswith("Now: ")
    assert set(names(page, ".columns section:nth-child(1)")) == set(now)  # all 24 pictures, in another order


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(visit: Visit, scheme: str) -> None:
    page = visit("/?q=a+red+dot", narrow=True, color_scheme=scheme)
    page.wait_for_selector(HITS)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.locator(HITS).first.click()
    page.wait_for_selector("#detail[open] .like img")
    assert page.evaluate("document.getElementById('detail').scrollWidth") <= 360
    paper, ink = page.evaluate("(s => [s.backgroundColor, s.color])(getComputedStyle(document.documentElement))")
    light = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (paper, ink)]
    assert (light[0] < light[1]) == (scheme == "dark")
    assert abs(light[0] - light[1]) > 450


def test_a_server_that_is_gone_is_said_and_can_be_tried_again(visit: Visit) -> None:
    page = visit("/?q=a+red+dot", quiet=False)
    page.wait_for_selector(HITS)
    page.route("**/api/search**", lambda route: route.abort())
    page.fill("#words", "a blue box")
    page.wait_for_selector("role=alert")
    assert "The server doesn't answer. Is lpi serve still running?" in page.inner_text("main")
    page.unroute("**/api/search**")
    page.click("text=Try again")
    page.wait_for_selector(HITS)


def test_what_the_server_refuses_is_said_in_its_own_words(visit: Visit) -> None:
    page = visit("/?q=a+red+dot&stage=7", quiet=False)
    page.wait_for_selector("role=alert")
    assert "stage must be between 0 and 1; got 7." in page.inner_text("main")
