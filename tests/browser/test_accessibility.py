"""axe-core over every view of the page: nothing that it calls serious or critical. npm fetches it."""

import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Visit = Callable[..., Any]
AXE = "axe-core@4.10.2"
HITS = "main .found .hit"
RUN = """async () => (await axe.run()).violations
    .filter(one => ["serious", "critical"].includes(one.impact))
    .map(one => `${one.id}: ${one.nodes.map(node => node.target.join(" ")).join(", ")}`)"""


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The script of axe-core, from the file that LPI_AXE names or from npm."""
    given = os.environ.get("LPI_AXE")
    if given:
        return Path(given).read_text("utf-8")
    npm, folder = shutil.which("npm"), tmp_path_factory.mktemp("axe")
    if npm is None:
        pytest.skip("axe-core isn't there: there is no npm to fetch it with. LPI_AXE may name its axe.min.js")
    fetched = subprocess.run([npm, "pack", AXE], cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    packed = next(folder.glob("*.tgz"), None)
    if packed is None:
        pytest.skip(f"axe-core isn't there: npm can't fetch it ({fetched.stderr.strip()[-200:]}).")
    with tarfile.open(packed) as archive:
        script = archive.extractfile("package/axe.min.js")
        assert script is not None
        return script.read().decode("utf-8")


def opening(page: Any) -> None:
    page.wait_for_selector("main ul.opening li:nth-child(24)")


def searched(page: Any) -> None:
    opening(page)
    page.fill("#words", "a gray dot")
    page.wait_for_selector(HITS)


def nothing_fits(page: Any) -> None:
    opening(page)

    def poor(route: Any) -> None:
        response = route.fetch()
        route.fulfill(response=response, json={**response.json(), "fits_well": False})

    page.route("**/api/search**", poor)
    page.fill("#words", "qwertz asdf")
    page.wait_for_selector("text=Nothing here fits well.")


def then_now(page: Any) -> None:
    searched(page)
    page.check("#compare")
    page.wait_for_selector(".columns section + section .hit")


def one_picture(page: Any) -> None:
    searched(page)
    page.locator(HITS).first.click()
    page.wait_for_selector("#detail[open] .like img")


def teaching(page: Any) -> None:
    opening(page)
    page.click("#teach")
    page.wait_for_selector("#teaching form")


def teaching_hits(page: Any) -> None:
    searched(page)
    page.click("#select")
    for place in range(3):
        page.locator(HITS).nth(place).click()
    page.click("#chosen :text-is('Teach these')")
    page.wait_for_selector("#teaching .captioned")


def shown(page: Any, **told: Any) -> None:
    opening(page)
    told = {"domain": "birds", "problem": "", "deeper": True, **told}
    page.route("**/api/teaching", lambda route: route.fulfill(json=told))
    page.click("#teach")


def learning(page: Any) -> None:
    shown(page, state="working", what="learning", done=3, total=12, seconds_left=20)
    page.wait_for_selector("#teaching progress")


def on_trial(page: Any) -> None:
    gains = [{"domain": "birds (new)", "before": 0.1, "after": 0.5}, {"domain": "warm", "before": 0.5, "after": 0.4}]
    shown(
        page,
        state="ready",
        gains=gains,
        losses=["R@1 of warm would fall"],
        tests=9,
        among=30,
        embed=3,
        embed_seconds=2.0,
    )
    page.wait_for_selector("#teaching table")


VIEWS = [opening, searched, nothing_fits, then_now, one_picture, teaching, teaching_hits, learning, on_trial]


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.__name__)
def test_nothing_serious_stands_in_anybodys_way(visit: Visit, axe: str, view: Callable[[Any], None]) -> None:
    page = visit()
    view(page)
    page.evaluate(axe)
    for scheme, narrow in (("light", False), ("dark", False), ("light", True)):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        page.set_viewport_size({"width": 360, "height": 640} if narrow else {"width": 1280, "height": 800})
        assert page.evaluate(RUN) == [], (scheme, narrow)


def test_the_check_itself_finds_what_is_wrong(visit: Visit, axe: str) -> None:
    page = visit()
    opening(page)
    page.evaluate(axe)
    page.evaluate("document.getElementById('share').textContent = ''")
    page.evaluate("document.getElementById('said').innerHTML = '<span>several words</span>'")
    page.evaluate("document.querySelector('#said span').style.color = '#eee'")
    found = page.evaluate(RUN)
    assert any(one.startswith("button-name: #share") for one in found), found
    assert any(one.startswith("color-contrast") for one in found), found
