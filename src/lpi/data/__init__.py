"""Files on disk become plain records. This room knows no tensors and no tasks: a reader gives captioned pictures."""

from lpi.data.check import Report, check_stream_source
from lpi.data.coco import COCO_TASKS, load_coco
from lpi.data.folder import load_folder, load_jsonl
from lpi.data.karpathy import load_karpathy
from lpi.data.records import SPLITS, CaptionedImage, Card, FilePicture, Picture, Referral, normal_caption
from lpi.data.source import load_source

__all__ = [
    "COCO_TASKS",
    "SPLITS",
    "CaptionedImage",
    "Card",
    "FilePicture",
    "Picture",
    "Referral",
    "Report",
    "check_stream_source",
    "load_coco",
    "load_folder",
    "load_jsonl",
    "load_karpathy",
    "load_source",
    "normal_caption",
]
