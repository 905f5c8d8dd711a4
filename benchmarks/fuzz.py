"""Hand every door generated inputs by the thousand: each is taken, or refused in one line of this library's own.

    python benchmarks/fuzz.py --inputs 200000 --results results/fuzz.json
    python benchmarks/fuzz.py --inputs 5000 --work FOLDER        # resumable: given again, it goes on
    python benchmarks/fuzz.py --only 1234                           # one input, with whatever it raises

A door is a reader, a call of the library or an address of the server. Its inputs are good ones, changed by the seed and
their number: bytes are flipped, cut, doubled and put in; values of JSON, TOML and pickles are replaced by odd ones,
taken away and nested; arguments are of any type. Counted are errors that aren't the library's own, inputs that
take more than ten seconds, and the memory above that of the process before its first input. Every chunk of inputs runs
in a process of its own: one that dies is a traceback, too.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import pickle
import random
import resource
import signal
import subprocess
import sys
import tarfile
import tempfile
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from resumable import Log, parser

from lpi.errors import LpiError

CHUNK = 1000
HANGS = 10
ODD: list[Any] = [
    *(None, True, 0, -1, 1.5, "", " ", "\0", "a\0b", "x" * 5000, [], {}, [[]], {"a": 1}, 10**400, -(10**30), 1e308),
    *(
        float("nan"),
        float("inf"),
        "../../x",
        "/etc/passwd",
        "C:\\x",
        "a\\b",
        "\u202eabc",
        "\ud800",
        "🐦",
        "nan",
        b"bytes",
    ),
    *([1, 2, 3], ["a", "b"], "train", "[" * 300, 2**31, 2**63, "1" * 400, "lpi", "cpu", "\x1b[2J"),
]
PIECES = [
    b"",
    b"\0",
    b"\xff" * 8,
    b"9" * 5000,
    b"[" * 400,
    b'{"a":' * 300,
    b'"',
    b"\\ud800",
    b"NaN",
    b"1e999",
    b"\n",
    b"\xef\xbb\xbf",
]


def odd_bytes(data: bytes, chance: random.Random) -> bytes:
    """Bytes that differ from good ones in some places."""
    content = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(content) + 1)
        way = chance.randrange(6)
        if way == 0 and content:
            content[min(place, len(content) - 1)] ^= 1 << chance.randrange(8)
        elif way == 1:
            del content[place:]
        elif way == 2:
            content[place:place] = chance.choice(PIECES)
        elif way == 3:
            content[place:place] = content[: chance.randrange(200)]
        elif way == 4:
            del content[place : place + chance.randrange(40)]
        elif content:
            place = min(place, len(content) - 1)
            content[place : place + 4] = chance.choice((b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\xff\xff\xff\xff"))
    return bytes(content)


def odd_value(value: Any, chance: random.Random) -> Any:
    """A plain value with something odd somewhere inside."""
    if chance.random() < 0.25 or not isinstance(value, list | dict) or not value:
        return chance.choice(ODD)
    if isinstance(value, list):
        place = chance.randrange(len(value))
        if chance.random() < 0.1:
            return [*value, *value]
        return [odd_value(one, chance) if at == place else one for at, one in enumerate(value)]
    name = chance.choice(list(value))
    if chance.random() < 0.15:
        return {key: one for key, one in value.items() if key != name}
    return {key: odd_value(one, chance) if key == name else one for key, one in value.items()}


def written(value: Any) -> bytes:
    """JSON, such as Python writes it for any value."""
    return json.dumps(value, default=str).encode("utf-8", "surrogatepass")


def toml_value(value: Any) -> str:
    return json.dumps(value, default=str)


class Doors:
    """Every door by its name: takes a chance, makes an input and hands it over."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self._files()
        self._models()
        self.doors: dict[str, Callable[[random.Random], object]] = {
            name.removeprefix("door_"): getattr(self, name) for name in sorted(dir(self)) if name.startswith("door_")
        }

    def _files(self) -> None:
        from PIL import Image

        picture = Image.effect_noise((48, 32), 60)
        self.pictures: list[bytes] = []
        for mode, kind in (
            *(("RGB", "PNG"), ("RGB", "JPEG"), ("RGBA", "PNG"), ("P", "GIF"), ("L", "TIFF"), ("RGB", "WEBP")),
            *(("RGB", "BMP"), ("I;16", "PNG"), ("CMYK", "JPEG"), ("RGB", "PPM"), ("RGB", "ICO"), ("RGB", "AVIF")),
        ):
            held = io.BytesIO()
            with contextlib.suppress(OSError, KeyError, ValueError):
                image = picture.convert("I") if mode == "I;16" else picture.convert(mode)
                image.save(held, kind, exif=Image.Exif().tobytes()) if kind in ("JPEG", "WEBP") else image.save(
                    held, kind
                )
                self.pictures.append(held.getvalue())
        picture.convert("RGB").save(self.work / "a.png")
        (self.work / "images").mkdir(exist_ok=True)
        picture.convert("RGB").save(self.work / "images" / "b.png")
        self.row = {"image": "a.png", "captions": ["a red boat", "a boat"], "task": "t", "split": "train", "x": 1}
        self.coco = {
            "images": [{"id": n, "file_name": "a.png", "width": 48, "height": 32} for n in (1, 2)],
            "annotations": [{"id": n, "image_id": n, "caption": "a boat"} for n in (1, 2)],
        }
        self.instances = {
            "images": self.coco["images"],
            "categories": [{"id": 7, "name": "cup", "supercategory": "kitchen"}],
            "annotations": [
                {"id": n, "image_id": n, "category_id": 7, "area": 9.5, "bbox": [1, 1, 5, 5], "iscrowd": 0}
                for n in (1, 2)
            ],
        }
        self.karpathy = {
            "images": [
                {"filename": "a.png", "filepath": "images", "split": "train", "sentences": [{"raw": "a"}], "imgid": 1}
            ]
        }
        self.box = {
            "image": "a.png",
            "expression": "the red one",
            "box": [1, 1, 20, 20],
            "task": "t",
            "width": 48,
            "height": 32,
        }
        self.refs = [{"ref_id": 1, "split": "train", "ann_id": 1, "sentences": [{"sent": "left", "sent_id": 2}]}]
        self.mdetr = {
            **self.instances,
            "images": [{**one, "caption": "left", "original_id": 1} for one in self.coco["images"]],
        }
        self.toml = {
            "backbone": "lpi-tiny",
            "seeds": [0],
            "stream": {"kind": "folder", "root": "x", "train_limit": 8, "order": ["a"]},
            "method": {"name": "lpi", "rank": 2},
            "training": {"epochs": 2, "batch": 8, "learning_rate": 0.01},
            "rows": {"other": {"method.rank": 4}},
        }
        self.tuned = {"rows": {"lpi": {"chosen": {"training.learning_rate": 0.01}}}, "command": "lpi tune"}

    def _models(self) -> None:
        import torch

        import lpi
        from lpi.methods.checkpoint import save_method

        torch.set_num_threads(1)
        self.clip = lpi.backbone("lpi-tiny")
        self.method = lpi.method("lpi", self.clip, rank=2, length=4)
        save_method(self.method, self.work / "model")
        self.config = json.loads((self.work / "model" / "config.json").read_text())
        from lpi.storage import write_tensors

        write_tensors(self.work / "t.safetensors", {"a": torch.arange(12.0).reshape(3, 4), "b": torch.ones(5)})
        self.tensors = (self.work / "t.safetensors").read_bytes()
        self._client: Any = None

    def put(self, name: str, content: bytes) -> Path:
        file = self.work / name
        file.write_bytes(content)
        return file

    def spoilt(self, value: Any, chance: random.Random) -> bytes:
        """JSON with odd values, or odd bytes."""
        for _ in range(chance.randint(1, 2)):
            if chance.random() < 0.6:
                value = odd_value(value, chance)
        content = written(value)
        return odd_bytes(content, chance) if chance.random() < 0.4 else content

    # ---- readers -----------------------------------------------------------------------------------------------------

    def door_captions(self, chance: random.Random) -> object:
        from lpi.data.folder import load_jsonl

        lines = [self.spoilt(self.row, chance), written({**self.row, "image": "b.png"})]
        return load_jsonl(self.put("c.jsonl", b"\n".join(lines)))

    def door_check(self, chance: random.Random) -> object:
        from lpi.data.check import check_stream_source

        return check_stream_source(self.put("d.jsonl", self.spoilt(self.row, chance))).as_json()

    def door_coco(self, chance: random.Random) -> object:
        from lpi.data.coco import load_coco

        first, second = self.spoilt(self.coco, chance), written(self.instances)
        if chance.random() < 0.5:
            first, second = written(self.coco), self.spoilt(self.instances, chance)
        return load_coco(self.put("k.json", first), self.put("i.json", second), self.work)

    def door_karpathy(self, chance: random.Random) -> object:
        from lpi.data.karpathy import load_karpathy

        return load_karpathy(self.put("k.json", self.spoilt(self.karpathy, chance)), self.work)

    def door_zip(self, chance: random.Random) -> object:
        from lpi.data.karpathy import load_karpathy

        held = io.BytesIO()
        with zipfile.ZipFile(held, "w", chance.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
            archive.writestr("dataset.json", written(self.karpathy))
        return load_karpathy(self.put("k.zip", odd_bytes(held.getvalue(), chance)), self.work)

    def door_tar(self, chance: random.Random) -> object:
        from lpi.data.collections.tables import read_shards

        held = io.BytesIO()
        with tarfile.open(fileobj=held, mode="w") as archive:
            for name, content in (("1.png", self.pictures[0]), ("1.json", written({"caption": "a boat"}))):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        records = read_shards(
            [self.put("s.tar", odd_bytes(held.getvalue(), chance))], task="t", on_error=lambda e: None
        )
        return [record.picture.open(16) for record in records]

    def door_expressions(self, chance: random.Random) -> object:
        from lpi.data.expressions.jsonl import load_expressions

        return load_expressions(
            self.put("e.jsonl", self.spoilt(self.box, chance)), boxes=chance.choice(("xyxy", "xywh"))
        )

    def door_refs(self, chance: random.Random) -> object:
        from lpi.data.expressions.refcoco import load_refs

        refs: Any = odd_value(self.refs, chance) if chance.random() < 0.5 else self.refs
        content = pickle.dumps(refs, protocol=chance.choice((0, 2, 4)))
        content = odd_bytes(content, chance) if chance.random() < 0.6 else content
        instances = self.spoilt(self.instances, chance) if chance.random() < 0.2 else written(self.instances)
        return load_refs(self.put("refs.p", content), self.put("instances.json", instances), self.work)

    def door_mdetr(self, chance: random.Random) -> object:
        from lpi.data.expressions.refcoco import load_mdetr

        return load_mdetr(self.put("f_train.json", self.spoilt(self.mdetr, chance)), self.work)

    def door_toml(self, chance: random.Random) -> object:
        from lpi.config import read_experiment

        odd = odd_value(self.toml, chance)
        lines = []
        for name, value in odd.items() if isinstance(odd, dict) else []:
            if isinstance(value, dict):
                lines += [f"{name}.{toml_value(key)} = {toml_value(inner)}" for key, inner in value.items()]
            else:
                lines.append(f"{name} = {toml_value(value)}")
        content = "\n".join(lines).encode("utf-8", "surrogatepass")
        return read_experiment(self.put("e.toml", odd_bytes(content, chance) if chance.random() < 0.7 else content))

    def door_change(self, chance: random.Random) -> object:
        from lpi.config import read_experiment

        key = chance.choice(("method.rank", "training.batch", "stream.order", "seeds", "rows.x", "a", "name", "search"))
        value = chance.choice([str(one) for one in ODD] + ["[" * 3000, "9" * 5000, "{a=", '"', "'''", "2024-13-01"])
        return read_experiment("scenes", [f"{key}={value}"])

    def door_tuned(self, chance: random.Random) -> object:
        from lpi.config import read_experiment
        from lpi.evaluation.scheduler import read_tuned, variants_of

        rows = read_tuned(self.put("tuned.json", self.spoilt(self.tuned, chance)))["rows"]
        return variants_of(read_experiment("scenes"), ["lpi"], rows)

    def door_manifest(self, chance: random.Random) -> object:
        from lpi.search.manifest import read_manifest

        stage = {
            "number": 0, "kind": "index", "task": "", "model": "0123456789abcdef", "version": 1, "pictures": 0,
            "tasks": [{"name": "t", "prompts": "p"}], "embedded": 0, "seconds": 0.0, "when": "2026", "report": None,
        }  # fmt: skip
        content = {
            "format": 1, "root": "/x", "backbone": {"name": "n", "identity": "i"}, "preprocessing": "p", "width": 8,
            "batch": 8, "stages": [stage], "training": {}, "store": "store",
            "outdated": [["store-0123456789abcdef", "2026"]],
        }  # fmt: skip
        (self.work / "ix").mkdir(exist_ok=True)
        self.put("ix/index.json", self.spoilt(content, chance))
        manifest = read_manifest(self.work / "ix")
        return manifest.current.pin, manifest.store_in(self.work), manifest.recorded(manifest.current)

    def door_record(self, chance: random.Random) -> object:
        from lpi.evaluation.records import RunRecord, StageRecord, read_record

        kind = chance.choice((RunRecord, StageRecord))
        content = {
            "tasks": 1,
            "joint": False,
            **{name: {"t2i_r1": 0.5} for name in ("final", "average", "forgetting", "bwt")},
        }
        stage = {"stage": 0, "tasks": 1, "seen": {"t2i_r1": [0.5]}}
        return read_record(kind, self.put("r.json", self.spoilt(content if kind is RunRecord else stage, chance)))

    def door_run(self, chance: random.Random) -> object:
        from lpi.report.reading import read_examples, read_info, read_log, read_relations

        info = {
            "format": 2, "problem": "retrieval", "experiment": "e", "row": "lpi", "seed": 0, "method": {"name": "lpi"},
            "stream": {"tasks": [{"name": "t"}]},
        }  # fmt: skip
        relations = {
            "names": ["a"],
            "similarity": [[1.0]],
            "positions": [[0, 1]],
            "near": None,
            "prompt_similarity": None,
        }
        way = chance.randrange(4)
        if way == 0:
            return read_info(self.put("run.json", self.spoilt(info, chance)))
        if way == 1:
            return read_relations(self.put("tasks.json", self.spoilt(relations, chance)))
        if way == 2:
            return read_examples(self.put("examples.json", self.spoilt([{"query": "a"}], chance)), "retrieval")
        return read_log(self.put("log.jsonl", self.spoilt({"loss": 1.0, "task": "t", "step": 1}, chance) + b"\n"))

    def door_saved_method(self, chance: random.Random) -> object:
        from lpi.methods.checkpoint import load_method

        self.put("model/config.json", self.spoilt(self.config, chance))
        return load_method(self.work / "model", backbone=self.clip)

    def door_tensors(self, chance: random.Random) -> object:
        from lpi.storage import read_tensors

        return read_tensors(self.put("t.safetensors", odd_bytes(self.tensors, chance)))

    def door_backbone(self, chance: random.Random) -> object:
        from lpi.backbones.loading import read_config

        (self.work / "bb").mkdir(exist_ok=True)
        self.put("bb/config.json", self.spoilt({"model_type": "clip", "text_config": {"x": 1}}, chance))
        return read_config(self.work / "bb")

    # ---- pictures ----------------------------------------------------------------------------------------------------

    def door_picture(self, chance: random.Random) -> object:
        from lpi.data.records import FilePicture

        file = self.put("p.jpg", odd_bytes(chance.choice(self.pictures), chance))
        return FilePicture(file, "p.jpg").open(chance.choice((None, 8, 64)))

    def door_about(self, chance: random.Random) -> object:
        from lpi.data.expressions.record import picture_size
        from lpi.search.files import read_about

        file = self.put("q.jpg", odd_bytes(chance.choice(self.pictures), chance))
        return picture_size(file), read_about(file)

    def door_upload(self, chance: random.Random) -> object:
        from lpi.serve.limits import read_picture

        return read_picture(odd_bytes(chance.choice(self.pictures), chance), pixels=4_000_000, side=64)

    # ---- calls -------------------------------------------------------------------------------------------------------

    def door_encode(self, chance: random.Random) -> object:
        import numpy as np

        things = [*ODD, np.zeros((4, 4, 3)), np.zeros((3, 4, 4), np.uint8), np.zeros(()), object(), (1, 2), {"a"}]
        given = chance.choice(things)
        given = [given, "a"] if chance.random() < 0.3 else given
        return self.method.encode_texts(given) if chance.random() < 0.5 else self.method.encode_images(given)

    def door_options(self, chance: random.Random) -> object:
        import lpi

        name = chance.choice(["lpi", "l2p", "dar", "finetune", "zero_shot", *ODD])
        option = chance.choice(
            ("rank", "length", "preset", "injection", "clusters", "routing", "no", "memory", "prompts")
        )
        return lpi.method(name, self.clip, **{option: chance.choice(ODD)})

    def door_filters(self, chance: random.Random) -> object:
        from lpi.search.filters import Filters

        texts = [one for one in ODD if isinstance(one, str)] + ["2024-01-01", "2024-02-30", "9999-99-99"]
        return Filters(*(chance.choice([None, *texts]) for _ in range(4))).sql()

    def door_http(self, chance: random.Random) -> object:
        client = self._server()
        texts = [str(one).encode("utf-8", "replace").decode() for one in ODD]
        names = ("q", "k", "stage", "scoring", "folder", "task", "since", "until", "exact", "side", "expression", "x")
        query = {chance.choice(names): chance.choice(texts)[:2000] for _ in range(chance.randint(0, 4))}
        address = chance.choice(
            ("/api/search", "/api/info", "/api/health", "/metrics", "/", "/api/pictures/{}", "/api/pictures/{}/file",
             "/api/pictures/{}/thumbnail", "/api/pictures/{}/similar", "/api/pictures/{}/ground", "/%00", "/../x")
        ).format(chance.choice([self._id, "0" * 32, "x", "..%2f..", "%00"]))  # fmt: skip
        heads = {
            chance.choice(("Range", "If-None-Match", "Accept", "X")): chance.choice(texts)[:200]
            .encode("ascii", "replace")
            .decode()
            .replace("\0", "")
            .replace("\x1b", "")
        }
        body = odd_bytes(chance.choice(self.pictures), chance) if chance.random() < 0.3 else None
        if body is not None:
            heads["Content-Type"] = chance.choice(("image/png", "multipart/form-data; boundary=x", "text/plain", "a/b"))
        answer = client.request("POST" if body else "GET", address, params=query, headers=heads, content=body)
        if answer.status_code >= 500 and answer.status_code not in (501, 503):
            raise RuntimeError(f"{answer.status_code} for {address} {query} {heads}")
        if answer.status_code >= 400 and "error" not in answer.json():
            raise RuntimeError(f"no line for {address} {query}")
        return answer.status_code

    def _server(self) -> Any:
        if self._client is None:
            from starlette.testclient import TestClient

            from lpi.search import SearchIndex
            from lpi.serve.app import create_app
            from lpi.serve.service import Service

            place = Path(tempfile.mkdtemp(dir=self.work))
            (place / "photos").mkdir()
            for number, content in enumerate(self.pictures[:4]):
                (place / "photos" / f"{number}.png").write_bytes(content)
            index = SearchIndex.build("lpi-tiny", place / "photos", index=place / "ix", device="cpu")
            self._id = index.search("a boat", count=1)[0].id
            self._client = TestClient(
                create_app(Service(index)), base_url="http://localhost", raise_server_exceptions=False
            )
            self._client.__enter__()
        return self._client


class HangsError(Exception):
    """An input took too long."""


def too_long(*_: object) -> None:
    raise HangsError


def tried(doors: Doors, seed: int, number: int) -> tuple[str, str]:
    """The door of an input, and what came of it: ``taken``, ``refused``, ``hang``, or the traceback."""
    names = list(doors.doors)
    name = names[number % len(names)]
    signal.alarm(HANGS)
    try:
        doors.doors[name](random.Random(f"{seed}/{number}"))
    except LpiError as error:
        said = str(error)
        return name, "refused" if len(said) < 3000 else f"a message of {len(said)} letters: {said[:200]}"
    except HangsError:
        return name, "hang"
    except BaseException:
        return name, traceback.format_exc()
    finally:
        signal.alarm(0)
    return name, "taken"


def chunk(seed: int, start: int, count: int) -> dict[str, Any]:
    """A chunk of inputs in this process."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    signal.signal(signal.SIGALRM, too_long)
    with tempfile.TemporaryDirectory(prefix="lpi-fuzz-") as work:
        os.chdir(work)
        doors = Doors(Path(work))
        doors._server()
        for number in range(len(doors.doors)):  # what is loaded when it is first used isn't an input's doing
            tried(doors, -1, number)
        idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        counts: Counter[str] = Counter()
        failures = []
        for number in range(start, start + count):
            door, outcome = tried(doors, seed, number)
            kind = outcome if outcome in ("taken", "refused", "hang") else "traceback"
            counts[f"{door}/{kind}"] += 1
            if kind in ("hang", "traceback"):
                failures.append({"input": number, "door": door, "kind": kind, "what": outcome[-1500:]})
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        doors._client.__exit__(None, None, None)
        return {"start": start, "counts": counts, "failures": failures, "peak_mb_above_idle": (peak - idle) // 1024}


def apart(options: argparse.Namespace, start: int, count: int) -> dict[str, Any]:
    """The same in a process of its own."""
    words = [sys.executable, __file__, "--seed", str(options.seed), "--chunk", str(start), "--inputs", str(count)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        what = {"input": start, "door": "?", "kind": "traceback", "what": f"{done.returncode}: {done.stderr[-1500:]}"}
        return {"start": start, "counts": {"?/traceback": count}, "failures": [what], "peak_mb_above_idle": 0}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def summary(chunks: list[dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    from lpi.evaluation.machine import environment

    counts: Counter[str] = Counter()
    for one in chunks:
        counts.update(one["counts"])
    by_door: dict[str, dict[str, int]] = {}
    for name, count in sorted(counts.items()):
        door, _, kind = name.partition("/")
        by_door.setdefault(door, {})[kind] = count
    failures = [failure for one in chunks for failure in one["failures"]]
    return {
        "inputs": sum(counts.values()),
        "doors": len(by_door),
        "tracebacks": sum(count for name, count in counts.items() if name.endswith("/traceback")),
        "hangs": sum(count for name, count in counts.items() if name.endswith("/hang")),
        "peak_mb_above_idle": max(one["peak_mb_above_idle"] for one in chunks),
        "by_door": by_door,
        "failures": failures[:50],
        "seed": options.seed,
        "command": "python benchmarks/fuzz.py " + " ".join(sys.argv[1:]),
        **environment(),
    }


def arguments() -> argparse.Namespace:
    options = parser(__doc__, "fuzz")
    options.add_argument("--inputs", type=int, default=5000)
    options.add_argument("--only", type=int, help="a single input, to look at it")
    options.add_argument("--chunk", type=int, help=argparse.SUPPRESS)
    return options.parse_args()


def main() -> None:
    options = arguments()
    if options.chunk is not None:
        print(json.dumps(chunk(options.seed, options.chunk, options.inputs)))
        return
    if options.only is not None:
        print(json.dumps(chunk(options.seed, options.only, 1), indent=1))
        return
    log = Log(options.work / f"chunks-{options.seed}.jsonl")
    for start in range(len(log.done) * CHUNK, options.inputs, CHUNK):
        log.note(apart(options, start, CHUNK))
        print(start + CHUNK, "inputs,", len(log.done[-1]["failures"]), "failures", flush=True)
    from lpi.storage import write_json

    write_json(options.results, summary(log.done, options))


if __name__ == "__main__":
    main()
