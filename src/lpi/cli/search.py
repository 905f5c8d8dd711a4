"""The commands around an index of pictures: index, search, teach, forget, rollback, stages, caption."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lpi.cli.options import MethodFileOption
from lpi.errors import ConfigError, DataError, MissingFileError

if TYPE_CHECKING:
    from lpi.search.hits import Query
    from lpi.search.manifest import Stage
    from lpi.search.report import Change, Report
    from lpi.search.teaching import Lesson
    from lpi.search.writer import Update

IndexOption = Annotated[
    Path, typer.Option("--index", envvar="LPI_INDEX", help="Folder of the index; or set LPI_INDEX.", metavar="DIR")
]
DeviceOption = Annotated[str, typer.Option(help="Where to compute: auto, cpu, cuda.")]
ScoringOption = Annotated[
    str, typer.Option(help="How queries and pictures are compared: plain or routed. See docs/search.md.")
]
WorkersOption = Annotated[int, typer.Option(min=1, help="Threads that read and decode.")]
SKIPPED_SHOWN = 5


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the command line."""
    for command in (index, search, teach, forget, rollback, stages, caption):
        app.command()(command)


def index(
    folder: Annotated[Path, typer.Argument(help="A folder of pictures, with folders inside.")],
    place: IndexOption,
    model: Annotated[
        str | None,
        typer.Option(help="A run, a saved model, or a backbone such as lpi-tiny. Needed the first time."),
    ] = None,
    tests: Annotated[
        Path | None,
        typer.Option(help="Captioned pictures (split \"test\") that 'lpi teach' shall measure old tasks on."),
    ] = None,
    moved: Annotated[bool, typer.Option("--moved", help="The folder is the indexed one in a new place.")] = False,
    emptied: Annotated[bool, typer.Option("--emptied", help="It is right that no picture is left.")] = False,
    rehash: Annotated[bool, typer.Option("--rehash", help="Read every file, whatever its size and time.")] = False,
    tidy: Annotated[bool, typer.Option("--tidy", help="Also drop what no stage needs any more.")] = False,
    store: Annotated[
        str | None,
        typer.Option(help="Where the tables of a new index shall be, if not in DIR: s3://BUCKET/PATH, gs://, az://."),
    ] = None,
    processes: Annotated[
        int, typer.Option(min=1, help="Processes that embed, here or on a cluster. See docs/cluster.md.")
    ] = 1,
    workers: WorkersOption = 2,
    device: DeviceOption = "auto",
    method_file: MethodFileOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print figures as JSON.")] = False,
) -> None:
    """Make all pictures of a folder searchable, or bring an index up to date. Stopped, it goes on where it was."""
    done = bring_up_to_date(
        folder,
        place,
        model,
        tests=tests,
        moved=moved,
        emptied=emptied,
        rehash=rehash,
        tidy=tidy,
        store=store,
        processes=processes,
        workers=workers,
        device=device,
        method_file=method_file,
    )
    if as_json:
        print(json.dumps(asdict(done), indent=1, ensure_ascii=False))
        return
    print(
        f"{done.pictures} pictures: {done.added} new, {done.moved} moved, {done.gone} gone; "
        f"{done.embedded} embedded in {done.seconds:.1f} s"
    )
    show_skipped(done.skipped, place)


def bring_up_to_date(
    folder: Path,
    place: Path,
    model: str | None,
    *,
    tests: Path | None = None,
    moved: bool = False,
    emptied: bool = False,
    rehash: bool = False,
    tidy: bool = False,
    store: str | None = None,
    processes: int = 1,
    workers: int = 2,
    device: str = "auto",
    method_file: Path | None = None,
) -> Update:
    """Index a folder, or follow what changed in it, and show how far it is; see :func:`index`."""
    from lpi.cli.counting import Counter
    from lpi.search.building import prepare
    from lpi.search.recorded import record_run, record_source
    from lpi.search.writer import change

    run = prepare(folder, place, model, moved=moved, store=store, device=device, method_file=method_file)
    note = record_run(place, run) if run is not None else None
    if note:
        print(f"note: {note}", file=sys.stderr)
    if tests is not None:
        record_source(place, tests)
    options: dict[str, Any] = {"workers": workers, "processes": processes, "device": device}
    with Counter() as counter, change(place, method_file=method_file, **options) as writer:
        done = writer.update(emptied=emptied, rehash=rehash, on_progress=counter.count)
        if tidy:
            writer.tidy()
    return done


def show_skipped(skipped: dict[str, str], place: Path) -> None:
    """Say which files were left out, and why."""
    for path, reason in list(skipped.items())[:SKIPPED_SHOWN]:
        print(f"skipped: {path}: {reason}")
    if len(skipped) > SKIPPED_SHOWN:
        print(f"skipped: {len(skipped) - SKIPPED_SHOWN} more, all with their reasons in {place / 'skipped.json'}")


def search(
    place: IndexOption,
    words: Annotated[str | None, typer.Argument(help="What to look for.")] = None,
    image: Annotated[Path | None, typer.Option(help="Look for pictures like this one.")] = None,
    k: Annotated[int, typer.Option("--count", "-k", min=1, help="How many pictures.")] = 10,
    folder: Annotated[str | None, typer.Option(help="Only in this folder, relative to the indexed one.")] = None,
    task: Annotated[str | None, typer.Option(help="Only pictures that the router sent to this task.")] = None,
    since: Annotated[str | None, typer.Option(help="Only taken on this day or later, e.g. 2024-05-31.")] = None,
    until: Annotated[str | None, typer.Option(help="Only taken on this day or earlier.")] = None,
    stage: Annotated[int | None, typer.Option(help="Search as of this stage; see 'lpi stages'.")] = None,
    exact: Annotated[
        bool, typer.Option("--exact/--approximate", help="Look at every vector, also in a large index.")
    ] = False,
    scoring: ScoringOption = "plain",
    device: DeviceOption = "auto",
    method_file: MethodFileOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the hits as JSON.")] = False,
) -> None:
    """Find pictures by words or by a picture."""
    if (words is None) == (image is None):
        raise ConfigError("a search needs words or --image, one of the two.")
    from lpi.search import Filters, SearchIndex

    filters = Filters(folder=folder, task=task, since=since, until=until)
    opened = SearchIndex.open(place, device=device, method_file=method_file)
    if words is not None:
        query = opened.encode_texts([words], stage=stage, scoring=scoring)[0]
    else:
        assert image is not None
        query = opened.encode_images([image], stage=stage, scoring=scoring)[0]
    hits = opened.find(query, k, filters, exact=exact)
    if as_json:
        routes = [{"task": task, "weight": weight} for task, weight in query.routes]
        found = {"stage": query.stage, "query": words, "routes": routes, "hits": [asdict(hit) for hit in hits]}
        print(json.dumps(found, indent=1, ensure_ascii=False))
        return
    if hits:
        _show_routes(query)
    for hit in hits:
        sure = "" if hit.confidence is None else f" ({hit.task or 'no task'}, {hit.confidence:.0%} sure)"
        print(f"{hit.score:.3f}  {hit.path}{sure}")
    if not hits:
        print("No picture fits these filters." if filters.sql() else "The index holds no picture yet.", file=sys.stderr)


def _show_routes(query: Query) -> None:
    """Say which tasks answered, where any was learned."""
    if any(task for task, _ in query.routes):
        counts = ", ".join(f"{task or 'no task'} {weight:.0%}" for task, weight in query.routes)
        print(f"answered by: {counts}", file=sys.stderr)


def teach(
    name: Annotated[str, typer.Argument(help="What to call the domain.")],
    source: Annotated[Path, typer.Argument(help="A folder with captions.jsonl and its pictures, or the file itself.")],
    place: IndexOption,
    yes: Annotated[bool, typer.Option("--yes", help="Adopt it without asking, unless something gets worse.")] = False,
    even_if_worse: Annotated[
        bool, typer.Option("--even-if-worse", help="Adopt it without asking, whatever gets worse.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be gained and lost.")] = False,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="How to learn, e.g. --set epochs=10. May be repeated."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of initial values and batches.")] = 0,
    scoring: ScoringOption = "plain",
    workers: WorkersOption = 2,
    device: DeviceOption = "auto",
    method_file: MethodFileOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Learn a domain from captioned pictures; say what is gained and lost; adopt it if you agree."""
    from lpi.cli.counting import Counter
    from lpi.search.teaching import adopt, learn, read_domain, training_settings
    from lpi.search.writer import change

    if dry_run and (yes or even_if_worse):
        raise ConfigError("--dry-run adopts nothing: it doesn't go with --yes or --even-if-worse. Leave one out.")
    chosen = _settings(changes or [])
    with change(place, workers=workers, device=device, method_file=method_file) as writer:
        settings = training_settings(writer, chosen)
        domain = read_domain(source, name)
        with Counter() as counter:
            lesson = learn(
                writer,
                domain,
                settings=settings,
                seed=seed,
                scoring=scoring,
                on_step=counter.step,
                on_progress=counter.count,
            )
        stage: Stage | None = None
        if not as_json:
            _show_report(lesson.task, lesson.report)
        for loss in lesson.losses:
            print(f"warning: {loss}", file=sys.stderr)
        if not dry_run and (even_if_worse or (not lesson.losses if yes else _confirm(lesson))):
            with Counter() as counter:
                stage = adopt(writer, lesson, on_progress=counter.count)
    if as_json:
        content = {
            "task": name,
            **lesson.report,
            "losses": lesson.losses,
            "stage": None if stage is None else asdict(stage),
        }
        print(json.dumps(content, indent=1, ensure_ascii=False))
    elif stage is None:
        option = "--even-if-worse" if lesson.losses else "--yes"
        print(f"Not adopted. The same command with {option} adopts it without learning again.")
    else:
        _show_stage(stage)


def _settings(changes: list[str]) -> dict[str, Any]:
    chosen: dict[str, Any] = {}
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals:
            raise ConfigError(f"--set takes key=value; got {change!r}.")
        try:
            chosen[key.strip().removeprefix("training.")] = json.loads(text)
        except json.JSONDecodeError:
            chosen[key.strip().removeprefix("training.")] = text.strip()
    return chosen


def _confirm(lesson: Lesson) -> bool:
    if not sys.stdin.isatty():
        raise ConfigError(f"nobody is there to ask whether to adopt {lesson.task!r}. Add --yes, or --dry-run.")
    return typer.confirm(f"Adopt {lesson.task}{', although something gets worse' if lesson.losses else ''}?")


def _show_report(task: str, report: Report) -> None:
    from lpi.cli.progress import print_table

    recall = report["recall"]
    rows = [(f"{task} (new)", recall["new"]), *recall["old"].items()]
    if recall["held_out"]:
        rows.append(("held-out", recall["held_out"]))
    print_table(["R@1, per cent", "before", "after"], [[name, *_before_after(own)] for name, own in rows])
    for name in report["unmeasured"]:
        print(f"note: {name} has no test set on record; 'lpi index --tests' puts one there")
    for name, count in report["unreadable"].items():
        print(f"note: {count} test pictures of {name} are no longer there")
    seconds = report["seconds"]
    embed = f", about {seconds['embed']} s" if seconds["embed"] is not None else ""
    print(
        f"{report['reembed']} of {report['pictures']} pictures ({report['share']:.1%}) must be embedded again{embed}; "
        f"learned in {seconds['learn']:.1f} s, measured in {seconds['measure']:.1f} s"
    )


def _before_after(own: Change) -> list[str]:
    return ["-" if recall is None else f"{100 * recall['r1']:.1f}" for recall in (own["before"], own["after"])]


def forget(
    name: Annotated[str, typer.Argument(help="The domain to take away.")],
    place: IndexOption,
    for_good: Annotated[
        bool, typer.Option("--for-good", help="Drop all earlier stages too, so that nothing can bring it back.")
    ] = False,
    workers: WorkersOption = 2,
    device: DeviceOption = "auto",
    method_file: MethodFileOption = None,
) -> None:
    """Take a domain away again, exactly: searches are then as if it had never been learned."""
    from lpi.cli.counting import Counter
    from lpi.search.recorded import drop_record
    from lpi.search.writer import change

    with Counter() as counter, change(place, workers=workers, device=device, method_file=method_file) as writer:
        stage = writer.forget(name, on_progress=counter.count)
        if for_good:
            writer.drop_history()
            drop_record(place, name)
            stage = writer.manifest.current
    _show_stage(stage)


def rollback(
    place: IndexOption,
    to: Annotated[int | None, typer.Option(help="The stage to go back to; by default the one before.")] = None,
    workers: WorkersOption = 2,
    device: DeviceOption = "auto",
    method_file: MethodFileOption = None,
) -> None:
    """Go back to the model of an earlier stage. The pictures stay those of today."""
    from lpi.cli.counting import Counter
    from lpi.search.writer import change

    with Counter() as counter, change(place, workers=workers, device=device, method_file=method_file) as writer:
        stage = writer.rollback(to, on_progress=counter.count)
    _show_stage(stage)


def _show_stage(stage: Stage) -> None:
    knows = ", ".join(task.name for task in stage.tasks) or "nothing yet"
    print(
        f"Stage {stage.number}: {stage.pictures} pictures, {stage.embedded} embedded in {stage.seconds:.1f} s; "
        f"the model knows: {knows}"
    )


def stages(
    place: IndexOption,
    as_json: Annotated[bool, typer.Option("--json", help="Print them as JSON.")] = False,
) -> None:
    """List the stages of an index: every change of its model."""
    from lpi.cli.progress import print_table
    from lpi.search.manifest import read_manifest

    manifest = read_manifest(place)
    if as_json:
        print(json.dumps([asdict(stage) for stage in manifest.stages], indent=1, ensure_ascii=False))
        return
    rows = [
        [
            str(stage.number),
            " ".join(part for part in (stage.kind, stage.task) if part),
            stage.when,
            str(stage.pictures),
            str(stage.embedded),
            ", ".join(task.name for task in stage.tasks) or "-",
        ]
        for stage in manifest.stages
    ]
    print_table(["stage", "began with", "when (UTC)", "pictures", "embedded", "tasks"], rows)


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
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except FileNotFoundError as error:
        raise MissingFileError(f"{file}: there is no such file. Check the path.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8. Save it as UTF-8.") from error
