"""``lpi``: run, evaluate and report experiments; pre-train and join backbones; check data and machine."""

from __future__ import annotations

import _thread
import json
import os
import sys
import threading
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from lpi import __version__
from lpi.cli.compare import compare
from lpi.cli.export import export
from lpi.cli.features import features
from lpi.cli.grounding import ground
from lpi.cli.methods import methods
from lpi.cli.migrate import migrate
from lpi.cli.options import JsonOption, MethodFileOption, command_line
from lpi.cli.run import evaluate, run, write_page
from lpi.cli.search import register as register_search
from lpi.cli.serve import serve
from lpi.cli.tune import tune
from lpi.errors import ConfigError, LpiError, UnknownNameError, lacks_memory
from lpi.terminal import plain_streams

# typer's own copy of click's class, or click's, by its version
UsageError: Any = typer.BadParameter.__mro__[1]
LESS_MEMORY = (
    "Close other programs, or take fewer --jobs or --workers, smaller batches or a smaller model; the same command "
    "goes on where it was."
)
STOPPED = 130  # what shells and typer make of Ctrl-C

app = typer.Typer(
    name="lpi",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Search pictures with words, teach the search new domains, and compare methods of continual learning.",
)
data_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Check data before learning from it.")
app.add_typer(data_app, name="data")
app.command()(run)
app.command()(evaluate)
app.command()(compare)
app.command()(export)
app.command()(features)
app.command()(tune)
app.command()(ground)
app.command()(methods)


def main() -> None:
    """The entry point: a person's mistake is one line and exit code 2, never a traceback."""
    sys.unraisablehook = not_lost
    with plain_streams():
        _main()


def not_lost(raised: sys.UnraisableHookArgs) -> None:
    """Let a stop count that came in a finalizer, where Python only prints it and goes on."""
    if isinstance(raised.exc_value, KeyboardInterrupt):
        # in a moment: at once it would only stop this hook
        later = threading.Timer(0.05, _thread.interrupt_main)
        later.daemon = True
        later.start()
    else:
        sys.__unraisablehook__(raised)


def _main() -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # what PIL thinks of a camera's note names no picture and helps nobody; a picture that can't be read is named
    warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        # by itself typer would print usage, hint and error on four lines
        code = app(prog_name="lpi", standalone_mode=False)
    except LpiError as error:
        code = _complain(" ".join(str(error).split()))
    except UsageError as error:
        code = _usage(error)
    except (KeyboardInterrupt, typer.Abort):
        code = STOPPED
    except Exception as error:
        if lacks_memory(error):
            code = _complain(f"there is too little memory. {LESS_MEMORY}")
        elif isinstance(error, OSError) and error.filename is not None:  # wherever it was met
            code = _complain(f"{error.filename}: {error.strerror}. Check its path and permissions.")
        else:
            raise
    if code == STOPPED:
        print("lpi: stopped. The same command goes on where it was.", file=sys.stderr)
    raise SystemExit(code or 0)


def _complain(message: str) -> int:
    print(f"lpi: {message}", file=sys.stderr)
    return 2


def _usage(error: Any) -> int:
    """A command line that can't be understood: what is wrong with it, and where to read more."""
    if type(error).__name__ == "NoArgsIsHelpError":  # its message is the help itself
        print(error.format_message(), file=sys.stderr)
        return 2
    command = error.ctx.command_path if error.ctx is not None else "lpi"
    message = " ".join(error.format_message().split()).rstrip(".?")
    end = "?" if "Did you mean" in message else "."
    return _complain(f"{message[:1].lower()}{message[1:]}{end} See '{command} --help'.")


@app.callback(invoke_without_command=True)
def version(show: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Options before any command."""
    if show:
        print(f"lpi {__version__}")
        raise typer.Exit


@app.command(name="report")
def report_command(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or folders that contain some.")],
    out: Annotated[Path, typer.Option(help="Where to write report.html and its pictures.")] = Path("."),
) -> None:
    """Write one HTML page (and PNG files) about one run or several."""
    write_page(runs, out, quiet=False, needed=True)


@app.command()
def pretrain(
    world: Annotated[
        str, typer.Argument(help="'scenes': captioned pictures of the drawn world; 'grounding': boxes in them.")
    ] = "scenes",
    out: Annotated[
        Path | None, typer.Option(help="Folder for the model: lpi-tiny, or lpi-tiny-grounding.", show_default=False)
    ] = None,
    pictures: Annotated[
        int | None, typer.Option(help="Pictures in an epoch.", min=256, show_default="24000, grounding: 2500")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs.", min=1, show_default="8, grounding: 24")] = None,
    seed: Annotated[int, typer.Option(help="Seed of pictures, weights and batches.")] = 0,
) -> None:
    """Train a model that comes along: lpi-tiny from scratch, or its detector from it (half an hour on two cores)."""
    known = {"scenes": ("lpi-tiny", 24_000, 8), "grounding": ("lpi-tiny-grounding", 2_500, 24)}
    if world not in known:
        raise UnknownNameError(f"Only 'scenes' and 'grounding' can be trained on; got {world!r}.")
    from lpi.cli.progress import Console

    if world == "scenes":
        from lpi.pretrain.scenes import pretrain as train
    else:
        from lpi.pretrain.grounding import pretrain_grounding as train  # type: ignore[assignment]
    name, usual_pictures, usual_epochs = known[world]
    out = out or Path(name)
    with Console() as console:
        train(
            out,
            pictures=pictures or usual_pictures,
            epochs=epochs or usual_epochs,
            seed=seed,
            command=command_line(),
            on_step=console.step,
            say=console.say,
        )
    print(f"Written to {out}")


@app.command()
def align(
    vision: Annotated[str, typer.Argument(help="Folder or hub name of a vision tower (ViT, DINOv2, CLIP's).")],
    text: Annotated[str, typer.Argument(help="Folder or hub name of a text tower (BERT, RoBERTa).")],
    captions: Annotated[Path, typer.Argument(help="Captioned pictures: a folder of tasks or a JSONL file.")],
    out: Annotated[Path, typer.Option(help="Folder for the joined model.")] = Path("aligned"),
    width: Annotated[int, typer.Option(help="Width of the common space.", min=2)] = 256,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the captioned pictures.")] = 20,
    batch: Annotated[int, typer.Option(min=2, help="Pairs in a batch.")] = 256,
    learning_rate: Annotated[float, typer.Option(help="Learning rate of AdamW.")] = 1e-3,
    seed: Annotated[int, typer.Option(help="Seed of initial values and batches.")] = 0,
) -> None:
    """Join two pre-trained towers into one space by learning only their projections, from cached features."""
    from lpi.backbones.align import align as join
    from lpi.data.source import load_source

    records = [record for record in load_source(captions) if record.split == "train"]
    join(
        vision,
        text,
        records,
        out=out,
        feature_width=width,
        epochs=epochs,
        batch=batch,
        learning_rate=learning_rate,
        seed=seed,
    )
    print(f"Written to {out}; use it with --set backbone={out}")


@data_app.command("check")
def data_check(
    path: Annotated[
        Path,
        typer.Argument(
            help="A captioned folder, a folder of tasks, JSONL, Karpathy-split or COCO JSON, RefCOCO's files, or a "
            "collection such as dar."
        ),
    ],
    backbone: Annotated[str | None, typer.Option(help="Also list captions longer than this model's context.")] = None,
    images: Annotated[Path | None, typer.Option(help="The folder of its pictures, if they are elsewhere.")] = None,
    boxes: Annotated[str | None, typer.Option(help="How a JSONL of expressions writes boxes: xyxy or xywh.")] = None,
    instances: Annotated[Path | None, typer.Option(help="For COCO's captions: the file of instances.")] = None,
    root: Annotated[Path | None, typer.Option(help="For a collection: the folder of its data sets.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Open every picture and read every caption or box; list all that is wrong, with file and line.

    For a collection (see 'lpi data cards') it also lists which of its publishers' files are missing.
    """
    from lpi.data.collections import check_collection
    from lpi.data.expressions.check import check_source

    options = {"image_root": images, "boxes": boxes, "instances_json": instances}
    given = {name: value for name, value in options.items() if value is not None}
    if root is not None and (given or backbone is not None):
        raise ConfigError("--root is of a collection, which takes no other option but --json. Leave the others out.")
    too_long = None
    if backbone is not None:
        from lpi.backbones.loading import load_backbone

        too_long = load_backbone(backbone).inputs.too_long
    found = check_collection(str(path), root) if root is not None else check_source(path, too_long=too_long, **given)
    if as_json:
        print(json.dumps(found.as_json(), indent=1, ensure_ascii=False))
    else:
        _show_check(found)
    if not found.ok:
        raise typer.Exit(2)


@data_app.command("cards")
def data_cards(
    name: Annotated[str | None, typer.Argument(help="A collection or set; by default all collections.")] = None,
) -> None:
    """Say where public data sets come from, under which terms, and which files are read."""
    from lpi.data.collections import COLLECTIONS, describe

    if name is not None:
        print("\n".join(describe(name)))
        return
    for known, found in COLLECTIONS.items():
        print(f"{known}: {found.about}" + (f" ({', '.join(found.sets)})" if len(found.sets) > 1 else ""))


@app.command()
def doctor(
    folder: Annotated[
        Path | None,
        typer.Argument(help="A run, a comparison, an index or a saved model: is it still what was written?"),
    ] = None,
    method_file: MethodFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what this machine has and what the library can do on it; or, given a folder, what is damaged in it."""
    if folder is not None:
        _tell_damage(folder, method_file, as_json)
        return
    from lpi.doctor import examine

    findings = examine()
    if as_json:
        print(json.dumps(findings, indent=1))
        return
    for name, finding in findings.items():
        print(f"{'ok ' if finding['ok'] else '-- '} {name}: {finding['says']}")


def _tell_damage(folder: Path, method_file: Path | None, as_json: bool) -> None:
    """Say what is damaged in a folder of ours; with anything, the exit code is 1."""
    from lpi.damage import examine

    found = examine(folder, method_file=method_file)
    if as_json:
        print(json.dumps({"looked_at": found.looked, "wrong": found.wrong, "notes": found.notes}, indent=1))
    else:
        for line in found.notes:
            print(f"note: {line}")
        for line in found.wrong:
            print(f"wrong: {line}")
        looked = ", ".join(f"{count} {what}{'s' * (count > 1)}" for what, count in found.looked.items())
        verdict = f"{len(found.wrong)} damaged or not fitting" if found.wrong else "all is as it was written"
        print(f"Looked at {looked.replace('indexs', 'indexes')}: {verdict}.")
    if found.wrong:
        raise typer.Exit(1)


register_search(app)
app.command()(migrate)
app.command()(serve)


def _show_check(found: Any) -> None:
    from lpi.cli.progress import print_table
    from lpi.data.check import folded

    if found.rows:
        print_table(list(found.rows[0]), [[str(value) for value in row.values()] for row in found.rows])
    for warning in found.warnings:
        print(f"note: {warning}")
    for error in folded(found.errors):
        print(f"wrong: {error}")
    print(_verdict(len(found.errors), len(found.warnings)))


def _verdict(errors: int, notes: int) -> str:
    """What a check comes to; notes are for a person to judge, so with any it isn't said that all is well."""
    if errors:
        return f"{errors} thing{'s' if errors > 1 else ''} to put right."
    return f"Nothing to put right; {notes} note{'s' if notes > 1 else ''} above." if notes else "All is well."
