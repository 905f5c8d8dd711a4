"""The page of ``lpi serve``, as people use it: with the mouse, with the keyboard, on a phone, in the dark."""

import base64
import re
from collections.abc import Callable
from typing import Any

from search_world import World

from lpi.search.writer import change

Visit = Callable[..., Any]
HITS = "main .found .hit"
COPYING = """() => {
    window.copied = [];
    navigator.clipboard.writeText = async text => void window.copied.push(text);
}"""  # keeps what is copied where a test sees it
FOLLOWED = """async stage => {
    for (let left = 400; left; left -= 1) {
        const health = await (await fetch("/api/health")).json();
        if (health.stage === stage) return true;
        await new Promise(resolve => setTimeout(resolve, 25));
    }
    return false;
}"""  # whether the server takes over a stage within ten seconds


def names(page: Any, within: str = "main .found") -> list[str]:
    """The file names of the hits, best first."""
    found: list[str] = page.locator(f"{within} .hit img").evaluate_all("all => all.map(image => image.alt)")
    return found


def found(page: Any, count: int) -> None:
    """Wait for so many hits; the page's policy forbids waiting by a script."""
    page.wait_for_selector(f"main .found li:nth-child({count}):last-child", state="attached")


def test_a_new_user_types_and_finds_a_picture(visit: Visit) -> None:
    page = visit()
    page.wait_for_selector("text=24 pictures in photos")
    assert page.evaluate("document.activeElement.id") == "words"
    page.keyboard.type("a red dot")  # without Enter: a pause is enough
    page.wait_for_selector(HITS)
    assert page.locator(HITS).count() == 24
    assert re.match(r"24 pictures in \d+ ms · answered by ", page.inner_text("#said"))
    assert page.locator(f"{HITS} img").first.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    assert "q=a+red+dot" in page.url
    page.locator(HITS).first.click()
    page.wait_for_selector("#detail[open] .like img")
    assert page.inner_text("#detail h2") == names(page)[0]
    assert page.locator("#detail .like button").count() == 12
    page.click("#detail .close")
    assert not page.locator("#detail[open]").count()


def test_the_page_opens_with_the_newest_pictures_and_they_can_be_looked_at(visit: Visit) -> None:
    page = visit()
    page.wait_for_selector("main ul.opening li:nth-child(24)")
    assert not page.locator("main .score").count()  # nothing was asked for, so nothing fits better or worse
    page.locator("main .opening .hit").first.click()
    page.wait_for_selector("#detail[open] .like img")
    page.wait_for_selector("#detail dt:text('File from')")  # no camera took them
    assert not page.locator("#detail dt:text('Score')").count()
    page.keyboard.press("Escape")


def test_more_come_by_scrolling_in_their_order(visit: Visit) -> None:
    page = visit()
    page.wait_for_selector("main ul.opening")
    page.route("**/api/search**", lambda route: route.continue_(url=route.request.url.replace("k=48", "k=9")))
    page.fill("#words", "a red dot")
    found(page, 24)
    whole = page.evaluate("fetch('/api/search?q=a+red+dot&k=24').then(answer => answer.json())")["hits"]
    shown = page.locator(HITS).evaluate_all("all => all.map(hit => hit.dataset.id)")
    assert shown == [hit["id"] for hit in whole]
    assert page.inner_text("#count").startswith("24 ")
    assert page.locator(HITS).nth(12).get_attribute("aria-label").startswith("13: ")


def answered(page: Any, change: Callable[[Any], None]) -> None:
    """Let the page see another answer to its next searches."""

    def answer(route: Any) -> None:
        response = route.fetch()
        content = response.json()
        change(content)
        route.fulfill(response=response, json=content)

    page.route("**/api/search**", answer)


def test_words_that_nothing_fits_are_told_so_and_less_is_shown(visit: Visit) -> None:
    page = visit()
    page.wait_for_selector("main ul.opening")
    answered(page, lambda said: said.update(fits_well=False))
    page.fill("#words", "qwertz asdf")
    page.wait_for_selector("text=Nothing here fits well.")
    found(page, 8)
    page.click("text=Show more all the same")
    found(page, 24)
    page.wait_for_url("**all=1*")
    assert page.is_visible("text=Nothing here fits well.")
    page.unroute("**/api/search**")
    answered(page, lambda said: said.update(fits_well=True))
    page.fill("#words", "a red dot")
    page.wait_for_selector(".poor", state="detached")
    found(page, 24)
    assert "all=1" not in page.url


def test_how_well_each_fits_is_the_length_of_its_bar(visit: Visit) -> None:
    page = visit()
    page.wait_for_selector("main ul.opening")
    answered(page, lambda said: [hit.update(fit=0.5) for hit in said["hits"]])
    page.fill("#words", "a red dot")
    found(page, 24)
    shares = page.locator("main .found .score").evaluate_all(
        "all => all.map(bar => +bar.style.getPropertyValue('--share'))"
    )
    assert set(shares) == {0.52}
    assert "how well it fits" in page.inner_text("#said")


def test_several_can_be_selected_and_their_paths_copied(visit: Visit) -> None:
    page = visit("/?q=a+red+dot")
    page.wait_for_selector(HITS)
    page.click("#select")
    first, third = (page.locator(HITS).nth(place) for place in (0, 2))
    first.click()
    third.click()
    page.wait_for_selector("#chosen :text('2 pictures selected')")
    first.click()
    page.wait_for_selector("#chosen :text('1 picture selected')")
    assert [one.get_attribute("aria-pressed") for one in (first, third)] == ["false", "true"]
    page.evaluate(COPYING)
    page.click("text=Copy paths")
    page.wait_for_selector("#chosen :text('Copied')")
    assert page.evaluate("window.copied") == [third.get_attribute("title").split("\n")[0]]
    with page.expect_download() as download:
        page.click("#chosen :text('Download')")
    assert download.value.suggested_filename == names(page)[2]
    page.click("text=Done")
    page.wait_for_selector("#chosen", state="hidden")
    first.click()
    page.wait_for_selector("#detail[open]")
    page.keyboard.press("Escape")


def test_the_link_is_that_of_what_is_shown(visit: Visit) -> None:
    page = visit("/?q=a+red+dot&folder=cold")
    page.wait_for_selector(HITS)
    page.evaluate(COPYING)
    page.click("#share")
    page.wait_for_selector("#share:text('Copied')")
    assert page.evaluate("window.copied") == [page.url]


def test_an_example_can_be_clicked(visit: Visit) -> None:
    page = visit()
    example = page.locator(".example").first
    words = example.inner_text()
    example.click()
    page.wait_for_selector(HITS)
    assert page.input_value("#words") == words
    assert page.evaluate("document.activeElement.id") == "words"


def test_a_space_before_the_next_word_is_left_alone(visit: Visit) -> None:
    page = visit()
    page.wait_for_selector(".message")
    page.keyboard.type("a red ")
    page.wait_for_url("**q=a+red")
    page.keyboard.type("dot")
    page.wait_for_url("**q=a+red+dot")
    assert page.input_value("#words") == "a red dot"


def test_an_answer_that_comes_too_late_is_not_shown(visit: Visit) -> None:
    page = visit()
    page.wait_for_selector(".message")
    held: list[Any] = []
    page.route("**/api/search**", lambda route: held.append(route))

    def let_go(address: str) -> None:
        held.pop().continue_()
        page.unroute("**/api/search**")
        page.evaluate("address => fetch(address).then(answer => answer.text())", address)  # answered after that one

    page.keyboard.type("a red dot")
    page.wait_for_selector(".skeleton")
    page.fill("#words", "")  # nothing is looked for any more
    page.wait_for_selector("text=24 pictures in photos")
    let_go("/api/search?q=a+red+dot&k=48")
    assert page.locator(".message").count() == 1
    page.route("**/api/search**", lambda route: held.append(route))
    page.fill("#words", "a red dot")
    page.wait_for_selector(".skeleton")
    page.route("**/api/search**", lambda route: route.continue_())
    page.check("#compare")
    page.wait_for_selector(".columns")
    let_go("/api/search?q=a+red+dot&k=48")
    assert page.locator(".columns section").count() == 2


def test_queries_can_be_gone_back_to(visit: Visit) -> None:
    page = visit()
    page.wait_for_selector(".message")
    for words in ("a red dot", "a blue box"):
        page.fill("#words", words)
        page.wait_for_url(f"**q={words.replace(' ', '+')}")
        page.keyboard.press("Enter")
        page.wait_for_selector("body:not(.busy)")
    page.go_back()
    page.wait_for_url("**q=a+red+dot")
    assert page.input_value("#words") == "a red dot"
    assert page.title().startswith("a red dot · ")
    page.go_back()
    page.wait_for_selector("text=24 pictures in photos")
    page.go_forward()
    page.wait_for_selector(HITS)
    assert page.input_value("#words") == "a red dot"


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


def test_what_has_the_focus_is_never_under_the_field(visit: Visit) -> None:
    page = visit("/?q=a+blue+box", narrow=True)
    page.wait_for_selector(HITS)
    page.locator(HITS).last.focus()
    for _ in range(6):
        page.keyboard.press("ArrowUp")
        top, under = page.evaluate(
            "['header', ':focus'].map(name => document.querySelector(name).getBoundingClientRect())"
            ".reduce((header, focus) => [focus.top, header.bottom])"
        )
        assert top >= under


def test_similar_pictures_lead_on_and_back(visit: Visit) -> None:
    page = visit("/?q=a+red+dot")
    page.wait_for_selector(HITS)
    page.locator(HITS).nth(2).click()
    page.wait_for_selector("#detail .like img")
    first = page.locator("#detail").get_attribute("data-id")
    assert page.inner_text(".steps").split("\n") == ["‹", "3 of 24", "›"]
    assert not page.locator(".back").count()
    page.locator("#detail .like button").first.click()
    page.wait_for_selector(f"#detail:not([data-id='{first}']) .back")
    page.click(".back")
    page.wait_for_selector(f"#detail[data-id='{first}']")
    assert not page.locator(".back").count()
    page.click("[aria-label='Next picture']")
    second = page.locator("#detail").get_attribute("data-id")
    page.mouse.click(4, 400)  # beside it
    page.wait_for_selector("#detail:not([open])", state="attached")
    page.wait_for_selector(f"{HITS}[data-id='{second}']:focus")  # a moment after it closed: the event has its own turn


def test_words_point_at_a_place_in_the_picture(visit: Visit) -> None:
    page = visit("/?q=a+red+dot")
    page.wait_for_selector(HITS)
    page.locator(HITS).first.click()
    assert page.input_value(".point input") == "a red dot"  # what was searched for
    page.fill(".point input", "the dot")
    page.keyboard.press("Enter")
    page.wait_for_selector(".frame .box", state="attached")
    assert page.inner_text(".point [role=status]") == "Found with the frozen detector."
    score = page.locator(".frame .box").first.text_content()
    assert 0 <= float(score) <= 1
    labels = [box.bounding_box() for box in page.locator(".frame .box > span").all()]
    assert len(labels) == 3
    for place, one in enumerate(labels):
        for other in labels[:place]:
            beside = one["x"] + one["width"] <= other["x"] + 0.5 or other["x"] + other["width"] <= one["x"] + 0.5
            above = one["y"] + one["height"] <= other["y"] + 0.5 or other["y"] + other["height"] <= one["y"] + 0.5
            assert beside or above, labels
    assert not page.locator(".point .problem").count()  # nobody said that it knows drawn scenes only
    page.keyboard.press("Escape")


def test_a_detector_that_finds_nothing_says_so_and_how_near_it_came(visit: Visit) -> None:
    page = visit("/?q=a+red+dot")
    page.wait_for_selector(HITS)
    page.locator(HITS).first.click()
    page.fill(".point input[type=number]", "0")
    page.keyboard.press("Enter")
    page.wait_for_selector(".frame .box", state="attached")
    page.fill(".point input[type=number]", "100")
    page.keyboard.press("Enter")
    page.wait_for_selector(
        ".point :text-matches('^Nothing found: the best place scores [0-9]+ %, and 100 % is asked for.')"
    )
    assert not page.locator(".frame .box").count()
    page.keyboard.press("Escape")


def test_a_detector_of_drawn_scenes_is_told_as_one(drawn: Any, visit: Visit) -> None:
    page = visit("/?q=a+red+dot", server=drawn)
    page.wait_for_selector(HITS)
    page.locator(HITS).first.click()
    assert "knows drawn scenes only" in page.inner_text(".point .problem")
    page.keyboard.press("Escape")


def offer(page: Any, event: str, file: Any) -> None:
    """Drop or paste a file, as the browser would tell the page."""
    page.evaluate(
        """([kind, name, content]) => {
            const carried = new DataTransfer();
            const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0));
            carried.items.add(new File([bytes], name, { type: "image/png" }));
            const told = { bubbles: true, cancelable: true };
            const event = kind === "paste"
                ? new ClipboardEvent(kind, { ...told, clipboardData: carried })
                : new DragEvent(kind, { ...told, dataTransfer: carried });
            document.body.dispatchEvent(event);
        }""",
        [event, file.name, base64.b64encode(file.read_bytes()).decode()],
    )


def test_a_picture_can_be_dropped_or_pasted_anywhere(visit: Visit, taught: World) -> None:
    page = visit()
    page.wait_for_selector(".message")
    offer(page, "dragover", taught.photos / "cold" / "blue" / "box.png")
    assert page.is_visible("text=Drop a picture to search with it")
    offer(page, "drop", taught.photos / "cold" / "blue" / "box.png")
    page.wait_for_selector(HITS)
    assert not page.is_visible("#drop")
    assert page.locator(HITS).first.get_attribute("title").startswith("cold/blue/box.png")
    offer(page, "paste", taught.photos / "warm" / "red" / "dot.png")
    page.wait_for_selector(f"{HITS}[title^='warm/red/dot.png'] >> nth=0")
    page.wait_for_selector("body:not(.busy)")
    assert page.locator(HITS).first.get_attribute("title").startswith("warm/red/dot.png")


def test_a_picked_picture_is_searched_with(visit: Visit, taught: World) -> None:
    page = visit()
    page.set_input_files("#file", taught.photos / "dull" / "gray" / "dot.png")
    page.wait_for_selector(HITS)
    assert page.locator(HITS).first.get_attribute("title").startswith("dull/gray/dot.png")
    assert page.locator("#query-picture img").evaluate("image => image.naturalWidth") > 0
    page.click("#drop-query")
    page.wait_for_selector(".message")
    page.set_input_files("#file", {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no picture"})
    page.wait_for_selector("text=notes.txt is not a picture")


def test_a_picture_given_before_the_page_knows_its_index_is_searched_with(visit: Visit, taught: World) -> None:
    held: list[Any] = []
    page = visit()
    page.route("**/api/info", lambda route: held.append(route))
    page.reload()
    page.set_input_files("#file", taught.photos / "dull" / "gray" / "dot.png")
    page.wait_for_timeout(100)
    assert len(held) == 1
    held.pop().continue_()
    page.wait_for_selector(HITS)
    assert page.locator(HITS).first.get_attribute("title").startswith("dull/gray/dot.png")


def test_filters_narrow_what_is_found_and_can_be_cleared(visit: Visit) -> None:
    page = visit("/?q=dot")
    page.wait_for_selector(HITS)
    page.select_option("#folder", "cold")
    found(page, 8)
    assert all(title.startswith("cold/") for title in page.locator(HITS).evaluate_all("a => a.map(h => h.title)"))
    page.fill("#until", "2001-01-01")
    page.wait_for_selector("text=No picture passes these filters.")
    assert page.inner_text("#said").startswith("0 pictures")  # what is said to those who don't see
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


def test_comparing_says_what_moved_since_the_stage_before(visit: Visit) -> None:
    page = visit("/?q=a+gray+dot")
    page.wait_for_selector(HITS)
    page.check("#compare")  # now beside now would say nothing
    page.wait_for_url("**stage=0&compare=1")
    page.wait_for_selector(".columns")
    ids = "all => all.map(hit => [hit.dataset.id, hit.querySelector('.mark')?.textContent ?? ''])"
    then, now = (page.locator(f".columns section:nth-child({side}) .hit").evaluate_all(ids) for side in (1, 2))
    before = [key for key, _ in then]
    rises = [before.index(key) - place for place, (key, _) in enumerate(now)]
    assert any(rises)
    assert [mark for _, mark in now] == [f"{'↑' if rise > 0 else '↓'} {abs(rise)}" if rise else "" for rise in rises]
    up, down = sum(rise > 0 for rise in rises), sum(rise < 0 for rise in rises)
    assert page.inner_text("#said").endswith(f"since then: {up} up, {down} down")


def test_a_phone_needs_no_sideways_scrolling(visit: Visit) -> None:
    page = visit("/?q=a+red+dot", narrow=True)
    page.wait_for_selector(HITS)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.is_visible("#compare")  # then and now, at once
    page.click("text=Filters")
    page.select_option("#folder", "cold")
    found(page, 8)
    assert page.inner_text("#more") == "Filters · 1"
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.locator(HITS).first.click()
    page.wait_for_selector("#detail[open] .like img")
    assert page.evaluate("document.getElementById('detail').scrollWidth") <= 360


def test_the_page_is_dark_and_still_for_who_wants_that(visit: Visit) -> None:
    page = visit("/?q=a+red+dot")
    page.wait_for_selector(HITS)
    colours = "(s => [s.backgroundColor, s.color])(getComputedStyle(document.documentElement))"
    moving = "getComputedStyle(document.querySelector('main .found .hit img')).transitionDuration"
    for scheme, motion, duration in (("light", "no-preference", "0.25s"), ("dark", "reduce", "0s")):
        page.emulate_media(color_scheme=scheme, reduced_motion=motion)
        paper, ink = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in page.evaluate(colours))
        assert (paper < ink) == (scheme == "dark")
        assert abs(paper - ink) > 450
        assert page.evaluate(moving) == duration


def test_a_server_that_is_gone_is_said_and_can_be_tried_again(visit: Visit) -> None:
    page = visit("/?q=a+red+dot", failing=True)
    page.wait_for_selector(HITS)
    page.route("**/api/search**", lambda route: route.abort())
    page.fill("#words", "a blue box")
    page.wait_for_selector("role=alert")
    assert "The server doesn't answer. Is lpi serve still running?" in page.inner_text("main")
    page.unroute("**/api/search**")
    page.click("text=Try again")
    page.wait_for_selector(HITS)


def test_what_the_server_refuses_is_said_in_its_own_words(visit: Visit) -> None:
    page = visit("/?q=a+red+dot&stage=7", failing=True)
    page.wait_for_selector("role=alert")
    assert "stage must be between 0 and 1; got 7." in page.inner_text("main")


def test_the_page_follows_what_others_change_until_the_server_stops(visit: Visit, own: Any) -> None:
    page = visit("/?q=a+red+dot", server=own, failing=True)
    page.wait_for_selector(HITS)
    tasks = "#task option"
    assert page.locator(tasks).count() == 4  # all, and three tasks
    page.locator(HITS).first.click()
    page.wait_for_selector("#detail .like img")
    assert not page.locator(".point").count()  # nothing here finds boxes
    page.keyboard.press("Escape")
    with change(own.world.index, device="cpu") as writer:
        writer.rollback()
    assert page.evaluate(FOLLOWED, 2)
    page.click("#words")
    page.keyboard.press("Enter")
    page.wait_for_selector("#stages option:nth-child(3)", state="attached")
    assert page.locator(tasks).count() == 3
    own.stop()
    page.fill("#words", "a blue box")
    page.wait_for_selector("role=alert")
    assert "Is lpi serve still running?" in page.inner_text("main")
    assert page.is_visible("text=Try again")
