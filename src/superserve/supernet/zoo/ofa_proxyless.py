"""OFA-ProxylessNAS: the supernet of Once-for-All in the mobile space of ProxylessNAS, exactly.

Source: Cai et al., "Once-for-All", ICLR 2020, and its code (mit-han-lab/once-for-all, ``OFAProxylessNASNets``). Five
elastic stages and a last one of one block, whose kernel size and expand ratio are elastic; see `ofa_mobile`. There is
no squeeze-and-excite, every activation is a ReLU6, and the published weights were trained with a larger epsilon in
the normalisations than those of the other families.
"""

from collections.abc import Mapping
from typing import Final

from torch import Tensor, nn

from superserve.supernet.zoo.ofa_mobile import Backbone, OfaMobile, OfaMobileConfig, StageShape
from superserve.supernet.zoo.registry import register

_FEATURES: Final = 1280


class OfaProxylessConfig(OfaMobileConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``architecture`` of ``config.json``; the defaults are the published network."""

    width_mult: float = 1.3
    """Scales every fixed width."""


class OfaProxyless(OfaMobile):
    """An image classifier: first convolution and block, six elastic stages, head."""

    backbone = Backbone(
        stem_width=32,
        activation=nn.ReLU6,
        norm_eps=1e-3,
        stages=(
            StageShape(16, 1, nn.ReLU6),
            StageShape(24, 2, nn.ReLU6),
            StageShape(40, 2, nn.ReLU6),
            StageShape(80, 2, nn.ReLU6),
            StageShape(96, 1, nn.ReLU6),
            StageShape(192, 2, nn.ReLU6),
            StageShape(320, 1, nn.ReLU6, single=True),
        ),
    )

    def __init__(self, config: OfaProxylessConfig) -> None:
        super().__init__(config)
        features = self.width(_FEATURES)
        self.mix = nn.Conv2d(self.width(self.backbone.stages[-1].width), features, 1, bias=False)
        self.mix_norm = self.norm(features)
        self.classifier = nn.Linear(features, config.classes)

    def head_channels(self) -> Mapping[str, int]:
        """See `OfaMobile.head_channels`."""
        return {"mix_norm": self.width(_FEATURES)}

    def forward(self, x: Tensor) -> Tensor:
        """Images (rows, 3, height, width), float32, to logits (rows, classes)."""
        x = self.activation(self.mix_norm(self.mix(self.features(x))))
        logits: Tensor = self.classifier(x.mean((2, 3)))
        return logits


@register("ofa_proxyless", OfaProxylessConfig)
def ofa_proxyless(config: OfaProxylessConfig) -> OfaProxyless:
    """Build OFA-ProxylessNAS."""
    return OfaProxyless(config)
