"""A real ``lpi serve`` on an index of painted pictures with two stages, and a real browser before it."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from search_world import World

from lpi.search.teaching import adopt
from lpi.search.writer import change
from lpi.tasks.stream import TaskStream

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
SWITCHES = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking", "--no-first-run"]
WIDE, NARROW = {"width": 1280, "height": 800}, {"width": 360, "height": 640}


class Served:
    """A server in a process of its own."""

    def __init__(self, world: World) -> None:
        self.world = world
        command = [sys.executable, "-m", "lpi", "serve", "--index", str(world.index), "--port", "0", "--threads", "1"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert self.process.stdout is not None
        said = []
        for line in self.process.stdout:
            said.append(line)
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                self.address = found.group(0)
                return
        raise AssertionError("lpi serve ended: " + "".join(said))

    def stop(self) -> None:
        """End it, as Ctrl-C does."""
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
    return world


@pytest.fixture(scope="module")
def served(taught: World) -> Iterator[Served]:
    server = Served(taught)
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


@pytest.fixture
def visit(browser: Any, served: Served) -> Iterator[Callable[..., Any]]:
    """Open the page; in the end, nothing may have been complained of, or asked of anybody but the server."""
    contexts, problems, asked = [], [], []

    def go(path: str = "/", *, narrow: bool = False, quiet: bool = True, **options: Any) -> Any:
        context = browser.new_context(viewport=NARROW if narrow else WIDE, **options)
        context.set_default_timeout(20_000)
        contexts.append(context)
        page = context.new_page()
        if quiet:
            page.on("console", lambda said: said.type in ("error", "warning") and problems.append(said.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(served.address + path)
        return page

    yield go
    for context in contexts:
        context.close()
    assert problems == []
    assert [url for url in asked if not url.startswith((served.address, "blob:"))] == []


@pytest.fixture
def shots(tmp_path: Path) -> Path:
    """Where screenshots go."""
    return tmp_path
