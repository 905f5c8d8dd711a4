"""The documentation as a site: built strictly, each link leads somewhere, nothing is fetched from elsewhere."""

import os
import subprocess
import sys
from html.parser import HTMLParser
from importlib import util
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

from lpi.methods import method_names

ROOT = Path(__file__).parents[2]


class Links(HTMLParser):
    """Where a page leads to, what it loads, and what can be led to in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids |= {given.get("id") or "", given.get("name") or ""}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"] or "")
        for name in ("src", "href") if tag in ("script", "img", "link") else ():
            if given.get(name) and given.get("rel") != "canonical":
                self.loads.append(given[name] or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if util.find_spec("mkdocs") is None or util.find_spec("mkdocstrings") is None:
        pytest.skip("mkdocs and mkdocstrings aren't installed (the extra 'docs')")
    place = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "mkdocs", "build", "--strict", "--site-dir", str(place), "--quiet"],
        cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stdout + built.stderr
    return place


def test_every_link_leads_somewhere_and_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    pages = {file: Links(file.read_text(encoding="utf-8")) for file in site.rglob("*.html") if file.name != "404.html"}
    assert len(pages) > 15
    wrong = []
    for file, page in pages.items():
        wrong += [f"{file.name} loads {own}" for own in page.loads if own.startswith(("http", "//"))]
        for link in page.links:
            address, anchor = urldefrag(unquote(link))
            if address.startswith(("http:", "https:", "mailto:")):
                continue
            target = (file.parent / address).resolve() if address else file
            target = target / "index.html" if target.is_dir() else target
            if not target.exists() or (anchor and target in pages and anchor not in pages[target].ids):
                wrong.append(f"{file.relative_to(site)} -> {link}")
    assert wrong == []


def test_what_is_made_from_the_code_is_all_there(site: Path) -> None:
    def ids(name: str) -> set[str]:
        return Links((site / name / "index.html").read_text(encoding="utf-8")).ids

    commands = {"lpi-run", "lpi-compare", "lpi-export", "lpi-search", "lpi-teach", "lpi-serve", "lpi-data-check"}
    assert commands <= ids("commands")
    assert set(method_names("retrieval")) <= ids("methods")
    text = (site / "settings" / "index.html").read_text(encoding="utf-8")
    assert "learning_rate" in text
    assert "captions drawn for each picture of a batch" in text
    promised = (site / "python" / "index.html").read_text(encoding="utf-8")
    assert 'id="lpi.search.index.SearchIndex.search"' in promised
