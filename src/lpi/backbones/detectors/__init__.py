"""Frozen detectors that read an expression, with a place to put prompts in both of their towers."""

from lpi.backbones.detectors.base import Detections, GroundingBackbone, GroundingPrompts
from lpi.backbones.detectors.inputs import GroundingInputs, PictureInputs
from lpi.backbones.detectors.loading import load_grounding_backbone

__all__ = [
    "Detections",
    "GroundingBackbone",
    "GroundingInputs",
    "GroundingPrompts",
    "PictureInputs",
    "load_grounding_backbone",
]
