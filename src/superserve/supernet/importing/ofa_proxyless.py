"""Import OFA-ProxylessNAS checkpoints."""

from collections.abc import Iterator, Mapping
from typing import ClassVar, Final

from superserve.supernet.importing.checkpoint import Picker
from superserve.supernet.importing.ofa_keys import norm
from superserve.supernet.importing.ofa_mobile import FILES, OfaMobileImporter, sizes
from superserve.supernet.zoo.ofa_proxyless import OfaProxyless, OfaProxylessConfig

#: Output channels of the last convolution at the published width multiplier.
_WIDTHS: Final[Mapping[int, float]] = {1664: 1.3}


class OfaProxylessImporter(OfaMobileImporter[OfaProxylessConfig, OfaProxyless]):
    """See `Family`."""

    name = "ofa_proxyless"
    urls: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "w1.3": {"ofa_proxyless_d234_e346_k357_w1.3": f"{FILES}ofa_proxyless_d234_e346_k357_w1.3"}
    }

    def architecture(self, picker: Picker) -> OfaProxylessConfig:
        """The published sizes; width multiplier and number of classes are the checkpoint's."""
        return OfaProxylessConfig(**sizes(picker, "feature_mix_layer.bn.weight", _WIDTHS))

    def network(self, architecture: OfaProxylessConfig) -> OfaProxyless:
        """See `Family.network`."""
        return OfaProxyless(architecture)

    def head(self) -> Iterator[tuple[str, str]]:
        """See `OfaMobileImporter.head`."""
        yield "mix.weight", "feature_mix_layer.conv.weight"
        yield from norm("mix_norm", "feature_mix_layer.bn")
