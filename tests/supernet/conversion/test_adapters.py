"""The interface of adapters: how they are found, and what they may not say."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from superserve.errors import ConversionError
from superserve.supernet.conversion import Concatenation, Projection, Units, convert, register_adapter
from support.adapted_models import DenseCnn, TinyGpt, Turned, fused_attention, turned
from support.plain_models import FusedAttention, SelfAttention, TinyTransformer, randomised

WORDS = torch.randint(0, 20, (3, 6), generator=torch.Generator().manual_seed(0))
HEADS = {f"layers.{number}.attention" for number in range(2)}


def transformer(attention: type[nn.Module]) -> TinyTransformer:
    return randomised(TinyTransformer([(4, 64)] * 2, attention=attention))


class Special(FusedAttention):
    """A subclass."""


def elastic(attention: type[nn.Module] = FusedAttention) -> set[str]:
    """Names of the elastic widths of a transformer with these attentions."""
    return {width.name for width in convert(transformer(attention), WORDS).report.widths}


@pytest.mark.usefixtures("own_adapters")
@pytest.mark.parametrize("known_by", [FusedAttention, "support.plain_models.FusedAttention"])
def test_found_by_the_class_or_its_name_and_for_subclasses(known_by: type[nn.Module] | str) -> None:
    assert not HEADS & elastic()
    register_adapter(known_by)(fused_attention)
    assert elastic() > HEADS
    assert elastic(Special) > HEADS


@pytest.mark.usefixtures("own_adapters")
def test_the_adapter_of_the_nearest_class_is_asked_alone() -> None:
    register_adapter(FusedAttention)(fused_attention)
    register_adapter(Special)(lambda _special: None)
    assert not HEADS & elastic(Special)
    assert elastic() > HEADS


@pytest.mark.usefixtures("own_adapters")
def test_the_adapter_that_was_registered_last_wins() -> None:
    register_adapter(FusedAttention)(lambda _attention: None)
    register_adapter(FusedAttention)(fused_attention)
    assert elastic() > HEADS


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Install a package whose entry point for `FusedAttention` is the given object."""

    def do(value: str) -> None:
        information = tmp_path / "theirs-1.dist-info"
        information.mkdir()
        (information / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1\n")
        (information / "entry_points.txt").write_text(
            f"[superserve.adapters]\nsupport.plain_models.FusedAttention = {value}\n"
        )
        monkeypatch.syspath_prepend(tmp_path)

    return do


@pytest.mark.usefixtures("own_adapters")
def test_a_package_may_bring_one_as_an_entry_point(install: Callable[[str], None]) -> None:
    install("support.adapted_models:fused_attention")
    assert elastic() > HEADS
    assert elastic(Special) > HEADS
    register_adapter(FusedAttention)(lambda _attention: None)
    assert not HEADS & elastic()


@pytest.mark.usefixtures("own_adapters")
def test_an_entry_point_that_cannot_be_loaded_is_named(install: Callable[[str], None]) -> None:
    install("support.nowhere:adapt")
    with pytest.raises(ConversionError, match=r"FusedAttention, .* 'support.nowhere:adapt', cannot be loaded: Module"):
        elastic()
    convert(transformer(SelfAttention), WORDS)


def said(**changes: object) -> Units:
    """What is right about `FusedAttention`, and something that is not."""
    right = {"count": 4, "produced_by": {"qkv": 3}, "read_by": ("proj",), "attributes": ("num_heads",)}
    return Units(**right | changes)  # type: ignore[arg-type]


PROBLEMS = {
    "another type": (3, r"answers with int: it must be Units, Projection, Concatenation or None"),
    "no units": (said(count=0), "says that there are 0 units"),
    "no layers": (said(read_by=()), "must name a layer that produces the units and one that reads them"),
    "no such layer": (said(read_by=("out",)), "names a layer 'out' that is not there"),
    "does not divide": (said(count=5, attributes=()), "the 96 outputs of 'qkv' are 3 x 5 units, which does not divide"),
    "no such attribute": (said(attributes=("heads",)), "names an attribute 'heads' that is None: .* multiple of the 4"),
    "no multiple": (said(count=8), "names an attribute 'num_heads' that is 4: it must be a multiple of the 8 units"),
    "no number": (said(attributes=("name",)), "names an attribute 'name' that is 'mine'"),
    "no matrix": (Projection(), "says that it is a projection, but it has no parameter 'weight' that is a matrix"),
    "no parts": (Concatenation(parts=()), "names no parts"),
    "no such part": (Concatenation(parts=("qkv", "kv")), "names a part 'kv' that is not there"),
    "not joined": (
        Concatenation(parts=("qkv",)),
        r"that it joins what layers.0.attention.qkv .* dimension 1, but that",
    ),
    "too large": (Concatenation(parts=("qkv",), dim=2), r"they are 96 there together, and the whole is \(3, 6, 32\)"),
}


class Odd(FusedAttention):
    """A fused attention with things that adapters may not name."""

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__(width, heads, head_width)
        self.name = "mine"
        self.norm = nn.LayerNorm(width)
        self.turned = Turned(width, width)


@pytest.mark.usefixtures("own_adapters")
@pytest.mark.parametrize("problem", PROBLEMS)
def test_what_cannot_be_is_refused_with_the_module_named(problem: str) -> None:
    answer, message = PROBLEMS[problem]
    register_adapter(Odd)(lambda _attention: answer)  # type: ignore[type-var]
    with pytest.raises(ConversionError, match=r"the adapter of layers\.0\.attention .*" + message):
        convert(transformer(Odd), WORDS)


@pytest.mark.usefixtures("own_adapters")
@pytest.mark.parametrize(
    ("projection", "message"),
    [
        (Projection(), r"it has 32 outputs, but its bias is \(96,\): is the weight transposed"),
        (Projection(transposed=True, counts_inputs=("outputs",)), "names an attribute 'outputs' that is 96, not 32"),
        (Projection(transposed=True, counts_outputs=("nf",)), "names an attribute 'nf' that is None, not 96"),
    ],
)
def test_projections_that_cannot_be(projection: Projection, message: str) -> None:
    register_adapter(Turned)(lambda _layer: projection)
    with pytest.raises(ConversionError, match=r"the adapter of layers\.0\.attention\.c_attn \(Turned\) .*" + message):
        convert(TinyGpt(), WORDS)


class Pooled(Turned):
    """Drops all rows but one."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x)[:, :1]


@pytest.mark.usefixtures("own_adapters")
def test_a_projection_that_does_something_else_is_refused() -> None:
    register_adapter(Pooled)(turned)
    with pytest.raises(
        ConversionError, match=r"adapter of 0 says .* dimension of 8 to 16, but it made \(2, 1, 16\) of"
    ):
        convert(nn.Sequential(Pooled(8, 16), nn.Linear(16, 4)), torch.randn(2, 3, 8))


class Gated(nn.Module):
    """A projection that is scaled by what another layer makes."""

    class Scaled(Turned):
        def forward(self, x: torch.Tensor, scale: torch.Tensor | None = None) -> torch.Tensor:
            y = super().forward(x)
            return y if scale is None else y * scale

    def __init__(self) -> None:
        super().__init__()
        self.scaled, self.scale, self.head = Gated.Scaled(8, 16), nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.scaled(x, self.scale(x)))  # type: ignore[no-any-return]


@pytest.mark.usefixtures("own_adapters")
def test_what_a_projection_takes_beside_its_input_stays() -> None:
    """Nobody knows what it does with it."""
    register_adapter(Gated.Scaled)(turned)
    model = nn.Sequential(Gated(), nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2))
    report = convert(model, torch.randn(3, 8)).report
    reasons = {part.name: part.reason for part in report.fixed}
    assert reasons["0.scale"] == "0.scaled, a projection by its adapter, takes it beside its input"
    assert "narrower" in reasons["0.scaled"]


@pytest.mark.usefixtures("own_adapters")
def test_an_adapter_that_fails_is_named() -> None:
    register_adapter(FusedAttention)(lambda attention: attention.nothing)
    with pytest.raises(
        ConversionError, match=r"layers\.0\.attention \(FusedAttention\) failed: AttributeError: .*nothing"
    ):
        elastic()


@pytest.mark.usefixtures("own_adapters")
@pytest.mark.parametrize("layers", [{"read_by": ("norm",)}, {"produced_by": {"turned": 1}}])
def test_a_layer_that_is_no_known_product_leaves_the_units_as_they_are(layers: dict[str, object]) -> None:
    """As a layer that somebody has wrapped: the adapter is not to blame for it."""
    register_adapter(Odd)(lambda _attention: said(**layers))
    report = convert(transformer(Odd), WORDS).report
    assert not HEADS & {width.name for width in report.widths}
    reasons = {part.name: part.reason for part in report.fixed}
    assert reasons["layers.0.attention"].endswith(": an adapter has to say that it is a Projection")


@pytest.mark.usefixtures("own_adapters")
def test_what_is_not_true_is_found_out_by_running() -> None:
    """Queries, keys and values are no one projection of which leading rows could be kept."""
    register_adapter(FusedAttention)(lambda _attention: said(produced_by={"qkv": 1}))
    report = convert(transformer(FusedAttention), WORDS).report
    assert not HEADS & {width.name for width in report.widths}
    reasons = {part.name: part.reason for part in report.fixed}
    assert all("narrower" in reasons[name] for name in HEADS)


def test_without_adapters_the_report_names_layer_and_dimension_and_asks_for_one() -> None:
    fused = {part.name: part for part in convert(transformer(FusedAttention), WORDS).report.fixed}
    assert fused["layers.0.attention.qkv"].what == "96 channels"
    assert fused["layers.0.attention.qkv"].reason.endswith("if it is a fused projection, an adapter can say so")

    gpt = {part.name: part for part in convert(TinyGpt(), WORDS).report.fixed}
    assert gpt["layers.0.c_fc"].what == "weight 32 x 64"
    assert gpt["layers.0.c_fc"].reason.startswith("addmm in layers.0.c_fc multiplies by it")
    assert gpt["layers.0.c_fc"].reason.endswith("an adapter can say so")

    dense = {part.name: part for part in convert(DenseCnn(), torch.randn(2, 3, 8, 8)).report.fixed}
    assert dense["block1.0.conv2"].what == "8 channels"
    assert dense["block1.0.conv2"].reason.endswith("if whole parts may be left out, an adapter can say so")


def test_where_nothing_is_left_the_refusal_says_so_too() -> None:
    model = nn.Sequential(Turned(8, 16), nn.ReLU(), Turned(16, 4))
    with pytest.raises(
        ConversionError, match=r"0 \(weight 8 x 16\): addmm in 0 multiplies by it.*an adapter can say so"
    ):
        convert(model, torch.randn(3, 8))


def test_no_library_is_imported_for_its_adapters() -> None:
    convert(transformer(SelfAttention), WORDS)
    assert not {"timm", "transformers", "torchvision"} & set(sys.modules)
