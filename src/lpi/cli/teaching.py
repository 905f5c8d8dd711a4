"""The commands that change what an index of pictures knows: teach, forget, rollback; and stages, which lists them."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lpi.cli.index_options import DeviceOption, IndexOption, ScoringOption, WorkersOption
from lpi.cli.options import MethodFileOption
from lpi.config import parse_changes
from lpi.errors import ConfigError

if TYPE_CHECKING:
    from lpi.search.manifest import Stage
    from lpi.search.report import Change, Report
    from lpi.search.teaching import Lesson

CLOSED, DEEPER = "closed form", "deeper"
YesOption = Annotated[bool, typer.Option("--yes", help="Adopt it without asking, unless something gets worse.")]
EvenIfWorseOption = Annotated[
    bool, typer.Option("--even-if-worse", help="Adopt it without asking, whatever gets worse.")
]
LearningOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="A setting for --deeper, which it implies: --set epochs=10. May be repeated."
    ),
]
DeeperOption = Annotated[
    bool,
    typer.Option(
        "--deeper", help="Besides the closed form (seconds), learn a change of the model (minutes); now or later."
    ),
]


def teach(
    name: Annotated[str, typer.Argument(help="What to call the domain.")],
    source: Annotated[Path, typer.Argument(help="A folder of captioned pictures, or its captions file.")],
    place: IndexOption,
    yes: YesOption = False,
    even_if_worse: EvenIfWorseOption = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be gained and lost.")] = False,
    deeper: DeeperOption = False,
    changes: LearningOption = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of initial values and batches.")] = 0,
    scoring: ScoringOption = "plain",
    workers: WorkersOption = None,
    device: DeviceOption = "auto",
    method_file: MethodFileOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Learn a domain from captioned pictures; say what is gained and lost; adopt it if you agree.

    The closed form of a domain takes seconds. --deeper also learns a change of the model, at once or later.
    """
    from lpi.counting import Counter
    from lpi.search.teaching import adopt, learn, read_domain, training_settings, ways
    from lpi.search.writer import change

    if dry_run and (yes or even_if_worse):
        raise ConfigError("--dry-run adopts nothing: it doesn't go with --yes or --even-if-worse. Leave one out.")
    chosen = {key.removeprefix("training."): value for key, value in parse_changes(changes or []).items()}
    stage: Stage | None = None
    with change(place, workers=workers, device=device, method_file=method_file) as writer:
        settings, domain = training_settings(writer, chosen), read_domain(source, name)
        lessons: dict[str, Lesson] = {}
        for way in ways(writer.method, settings, deeper=deeper or bool(chosen)):
            with Counter() as counter:
                lesson = learn(
                    writer,
                    domain,
                    settings=way,
                    seed=seed,
                    scoring=scoring,
                    again=deeper,
                    on_step=counter.step,
                    on_progress=counter.count,
                )
            lessons[CLOSED if way is not settings else DEEPER] = lesson
            if not as_json:
                print("In closed form:" if way is not settings else "With a change of the model:")
                _show_report(lesson.task, lesson.report)
        offered = max(lessons, key=lambda way: lessons[way].found)
        lesson = lessons[offered]
        if DEEPER in lessons and offered != DEEPER:
            print("note: the closed form finds more, so it is what can be adopted", file=sys.stderr)
        for loss in lesson.losses:
            print(f"warning: {loss}", file=sys.stderr)
        if not dry_run and (even_if_worse or (not lesson.losses if yes else _confirm(lesson))):
            with Counter() as counter:
                stage = adopt(writer, lesson, on_progress=counter.count)
    if as_json:
        learned = {way: {**one.report, "losses": one.losses} for way, one in lessons.items()}
        begun = None if stage is None else asdict(stage)
        content = {"task": name, **learned[offered], "offered": offered, "lessons": learned, "stage": begun}
        print(json.dumps(content, indent=1, ensure_ascii=False))
    else:
        _show_outcome(lesson, stage)


def _show_outcome(lesson: Lesson, stage: Stage | None) -> None:
    """Say whether a domain was adopted, and how it can be if not."""
    if stage is None:
        option = "--even-if-worse" if lesson.losses else "--yes"
        print(f"Not adopted. The same command with {option} adopts it without learning again.")
    else:
        _show_stage(stage)


def _confirm(lesson: Lesson) -> bool:
    if not sys.stdin.isatty():
        raise ConfigError(f"nobody is there to ask whether to adopt {lesson.task!r}. Add --yes, or --dry-run.")
    return typer.confirm(f"Adopt {lesson.task}{', although something gets worse' if lesson.losses else ''}?")


def _show_report(task: str, report: Report) -> None:
    from lpi.cli.progress import print_table
    from lpi.search.report import by_domain

    drawn = f" drawn from {report['pictures']}" if report["among"] < report["pictures"] else ""
    print(f"Test captions that find their picture, per cent, among {report['among']} pictures{drawn}:")
    rows = [[name, *_before_after(own)] for name, own in by_domain(task, report).items()]
    print_table(["domain", "captions", "first: before", "after", "in ten: before", "after"], rows)
    for name in report["unmeasured"]:
        print(f"note: {name} has no test set on record; 'lpi index --tests' puts one there")
    for name, count in report["unreadable"].items():
        print(f"note: {count} test pictures of {name} are no longer there")
    seconds = report["seconds"]
    left = report["reembed"] - report["embedded"]
    embed = f"; {left} when it is adopted, about {seconds['embed']} s" if left else ""
    print(
        f"{report['reembed']} of {report['pictures']} pictures ({report['share']:.1%}) must be embedded again, "
        f"{report['embedded']} are by now{embed}; "
        f"learned in {seconds['learn']:.1f} s, measured in {seconds['measure']:.1f} s"
    )


def _before_after(own: Change) -> list[str]:
    """Captions, R@1 before and after, R@10 before and after, as the table shows them."""
    recalls = (own["before"], own["after"])
    captions = next((str(recall["captions"]) for recall in recalls if recall), "0")
    firsts, tens = (["-" if one is None else f"{100 * one[key]:.1f}" for one in recalls] for key in ("r1", "r10"))
    return [captions, *firsts, *tens]


def forget(
    name: Annotated[str, typer.Argument(help="The domain to take away.")],
    place: IndexOption,
    for_good: Annotated[
        bool, typer.Option("--for-good", help="Drop all earlier stages too, so that nothing can bring it back.")
    ] = False,
    workers: WorkersOption = None,
    device: DeviceOption = "auto",
    method_file: MethodFileOption = None,
) -> None:
    """Take a domain away again, exactly: searches are then as if it had never been learned."""
    from lpi.counting import Counter
    from lpi.search.recorded import drop_record, on_record
    from lpi.search.writer import change
    from lpi.serve.sending import drop_sent

    with Counter() as counter, change(place, workers=workers, device=device, method_file=method_file) as writer:
        stage = writer.forget(name, on_progress=counter.count)
        if for_good:
            writer.drop_history()
            known = on_record(place).get(name)
            drop_record(place, name)
            drop_sent(place, known.records if known else ())
            stage = writer.manifest.current
    _show_stage(stage)


def rollback(
    place: IndexOption,
    to: Annotated[int | None, typer.Option(help="The stage to go back to; by default the one before.")] = None,
    workers: WorkersOption = None,
    device: DeviceOption = "auto",
    method_file: MethodFileOption = None,
) -> None:
    """Go back to the model of an earlier stage. The pictures stay those of today."""
    from lpi.counting import Counter
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
    print_table(["stage", "began with", "when (UTC)", "pictures", "embedded", "domains"], rows)
