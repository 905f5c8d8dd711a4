"""What a person is told to type where an optional part is missing: it must work from where this copy came."""

import re
from pathlib import Path

import pytest

from lpi import extras
from lpi.errors import MissingExtraError
from lpi.extras import EXTRAS, install_line, missing, missing_extra
from lpi.reading import tomllib

ROOT = Path(__file__).parents[2]
BARE_NAME = re.compile(r"(?:pip|pipx|uv)[^\n`]*\binstall\b[^\n`;(]*[ '\"]lpi(?:\[|\b(?![-_/.\w]))")


def declared() -> dict[str, list[str]]:
    content = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return dict(content["project"]["optional-dependencies"])


def test_every_extra_of_the_package_is_known_and_no_other() -> None:
    assert set(EXTRAS) == set(declared()) - {"dev"}


def test_a_clone_installs_itself_with_its_constraints() -> None:
    assert install_line("serve") == "pip install -c constraints.txt -e '.[serve]'"
    error = missing_extra("Daft is not installed", "cluster")
    assert isinstance(error, MissingExtraError)
    assert str(error).startswith("Daft is not installed. Install it in the folder of this clone, in the activated env")


def test_what_is_installed_and_cannot_be_loaded_is_not_called_missing() -> None:
    try:
        raise ImportError("libx.so: cannot allocate memory")
    except ImportError:
        error = missing_extra("matplotlib is not installed", "report")
    assert str(error) == "matplotlib can't be loaded, though installed: libx.so: cannot allocate memory"


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_installed_package_names_what_the_extra_requires(extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "__file__", "/elsewhere/site-packages/lpi/extras.py")
    required = [f'{line}; extra == "{extra}"' for line in declared()[extra]]
    monkeypatch.setattr("importlib.metadata.requires", lambda name: ["pillow>=11", 'x>=1; extra == "dev"', *required])
    line = install_line(extra)
    assert line == "pip install " + " ".join(f"'{one}'" for one in declared()[extra])
    assert not BARE_NAME.search(line)


def test_an_extra_is_missing_where_one_of_its_modules_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "uvicorn" else object())
    assert missing("serve") == ["uvicorn"]
    assert missing("report") == []


def test_no_text_tells_anybody_to_install_the_bare_name_from_an_index() -> None:
    files = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("src/lpi/**/*.py"), *ROOT.glob("benchmarks/*.py")]
    assert len(files) > 100
    wrong = [
        f"{file.name}: {found.group(0)}" for file in files for found in BARE_NAME.finditer(file.read_text("utf-8"))
    ]
    assert wrong == []


@pytest.mark.parametrize(
    "line", ["pip install lpi", "pip install 'lpi[serve]'", "uv pip install -U lpi", 'pip install "lpi"']
)
def test_such_a_line_would_be_found(line: str) -> None:
    assert BARE_NAME.search(line)
