"""What stands beside the package: its image, its citation, the links of its documents."""

import re
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
KNOWN = {"FROM", "WORKDIR", "COPY", "RUN", "USER", "VOLUME", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD"}
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]


def instructions() -> list[tuple[str, str]]:
    """The instructions of the image with their arguments, lines that go on joined."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.partition(" ")[0], line.partition(" ")[2].strip()) for line in lines]


def test_the_image_is_made_of_what_is_there_and_says_whether_it_lives() -> None:
    found = instructions()
    names = [name for name, _ in found]
    assert names[0] == "FROM"
    assert set(names) <= KNOWN
    assert "HEALTHCHECK" in names
    assert names.index("USER") < names.index("ENTRYPOINT")  # nothing is served as root
    for name, argument in found:
        if name == "COPY":
            *sources, _ = argument.split()
            assert all((ROOT / source).exists() for source in sources), argument
    check = dict(found)["HEALTHCHECK"]
    compile(re.findall(r'"([^"]*)"', check.partition("CMD")[2])[-1], "health check", "exec")
    extras = re.findall(r"'\.\[(\w+)\]'", " ".join(argument for name, argument in found if name == "RUN"))
    assert extras
    assert set(extras) <= set(PROJECT["optional-dependencies"])


def test_the_citation_is_of_this_version() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {PROJECT['version']}\n" in citation
    assert f"license: {PROJECT['license']}" in citation
    assert PROJECT["authors"] == [{"name": "lpi contributors"}]
    assert PROJECT["urls"]["Paper"] in citation
    assert f"version = {{{PROJECT['version']}}}" in (ROOT / "README.md").read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    """The places in a page that a link may name."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        found = (page.parent / file) if file else page
        assert found.exists(), target
        if anchor:
            assert anchor in anchors(found), target


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: page.name)
def test_nobody_is_told_to_install_the_bare_name(page: Path) -> None:
    assert not re.search(r"pip install [^\n`]*\blpi\b(?!\.)", page.read_text(encoding="utf-8"))
