"""From run folders to one HTML page: read, tell section by section, write."""

import os
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from string import Template

from lpi.errors import OutputError
from lpi.report import charts, sections
from lpi.report.canvas import Plot
from lpi.report.examples import examples
from lpi.report.reading import find_runs
from lpi.report.variants import Variant, leading, read_variants
from lpi.report.words import text


def write_report(run_folders: Sequence[Path], out: Path) -> Path:
    """Write one self-contained page about one run or several, and its figures as PNG files.

    Runs of one variant are shown as mean and spread over their seeds. The first one of LPI (else the first that
    learned) is told in detail; all share the table, the curves and the bars. The page needs no other file and no
    network; the same runs give the same bytes.

    Args:
        run_folders: folders that ``lpi run`` wrote; a folder with runs below it stands for all of them.
        out: the folder for ``report.html`` and ``report/*.png``, or the page's own name, ending in ``.html``;
            the figures then go into the folder of that name without the ending.

    Returns:
        The page's path.

    Raises:
        MissingFileError: a run folder is not there.
        CheckpointError: a folder is no run, or a file in it is damaged; the message names it.
        DataError: the runs are over different tasks, a run is given twice, or an example's picture is broken.
        MissingExtraError: matplotlib is not installed.
        OutputError: ``out`` can't be written.
    """
    folders = [run for folder in run_folders for run in find_runs(Path(folder))]
    page, gallery = compose(read_variants(folders))
    out = Path(out)
    path = out if out.suffix.lower() in (".html", ".htm") else out / "report.html"
    if path.exists() and not _is_report(path):
        raise OutputError(f"{path} is no report and would be lost. Name another place with --out.")
    figures = path.with_suffix("")
    try:
        figures.mkdir(parents=True, exist_ok=True)
        for plot in gallery:
            write_whole(figures / f"{plot.name}.png", plot.png)
        write_whole(path, page.encode("utf-8"))
    except OSError as error:
        raise OutputError(
            f"{path}: the report can't be written ({error.strerror or error}). Choose another place."
        ) from error
    return path


def _is_report(path: Path) -> bool:
    """Whether a file is a page that was written here, by its title."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return b"lpi report</title>" in file.read(65_536)


def compose(variants: Sequence[Variant]) -> tuple[str, list[Plot]]:
    """The page's HTML and its figures."""
    lead = leading(variants)
    gallery: list[Plot] = []
    parts = [
        ("results", "Results", sections.results(variants, lead)),
        ("curves", "Curves", charts.learning(variants, lead, gallery)),
        ("tasks", "Tasks × stages", charts.task_maps(variants, lead, gallery)),
        ("forgetting", "Forgetting", charts.forgetting(variants, lead, gallery)),
        ("examples", "Examples", examples(lead)),
        ("routing", "Routing", charts.routing(lead, gallery)),
        ("relations", "Task relations", charts.relations(lead, gallery)),
        ("training", "Training", charts.training(lead, gallery)),
        ("costs", "Cost", sections.costs(lead)),
        ("configuration", "Configuration", sections.configuration(variants)),
    ]
    run = lead.first
    stream, backbone = run.info["stream"], run.info.get("backbone") or {}
    facts = [
        f"{len(run.tasks)} task{'s' if len(run.tasks) > 1 else ''}"
        + (f" of {stream['name']}" if stream.get("name") else ""),
        str(backbone.get("name") or ""),
        f"{len(variants)} rows" if len(variants) > 1 else f"row {lead.label}",
        seeds_in_words(variants),
    ]
    names = list(dict.fromkeys(run.experiment for variant in variants for run in variant.runs))
    return fill(", ".join(names), facts, sections.headline(lead), parts), gallery


def fill(title: str, facts: Sequence[str], headline: str, parts: Sequence[tuple[str, str, str]]) -> str:
    """The page's HTML.

    Args:
        title: of the page.
        facts: short ones, under the title.
        headline: the run in words, as HTML.
        parts: anchor, title and HTML of each section; one without content is left out.
    """
    template = files("lpi.report") / "template"
    return Template((template / "page.html").read_text(encoding="utf-8")).substitute(
        title=text(title),
        facts="".join(f"<li>{text(fact)}</li>" for fact in facts if fact),
        style=(template / "style.css").read_text(encoding="utf-8"),
        links="".join(f'<a href="#{anchor}">{title}</a>' for anchor, title, body in parts if body),
        headline=headline,
        body="".join(body for _, _, body in parts),
    )


def seeds_in_words(variants: Sequence[Variant]) -> str:
    """Which seeds the page is about."""
    seeds = sorted({run.seed for variant in variants for run in variant.runs})
    return f"seed {seeds[0]}" if len(seeds) == 1 else "seeds " + ", ".join(map(str, seeds))


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    os.replace(part, path)
