"""OWL-ViT and OWLv2: a CLIP whose patches are boxes. Its towers are those of any dual encoder, prompts and all."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from lpi.backbones.base import TextInputs, TowerState
from lpi.backbones.detectors.base import Detections, GroundingBackbone, GroundingPrompts
from lpi.backbones.detectors.inputs import PictureInputs, QueryInputs
from lpi.backbones.detectors.parts import Given, with_parts
from lpi.errors import ConfigError


def clip_part(model: Any) -> tuple[str, Any]:
    """The name and the module of the CLIP inside an OWL detector."""
    name = "owlv2" if hasattr(model, "owlv2") else "owlvit"
    return name, getattr(model, name)


class OwlBackbone(GroundingBackbone):
    """OWL-ViT or OWLv2: one box a patch, one logit for the whole expression."""

    inputs: QueryInputs

    @property
    def feature_width(self) -> int:
        """Width of the common space."""
        assert isinstance(self.vision.projection, nn.Linear)
        return self.vision.projection.out_features

    @property
    def logit_scale(self) -> Tensor:
        """CLIP's own, of the model inside; the boxes don't use it."""
        scale: Tensor = clip_part(self.model)[1].logit_scale
        return scale

    def detect(self, pictures: PictureInputs, texts: TextInputs, prompts: GroundingPrompts | None = None) -> Detections:
        """See :meth:`GroundingBackbone.detect`."""
        if prompts is not None and prompts.exchange is not None:
            raise ConfigError("The towers of an OWL detector run on their own: their states can't be exchanged.")
        vision, text = (
            tower.advance(tower.begin(inputs, entering), 0, tower.depth, entering)
            for tower, inputs, entering in (
                (self.vision, pictures.pixels, None if prompts is None else prompts.vision),
                (self.text, texts, None if prompts is None else prompts.text),
            )
        )
        name, _ = clip_part(self.model)
        behind = with_parts(
            self.model,
            {f"{name}.vision_model.encoder": _ended(vision), f"{name}.text_model.encoder": _ended(text)},
        )
        side = self.vision.config.image_size
        output = behind(
            input_ids=texts.ids,
            pixel_values=pictures.pixels,
            attention_mask=texts.mask,
            interpolate_pos_encoding=tuple(pictures.pixels.shape[-2:]) != (side, side),
        )
        whole = torch.ones(len(texts), 1, dtype=torch.bool, device=texts.ids.device)
        return Detections(boxes=output.pred_boxes, logits=output.logits, named=whole, seen=whole)

    def frozen_features(self, pictures: PictureInputs | None, texts: TextInputs | None) -> dict[str, Tensor]:
        """See :meth:`GroundingBackbone.frozen_features`: CLIP's own features of whole pictures and expressions."""
        return super().frozen_features(None if pictures is None else pictures.pixels, texts)  # type: ignore[arg-type]


def _ended(state: TowerState) -> Given:
    """What the tower's blocks gave, without the prompts' own tokens."""
    return Given(BaseModelOutput(last_hidden_state=state.ordinary))
