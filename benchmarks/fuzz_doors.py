"""The doors that ``fuzz.py`` hands its inputs to: readers, pictures and calls; what makes an input odd."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import pickle
import random
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


class Readers:
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
        held = io.BytesIO()
        parts = {"task": "t", "epoch": 0, "batch": 1, "step": 1, "optimiser": {}, "buffers": {}}
        torch.save({**parts, "parameters": [torch.ones(3)]}, held)
        self.progress = hashlib.sha256(held.getvalue()).digest() + held.getvalue()

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

    def door_csv(self, chance: random.Random) -> object:
        from lpi.data.rows import read_csv

        content = b'ID,Caption\r\n1,"a scan, of\ntwo lines"\r\n2,short\r\n'
        return list(read_csv(self.put("c.csv", odd_bytes(content, chance)), "ID", "Caption"))

    def door_vocabulary(self, chance: random.Random) -> object:
        from lpi.backbones.openai_layout import openai_tokenizer

        words = odd_bytes(b"#version\nt h\nth e</w>\nd o\n", chance)
        packed = gzip.compress(words, 1) if chance.random() < 0.5 else odd_bytes(gzip.compress(words, 1), chance)
        return openai_tokenizer(self.put("v.gz", packed))

    def door_progress(self, chance: random.Random) -> object:
        from lpi.trainer import read_progress

        content = self.progress if chance.random() < 0.5 else self.progress[32:]
        content = odd_bytes(content, chance)
        if chance.random() < 0.5:  # with the checksum of what it is now
            content = hashlib.sha256(content).digest() + content
        return read_progress(self.put("progress.pt", content))

    def door_doctor(self, chance: random.Random) -> object:
        from lpi.damage import examine

        place = self.work / "spoilt"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(self.work / "model", place)
        file = chance.choice(sorted(path for path in place.rglob("*") if path.is_file()))
        file.write_bytes(odd_bytes(file.read_bytes(), chance))
        found = examine(place)
        if any("\n" in line for line in found.wrong):
            raise RuntimeError(f"more than a line: {found.wrong}")
        return found

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
