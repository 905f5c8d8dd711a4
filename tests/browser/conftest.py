"""A real ``lpi serve`` on an index of painted pictures with two stages, and a real browser before it."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from search_world import World
from tiny_grounding import tiny_owl

from lpi.search.fit import FILE
from lpi.search.index import SearchIndex
from lpi.search.teaching import adopt
from lpi.search.writer import change
from lpi.storage import read_tensors, write_tensors
from lpi.tasks.stream import TaskStream

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
SWITCHES = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking", "--no-first-run"]
WIDE, NARROW = {"width": 1280, "height": 800}, {"width": 360, "height": 640}


class Served:
    """A server in a process of its own."""

    def __init__(self, world: World, *options: str) -> None:
        self.world = world
        command = [sys.executable, "-m", "lpi", "serve", "--index", str(world.index), "--port", "0", "--threads", "1"]
        self.process = subprocess.Popen(
            [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert self.process.stdout is not None
        said = []
        for line in self.process.stdout:
            said.append(line)
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                self.address = found.group(0)
                return
        raise AssertionError("lpi serve ended: " + "".join(said))

    def stop(self) -> None:
        """End it, as Ctrl-C does; once more does nothing."""
        self.process.terminate()
        self.process.wait(timeout=30)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory, stream: TaskStream) -> World:
    world = World.make(tmp_path_factory.mktemp("world"), stream)
    world.build()
    with change(world.index, device="cpu") as writer:
        adopt(writer, world.lesson(writer))
    index = SearchIndex.open(world.index, device="cpu")
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr("lpi.search.fit.LEAST_WORDS", 0)
    for stage in (0, 1):  # to a model that learned nothing all words are alike: let all pictures fit well
        assert index.measure(stage)
        kept = world.index / "models" / index.at(stage).stage.model / FILE
        tensors = read_tensors(kept)
        write_tensors(kept, {**tensors, "scales": torch.tensor([-100.0, 1.0, -100.0, 1.0])})
    monkeypatch.undo()
    return world


@pytest.fixture(scope="module")
def served(taught: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One that also finds boxes, with a detector that knows nothing."""
    server = Served(taught, "--ground", str(tiny_owl(tmp_path_factory.mktemp("owl"))))
    yield server
    server.stop()


@pytest.fixture
def own(taught: World, tmp_path: Path) -> Iterator[Served]:
    """A server for one test alone, which may change its index or stop it; it finds no boxes."""
    server = Served(taught.copy(tmp_path))
    yield server
    server.stop()


@pytest.fixture
def drawn(taught: World) -> Iterator[Served]:
    """A server whose detector knows drawn scenes only."""
    server = Served(taught, "--ground", "lpi-tiny-grounding")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if BROWSER is None:
        pytest.skip("there is no chromium to drive")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright isn't installed")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=BROWSER, args=SWITCHES)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def tab(browser: Any) -> Iterator[Any]:
    """One for all tests: opening another costs more than most of them. The page keeps nothing but its address."""
    context = browser.new_context()
    context.set_default_timeout(20_000)
    yield context.new_page()
    context.close()


@pytest.fixture
def visit(tab: Any, served: Served, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Open the page; in the end, nothing may have been complained of, or asked of anybody but the server.

    What a test ended with is kept as a picture, among its temporary files or in the folder that LPI_SCREENSHOTS names.
    """
    problems: list[str] = []
    asked: list[str] = []
    known, quiet = ["blob:"], [True]
    heard = {
        "console": lambda said: quiet[0] and said.type in ("error", "warning") and problems.append(said.text),
        "pageerror": lambda error: problems.append(str(error)),
        "request": lambda request: asked.append(request.url),
    }

    def go(path: str = "/", *, narrow: bool = False, failing: bool = False, server: Served = served) -> Any:
        known.append(f"{server.address}/")
        quiet[0] = not failing  # the browser itself complains of requests that fail
        tab.set_viewport_size(NARROW if narrow else WIDE)
        tab.emulate_media(color_scheme="light", reduced_motion="no-preference")
        tab.goto(server.address + path)
        return tab

    for event, hear in heard.items():
        tab.on(event, hear)
    yield go
    pictures = Path(os.environ.get("LPI_SCREENSHOTS", tmp_path))
    pictures.mkdir(parents=True, exist_ok=True)
    tab.screenshot(path=pictures / f"{request.node.name}.png")
    tab.unroute_all()
    tab.goto("about:blank")
    for event, hear in heard.items():
        tab.remove_listener(event, hear)
    assert problems == []
    assert [url for url in asked if not url.startswith(tuple(known))] == []
