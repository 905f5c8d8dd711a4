"""Frozen detectors that read an expression, with a place to put prompts in both of their towers."""

from lpi.grounding.backbones.base import Detections, GroundingBackbone, GroundingPrompts
from lpi.grounding.backbones.inputs import GroundingInputs, PictureInputs
from lpi.grounding.backbones.loading import load_grounding_backbone

__all__ = [
    "Detections",
    "GroundingBackbone",
    "GroundingInputs",
    "GroundingPrompts",
    "PictureInputs",
    "load_grounding_backbone",
]
