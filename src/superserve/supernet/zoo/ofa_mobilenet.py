"""OFA-MobileNetV3: the mobile supernet of Once-for-All, exactly, at any width multiplier.

Source: Cai et al., "Once-for-All", ICLR 2020, and its code (mit-han-lab/once-for-all, ``OFAMobileNetV3``). Five
elastic stages between MobileNetV3-Large's first block and its head; see `ofa_mobile`.
"""

from collections.abc import Mapping
from typing import Final

from torch import Tensor, nn

from superserve.supernet.zoo.ofa_mobile import Backbone, OfaMobile, OfaMobileConfig, StageShape
from superserve.supernet.zoo.registry import register

_EXPANDED_WIDTH: Final = 960
_FEATURES: Final = 1280


class OfaMobileNetV3Config(OfaMobileConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``architecture`` of ``config.json``; the defaults are the published network of width 1.0, another has 1.2."""


class OfaMobileNetV3(OfaMobile):
    """An image classifier: first convolution and block, five elastic stages, head."""

    backbone = Backbone(
        stem_width=16,
        activation=nn.Hardswish,
        norm_eps=1e-5,
        stages=(
            StageShape(16, 1, nn.ReLU),
            StageShape(24, 2, nn.ReLU),
            StageShape(40, 2, nn.ReLU, squeezes=True),
            StageShape(80, 2, nn.Hardswish),
            StageShape(112, 1, nn.Hardswish, squeezes=True),
            StageShape(160, 2, nn.Hardswish, squeezes=True),
        ),
    )

    def __init__(self, config: OfaMobileNetV3Config) -> None:
        super().__init__(config)
        expanded, features = self.width(_EXPANDED_WIDTH), self.width(_FEATURES)
        self.final = nn.Conv2d(self.width(self.backbone.stages[-1].width), expanded, 1, bias=False)
        self.final_norm = self.norm(expanded)
        self.mix = nn.Conv2d(expanded, features, 1, bias=False)
        self.classifier = nn.Linear(features, config.classes)

    def head_channels(self) -> Mapping[str, int]:
        """See `OfaMobile.head_channels`."""
        return {"final_norm": self.width(_EXPANDED_WIDTH)}

    def forward(self, x: Tensor) -> Tensor:
        """Images (rows, 3, height, width), float32, to logits (rows, classes)."""
        x = self.activation(self.final_norm(self.final(self.features(x))))
        x = self.activation(self.mix(x.mean((2, 3), keepdim=True)))
        logits: Tensor = self.classifier(x.flatten(1))
        return logits


@register("ofa_mobilenet_v3", OfaMobileNetV3Config)
def ofa_mobilenet_v3(config: OfaMobileNetV3Config) -> OfaMobileNetV3:
    """Build OFA-MobileNetV3."""
    return OfaMobileNetV3(config)
