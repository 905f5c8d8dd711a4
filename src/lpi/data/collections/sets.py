"""Each public set: its card, its publisher's files and counts, and its reader.

Where a paper doesn't say which file it used, the card says which one is read here. A set lies in a folder of its own
name, as its archives unpack.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lpi.data.coco import load_coco
from lpi.data.collections.tables import FramePicture, read_shards, read_table
from lpi.data.karpathy import load_karpathy
from lpi.data.records import CaptionedImage, Card, FilePicture
from lpi.data.rows import OnError, PictureFolder, clean_captions, read_csv
from lpi.errors import DataError
from lpi.reading import MOST_SETTINGS, UnreadableError, parse_json, read_bytes, read_object

Reader = Callable[[Path, OnError], list[CaptionedImage]]
CAPTION_COLUMNS = ("text", "caption", "prompt", "caption_enriched")


@dataclass(frozen=True)
class PublicSet:
    """A data set as its publisher distributes it.

    Attributes:
        card: source, licence and files: file names or patterns under the set's folder, each with its checksum
            (``sha256:..``) where it is known, or nothing.
        counts: pictures that a complete copy has, by split; "all" where its publisher has no splits.
        read: folder -> records; split "train" alone where its publisher has no splits.
    """

    card: Card
    counts: Mapping[str, int]
    read: Reader


def _karpathy(name: str, pictures: str) -> Reader:
    def read(root: Path, on_error: OnError) -> list[CaptionedImage]:
        return load_karpathy(root / f"dataset_{name}.json", root / pictures, task=name, on_error=on_error)

    return read


def _coco_tasks(year: int) -> Reader:
    def read(root: Path, on_error: OnError) -> list[CaptionedImage]:
        records = []
        for split, part in (("train", f"train{year}"), ("test", f"val{year}")):
            captions, instances = (root / "annotations" / f"{kind}_{part}.json" for kind in ("captions", "instances"))
            records += load_coco(captions, instances, root / part, split=split, on_error=on_error)
        return records

    return read


def _parquet(task: str, splits: Mapping[str, str], captions: tuple[str, ...] = CAPTION_COLUMNS) -> Reader:
    """A reader of parquet files: split -> pattern of its files."""

    def read(root: Path, on_error: OnError) -> list[CaptionedImage]:
        records = []
        for split, pattern in splits.items():
            files = sorted(root.glob(pattern))
            records += read_table(files, captions=captions, image="image", split=split, task=task, on_error=on_error)
        return records

    return read


def _wikiart(root: Path, on_error: OnError) -> list[CaptionedImage]:
    return read_shards(sorted(root.glob("ds_*.tar")), task="wikiart", on_error=on_error)


def _flintstones(root: Path, on_error: OnError) -> list[CaptionedImage]:
    path = root / "flintstones_annotations_v1-0.json"
    try:
        clips = parse_json(read_bytes(path))
        described = {str(clip["globalID"]): clip["description"] for clip in clips}
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f'{path}: expected a list of clips with "globalID" and "description" ({error!r}).') from error
    splits = read_object(root / "train-val-test_split.json", "lists of clips under train, val and test")
    frames = PictureFolder(root)
    folder = next((name for name in ("video_frames", "video_frames_sampled") if (root / name).is_dir()), "video_frames")
    records = []
    for split in ("train", "val", "test"):
        for clip in splits.get(split, []):
            where = f"{path}: clip {clip}"
            found = frames.find(f"{folder}/{clip}.npy")
            try:
                captions = clean_captions([described.get(clip)], where)
                if found is None:
                    raise DataError(f"{where}: there is no {folder}/{clip}.npy in {root}. Is the archive complete?")
            except DataError as error:
                on_error(error)
                continue
            records.append(CaptionedImage(FramePicture(found, f"{folder}/{clip}"), captions, "flintstones", split))
    return records


def _fscoco(root: Path, on_error: OnError) -> list[CaptionedImage]:
    tested = {line.strip() for line in _text(root / "val_normal.txt").splitlines()}
    texts = PictureFolder(root)
    records = []
    for sketch in sorted((root / "raster_sketches").glob("*/*")):
        if sketch.suffix.lower() not in (".jpg", ".png"):
            continue
        person, stem = sketch.parent.name, sketch.stem
        where = f"{root}: sketch {person}/{stem}"
        try:
            text = texts.find(f"text/{person}/{stem}.txt")
            if text is None:
                raise DataError(f"{where} has no text/{person}/{stem}.txt. Is the archive complete?")
            captions = clean_captions([_text(text)], where)
        except DataError as error:
            on_error(error)
            continue
        picture = FilePicture(sketch, f"raster_sketches/{person}/{sketch.name}")
        records.append(CaptionedImage(picture, captions, "fscoco", "test" if stem in tested else "train"))
    return records


def _rocov2(root: Path, on_error: OnError) -> list[CaptionedImage]:
    pictures = PictureFolder(root)
    records = []
    for split, part in (("train", "train"), ("val", "valid"), ("test", "test")):
        path = root / f"{part}_captions.csv"
        folder = next((name for name in (f"{part}_images", part) if (root / name).is_dir()), part)
        for line, row in read_csv(path, "ID", "Caption"):
            where = f"{path}, line {line}"
            found = pictures.find(f"{folder}/{row['ID']}.jpg")
            try:
                captions = clean_captions([row["Caption"]], where)
                if found is None:
                    raise DataError(f"{where}: there is no {folder}/{row['ID']}.jpg in {root}.")
            except DataError as error:
                on_error(error)
                continue
            records.append(CaptionedImage(FilePicture(found, f"{folder}/{found.name}"), captions, "rocov2", split))
    return records


def _text(path: Path) -> str:
    """The text of a publisher's file; what is no UTF-8 in it is replaced, for nobody here can put it right."""
    try:
        return read_bytes(path, MOST_SETTINGS).decode("utf-8-sig", errors="replace")
    except (UnreadableError, OSError) as error:
        raise DataError(f"{path} can't be read ({error}). Is the archive complete?") from error


def _files(*names: str) -> dict[str, str]:
    """Files whose checksums aren't known."""
    return dict.fromkeys(names, "")


def _coco_set(name: str, year: int, counts: Mapping[str, int], checksums: Mapping[str, str] | None = None) -> PublicSet:
    parts = (f"train{year}", f"val{year}")
    annotations = [f"{kind}_{part}.json" for kind in ("captions", "instances") for part in parts]
    files = {f"annotations/{file}": (checksums or {}).get(file, "") for file in annotations}
    card = Card(
        name,
        f"https://cocodataset.org ({year}: pictures, captions and instances)",
        "captions: CC BY 4.0; pictures: Flickr's terms, by picture",
        "super-category that covers most of a picture; pictures without instances are left out",
        {**files, **_files(*parts)},
    )
    return PublicSet(card, counts, _coco_tasks(year))


HUB = "data set on the Hugging Face hub: "

SETS: dict[str, PublicSet] = {
    "flickr30k": PublicSet(
        Card(
            "flickr30k",
            "https://shannon.cs.illinois.edu/DenotationGraph/ (pictures); Karpathy's split file",
            "Flickr's terms by picture, for non-commercial research and education; see the publisher's page",
            "everyday photographs",
            _files("dataset_flickr30k.json", "flickr30k-images"),
        ),
        {"train": 29_000, "val": 1_014, "test": 1_000},
        _karpathy("flickr30k", "flickr30k-images"),
    ),
    "coco": PublicSet(
        Card(
            "coco",
            "https://cocodataset.org (pictures of 2014); Karpathy's split file",
            "captions: CC BY 4.0; pictures: Flickr's terms, by picture",
            "everyday photographs, as one task",
            _files("dataset_coco.json", "train2014", "val2014"),
        ),
        {"train": 113_287, "val": 5_000, "test": 5_000},
        _karpathy("coco", "."),
    ),
    "coco_tasks": _coco_set("coco_tasks", 2014, {"train": 82_081, "test": 40_137}),
    "coco_tasks_2017": _coco_set(
        "coco_tasks_2017",
        2017,
        {"train": 117_266, "test": 4_952},
        {"captions_val2017.json": "sha256:1018a8760deaf1fc71be2f1b8da1a1348b9c35994af4322ca2fd795a78abb79c"},
    ),
    "lexica": PublicSet(
        Card(
            "lexica",
            f"{HUB}vera365/lexica_dataset",
            "CC BY 4.0",
            "pictures that a diffusion model made from prompts",
            _files(
                *(f"data/train-{shard:05d}-of-00004*.parquet" for shard in range(4)),
                "data/test-00000-of-00001*.parquet",
            ),
        ),
        {"train": 49_173, "test": 12_294},
        _parquet("lexica", {"train": "data/train-*.parquet", "test": "data/test-*.parquet"}),
    ),
    "wikiart": PublicSet(
        Card(
            "wikiart",
            f"{HUB}ChristophSchuhmann/wikiart_with_BLIP_captions (which captions the papers used isn't public)",
            "CC BY-NC 4.0",
            "paintings, captioned by a model",
            _files(*(f"ds_{shard:06d}.tar" for shard in range(12))),
        ),
        {},
        _wikiart,
    ),
    "kream": PublicSet(
        Card(
            "kream",
            f"{HUB}hahminlew/kream-product-blip-captions",
            "CC BY-NC-SA 4.0",
            "fashion products",
            _files(*(f"data/train-{shard:05d}-of-00003*.parquet" for shard in range(3))),
        ),
        {"all": 14_904},
        _parquet("kream", {"train": "data/train-*.parquet"}),
    ),
    "flintstones": PublicSet(
        Card(
            "flintstones",
            "https://prior.allenai.org/projects/craft (annotations and frames)",
            "as its publisher says; the cartoon is copyrighted",
            "frames of a cartoon; the middle frame of each clip is read",
            _files("flintstones_annotations_v1-0.json", "train-val-test_split.json", "video_frames*"),
        ),
        {"all": 25_184},
        _flintstones,
    ),
    "fscoco": PublicSet(
        Card(
            "fscoco",
            "https://fscoco.github.io",
            "CC BY-NC 4.0; see the publisher's page",
            "sketches of scenes, drawn from memory",
            _files("raster_sketches", "text", "val_normal.txt"),
        ),
        {"all": 10_000},
        _fscoco,
    ),
    "rocov2": PublicSet(
        Card(
            "rocov2",
            "https://doi.org/10.5281/zenodo.10821435",
            "CC BY or CC BY-NC, by picture",
            "radiological pictures from papers",
            _files("train_captions.csv", "valid_captions.csv", "test_captions.csv", "train*/", "valid*/", "test*/"),
        ),
        {"train": 59_958, "val": 9_904, "test": 9_927},
        _rocov2,
    ),
    "pets": PublicSet(
        Card(
            "pets",
            f"{HUB}visual-layer/oxford-iiit-pet-vl-enriched (the paper names Oxford-IIIT Pet, but no captions)",
            "CC BY-SA 4.0",
            "cats and dogs, captioned by a model",
            _files("data/*.parquet"),
        ),
        {},
        _parquet("pets", {"train": "data/*.parquet"}),
    ),
    "simpsons": PublicSet(
        Card(
            "simpsons",
            f"{HUB}Norod78/simpsons-blip-captions",
            "CC BY-NC-SA 4.0",
            "frames of a cartoon, captioned by a model",
            _files("data/train-00000-of-00001*.parquet"),
        ),
        {"all": 755},
        _parquet("simpsons", {"train": "data/train-*.parquet"}),
    ),
}
