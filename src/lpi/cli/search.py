"""The commands that ask an index of pictures: search, caption."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lpi.cli.index_options import DeviceOption, IndexOption, ScoringOption
from lpi.cli.indexing import index
from lpi.cli.options import MethodFileOption
from lpi.cli.teaching import forget, rollback, stages, teach
from lpi.errors import ConfigError, DataError, LpiError
from lpi.reading import UnreadableError, read_text, require_file

if TYPE_CHECKING:
    from lpi.search.filters import Filters

FEW = 3  # pictures that are shown where nothing fits well
MOST_ASKED = 500  # that a server gives at once
ServerOption = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Ask this server (its token in LPI_TOKEN), or 'none'. By default one here that serves the index.",
        show_default=False,
    ),
]


CUT = "note: the model reads only the start of a query this long; the rest counts for nothing. Shorten it."


def register(app: typer.Typer) -> None:
    """Add the commands around an index of pictures to the command line."""
    for command in (index, search, teach, forget, rollback, stages, caption):
        app.command()(command)


def search(
    place: IndexOption,
    words: Annotated[str | None, typer.Argument(help="What to look for.")] = None,
    image: Annotated[Path | None, typer.Option(help="Look for pictures like this one.")] = None,
    k: Annotated[int, typer.Option("--count", "-k", min=1, help="How many pictures.")] = 10,
    folder: Annotated[str | None, typer.Option(help="Only in this folder, relative to the indexed one.")] = None,
    task: Annotated[
        str | None, typer.Option("--domain", "--task", help="Only pictures that belong to this domain.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="Only pictures taken on this day or later, e.g. 2024-05-31.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Only pictures taken on this day or earlier.")] = None,
    stage: Annotated[int | None, typer.Option(help="Search as of this stage; see 'lpi stages'.")] = None,
    exact: Annotated[
        bool, typer.Option("--exact/--approximate", help="Look at every vector, also in a large index.")
    ] = False,
    least: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="Leave out what fits less well; 0.5 is where nonsense ends, 0 shows all."),
    ] = None,
    scoring: ScoringOption = "plain",
    server: ServerOption = None,
    device: DeviceOption = "auto",
    method_file: MethodFileOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the hits as JSON.")] = False,
) -> None:
    """Find pictures by words or by a picture."""
    if (words is None) == (image is None):
        raise ConfigError("a search needs words or --image, one of the two.")
    from lpi.cli.asking import NOBODY, Found, ask, running
    from lpi.search.filters import Filters
    from lpi.search.fit import WELL

    filters = Filters(folder=folder, task=task, since=since, until=until)
    here = device != "auto" or method_file is not None or k > MOST_ASKED or task == ""  # what can't be asked there
    if here and server not in (None, NOBODY):
        raise ConfigError(
            f"a server isn't asked for --device, --method-file, an empty --domain or more than {MOST_ASKED} pictures. "
            "Leave them or --server out."
        )
    address = server or (None if here else running(place))
    found: Found | None = None
    if address is not None and address != NOBODY:
        also = {"k": k, "stage": stage, "scoring": scoring, "exact": exact or None, "least": least}
        try:
            found = ask(address, {"q": words, **vars(filters), **also}, image)
        except LpiError:  # of one that nobody named the limits don't count: the index itself answers, or says the same
            if server is not None:
                raise
    if found is None:
        from lpi.search import SearchIndex

        opened = SearchIndex.open(place, device=device, method_file=method_file)
        if words is not None:
            query = opened.encode_texts([words], stage=stage, scoring=scoring)[0]
        else:
            assert image is not None
            query = opened.encode_images([image], stage=stage, scoring=scoring)[0]
        known = opened.measure(stage)
        hits = opened.find(query, k, filters, exact=exact, least=least)
        found = Found(query.stage, query.cut, list(query.routes), hits, known)
    if found.cut:
        print(CUT, file=sys.stderr)
    if as_json:
        routes = [{"task": task, "weight": weight} for task, weight in found.routes]
        told = {"stage": found.stage, "query": words, "cut": found.cut, "routes": routes}
        print(json.dumps({**told, "hits": [asdict(hit) for hit in found.hits]}, indent=1, ensure_ascii=False))
        return
    hits = found.hits
    if hits:
        _show_routes(found.routes)
    nothing = found.known and bool(hits) and least is None and max(hit.fit or 0.0 for hit in hits) < WELL
    if nothing:
        print("nothing here fits well; --least 0 shows more of what is nearest:", file=sys.stderr)
    for hit in hits[:FEW] if nothing else hits:
        about = [] if hit.fit is None else [f"fits to {hit.fit:.0%}"]
        if hit.task and hit.confidence is not None:
            about.append(f"{hit.task}, {hit.confidence:.0%} sure")
        said = f" ({'; '.join(about)})" if about else ""
        print(f"{hit.score:.3f}  {hit.path}{said}")
    if not hits:
        print(_why_none(filters, least), file=sys.stderr)


def _why_none(filters: Filters, least: float | None) -> str:
    if least:
        return f"No picture fits these words as well as {least:.0%}. A smaller --least shows more."
    return "No picture fits these filters." if filters.sql() else "The index holds no picture yet."


def _show_routes(routes: list[tuple[str, float]]) -> None:
    """Say which tasks answered, where any was learned."""
    if any(task for task, _ in routes):
        counts = ", ".join(f"{task or 'general knowledge'} {weight:.0%}" for task, weight in routes)
        print(f"answered by: {counts}", file=sys.stderr)


def caption(
    image: Annotated[Path, typer.Argument(help="The picture.")],
    place: IndexOption,
    given: Annotated[list[str] | None, typer.Option("--caption", help="A caption. May be repeated.")] = None,
    file: Annotated[Path | None, typer.Option("--captions", help="A text file, one caption a line.")] = None,
    k: Annotated[int, typer.Option("--count", "-k", min=1, help="How many captions to show.")] = 10,
    scoring: ScoringOption = "plain",
    device: DeviceOption = "auto",
    method_file: MethodFileOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print them as JSON.")] = False,
) -> None:
    """Say which of some given captions fit a picture best."""
    captions = [*(given or []), *_lines(file)]
    if not captions:
        raise ConfigError("there are no captions to rank. Give some with --caption, or a file of them with --captions.")
    from lpi.search import SearchIndex

    opened = SearchIndex.open(place, device=device, method_file=method_file)
    ranked = opened.rank_captions(image, captions, scoring=scoring)[:k]
    if as_json:
        rows = [{"caption": text, "score": score} for text, score in ranked]
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    for text, score in ranked:
        print(f"{score:.3f}  {text}")


def _lines(file: Path | None) -> list[str]:
    if file is None:
        return []
    require_file(file)
    try:
        return [line.strip() for line in read_text(file).splitlines() if line.strip()]
    except UnreadableError as error:
        raise DataError(f"{file}: {error}. Save it as UTF-8.") from error
