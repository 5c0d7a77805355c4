"""`convert` on small plain models, against oracles that know nothing of it."""

import copy
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import superserve.supernet
from superserve.errors import IllegalSubnetError
from superserve.subnet import SubnetSpec
from superserve.supernet.conversion import Conversion, convert, reorder_by_importance
from superserve.supernet.network import ElasticNetwork
from support.plain_models import (
    CountingAttention,
    MobileCnn,
    ResidualCnn,
    SelfAttention,
    TinyTransformer,
    randomised,
)

TOLERANCE = 1e-5


def pixels(rows: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(rows, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def words(rows: int = 3, seed: int = 0) -> Tensor:
    return torch.randint(0, 20, (rows, 6), generator=torch.Generator().manual_seed(seed))


MODELS: Mapping[str, tuple[Callable[[], nn.Module], Callable[[], Tensor], Mapping[str, object]]] = {
    "residual": (ResidualCnn, pixels, {}),
    "residual-streams": (ResidualCnn, pixels, {"streams": True}),
    "mobile": (MobileCnn, pixels, {}),
    "mobile-streams": (MobileCnn, pixels, {"streams": True}),
    "transformer": (TinyTransformer, words, {}),
    "counting-transformer": (lambda: TinyTransformer(attention=CountingAttention), words, {}),
}


@pytest.fixture(params=sorted(MODELS))
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor, Mapping[str, object]]:
    build, example, options = MODELS[request.param]
    return randomised(build()), example(), options


@pytest.fixture
def subnets() -> Callable[[Conversion], list[SubnetSpec]]:
    def draw(conversion: Conversion) -> list[SubnetSpec]:
        rng = np.random.default_rng(0)
        space = conversion.space
        return [space.smallest(), *(space.sample(rng) for _ in range(6)), space.largest()]

    return draw


@torch.no_grad()
def run(model: nn.Module, x: Tensor) -> Tensor:
    output: Tensor = model(x)
    return output


def test_the_largest_subnet_is_the_model_bit_for_bit(case: tuple[nn.Module, Tensor, Mapping[str, object]]) -> None:
    model, example, options = case
    keys, kind, before = list(model.state_dict()), type(model), run(model, example)
    kinds = {name: type(module) for name, module in model.named_modules()}
    conversion = convert(model, example, **options)
    assert torch.equal(run(model, example), before)
    conversion.actuate(conversion.space.smallest())
    assert not torch.equal(run(model, example), before)
    conversion.actuate(conversion.space.largest())
    assert torch.equal(run(model, example), before)
    assert conversion.model is model
    assert isinstance(model, kind)
    assert isinstance(model, ElasticNetwork)
    assert list(model.state_dict()) == keys
    assert all(isinstance(module, kinds[name]) for name, module in model.named_modules())


def test_actuated_equals_extracted(
    case: tuple[nn.Module, Tensor, Mapping[str, object]], subnets: Callable[[Conversion], list[SubnetSpec]]
) -> None:
    model, example, options = case
    conversion = convert(model, example, **options)
    for spec in subnets(conversion):
        conversion.actuate(spec)
        plain = conversion.extract(spec)
        assert not any(type(part).__module__.startswith("superserve.supernet.operators") for part in plain.modules())
        assert not isinstance(plain, ElasticNetwork)
        torch.testing.assert_close(run(model, example), run(plain, example), rtol=0, atol=TOLERANCE)


def test_an_extracted_subnet_owns_its_weights(case: tuple[nn.Module, Tensor, Mapping[str, object]]) -> None:
    model, example, options = case
    conversion = convert(model, example, **options)
    plain = conversion.extract(conversion.space.smallest())
    before = run(plain, example)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(run(plain, example), before)
    assert sum(p.numel() for p in plain.parameters()) < sum(p.numel() for p in model.parameters())


def test_switching_away_and_back_leaves_no_trace(
    case: tuple[nn.Module, Tensor, Mapping[str, object]], subnets: Callable[[Conversion], list[SubnetSpec]]
) -> None:
    model, example, options = case
    conversion = convert(model, example, **options)
    specs = subnets(conversion)
    outputs = {}
    for spec in specs:
        conversion.actuate(spec)
        outputs[spec] = run(model, example)
    for spec in reversed(specs):
        conversion.actuate(spec)
        assert torch.equal(run(model, example), outputs[spec])


def test_subnets_share_the_weights(case: tuple[nn.Module, Tensor, Mapping[str, object]]) -> None:
    model, example, options = case
    conversion = convert(model, example, **options)
    pointers = {name: parameter.data_ptr() for name, parameter in model.named_parameters()}
    conversion.actuate(conversion.space.smallest())
    run(model, example)
    assert {name: parameter.data_ptr() for name, parameter in model.named_parameters()} == pointers


def test_a_residual_network_is_sliced_as_if_by_hand() -> None:
    """Widths 8 and 24, one block less in each stage: built small, with weights copied by explicit indices."""
    model = randomised(ResidualCnn())
    conversion = convert(model, pixels(), width_ratios=(0.25, 0.5, 0.75, 1.0), divisor=2)
    names = {width.name for width in conversion.space.widths}
    middles = {f"stages.{stage}.{block}.conv1": 0.5 for stage, block in ((0, 1), (0, 2), (0, 3), (1, 1), (1, 2))}
    assert names == {"stem", "fc1", *middles}
    middles["stages.1.1.conv1"] = 0.75
    depths = tuple(stage.depths[-1] - 1 for stage in conversion.space.stages)
    spec = conversion.space.spec(depths, {**middles, "stem": 0.5, "fc1": 0.25})

    small = randomised(ResidualCnn(middles=((8, 8), (24,)), hidden=8), seed=1)
    small.set_submodule("stem", nn.Conv2d(3, 8, 3, padding=1))
    small.set_submodule("stages.0.0.0", nn.Conv2d(8, 16, 3, stride=2, padding=1))
    big, target = model.state_dict(), small.state_dict()
    for name, tensor in target.items():
        source = big[name]
        # The grouped convolutions' input dimension counts channels per group; every other one is cut to the front.
        target[name] = source[tuple(slice(size) for size in tensor.shape)] if tensor.dim() else source
    small.load_state_dict(target)
    conversion.actuate(spec)
    torch.testing.assert_close(run(model, pixels()), run(small.eval(), pixels()), rtol=0, atol=TOLERANCE)


def test_a_transformer_is_pruned_as_if_by_hand() -> None:
    """Two of four heads, three quarters of the neurons, layers 0, 1 and 2 of 0 .. 3: spread keeps floor(i * 4 / 3)."""
    model = randomised(TinyTransformer())
    conversion = convert(model, words())
    ratios = {f"layers.{i}.attention.query": 0.5 for i in range(4)} | {f"layers.{i}.fc1": 0.75 for i in range(4)}
    spec = conversion.space.spec((3,), ratios)
    assert spec.keep == ((0, 1, 2),)

    small = randomised(TinyTransformer([(2, 48)] * 3), seed=1)
    big, target = model.state_dict(), small.state_dict()
    for name in target:
        tensor = big[name]
        if name.endswith(("query.weight", "key.weight", "value.weight", "query.bias", "value.bias")):
            tensor = tensor[: 2 * 8]
        elif name.endswith("attention.out.weight"):
            tensor = tensor[:, : 2 * 8]
        elif name.endswith(("fc1.weight", "fc1.bias")):
            tensor = tensor[:48]
        elif name.endswith("fc2.weight"):
            tensor = tensor[:, :48]
        target[name] = tensor
    small.load_state_dict(target)
    conversion.actuate(spec)
    torch.testing.assert_close(run(model, words()), run(small, words()), rtol=0, atol=TOLERANCE)


def test_skipping_equals_a_network_without_the_block() -> None:
    model = randomised(ResidualCnn())
    conversion = convert(model, pixels(), depth_rule="spread")
    largest = conversion.space.largest()
    depths = (2, 2)
    spec = conversion.space.spec(depths, dict(largest.widths))
    assert spec.keep == ((0, 1), (0, 1))
    small = randomised(ResidualCnn(middles=((16, 16), (32, 32))), seed=1)
    target = {name: model.state_dict()[name] for name in small.state_dict()}
    small.load_state_dict(target)
    conversion.actuate(spec)
    torch.testing.assert_close(run(model, pixels()), run(small, pixels()), rtol=0, atol=TOLERANCE)


def test_grouped_convolutions_keep_whole_groups() -> None:
    conversion = convert(randomised(ResidualCnn(per_group=4)), pixels(), divisor=1, width_ratios=(0.3, 1.0))
    (width,) = [width for width in conversion.report.widths if width.name == "stages.0.1.conv1"]
    assert (width.units, width.kept) == (4, (2, 4))
    plain = conversion.extract(conversion.space.smallest())
    conv = plain.get_submodule("stages.0.1.conv2")
    assert isinstance(conv, nn.Conv2d)
    assert (conv.in_channels, conv.out_channels, conv.groups) == (8, 8, 2)


def test_attributes_that_count_heads_follow() -> None:
    model = randomised(TinyTransformer(attention=CountingAttention))
    conversion = convert(model, words())
    conversion.actuate(conversion.space.smallest())
    attention = model.get_submodule("layers.0.attention")
    assert isinstance(attention, CountingAttention)
    assert (attention.heads, attention.inner, attention.head_width) == (2, 16, 8)
    plain = conversion.extract(conversion.space.smallest()).get_submodule("layers.0.attention")
    assert type(plain) is CountingAttention
    assert (plain.heads, plain.inner) == (2, 16)
    conversion.actuate(conversion.space.largest())
    assert (attention.heads, attention.inner) == (4, 32)


def test_hooks_stay_and_see_narrow_tensors() -> None:
    model = randomised(ResidualCnn())
    seen: list[tuple[int, ...]] = []
    layer = model.get_submodule("stages.0.1.conv1")
    layer.register_forward_hook(lambda _module, _inputs, output: seen.append(tuple(output.shape)))
    conversion = convert(model, pixels())
    seen.clear()
    conversion.actuate(conversion.space.smallest())
    run(model, pixels())
    assert seen == [(3, 8, 8, 8)]


def test_modes_of_modules_are_restored() -> None:
    model = ResidualCnn().train()
    model.stem.eval()
    convert(model, pixels())
    assert model.training
    assert not model.stem.training
    assert model.get_submodule("stages.0.0").training


def test_calibrated_statistics_are_used_until_weights_change() -> None:
    model = randomised(ResidualCnn())
    conversion = convert(model, pixels())
    spec = conversion.space.smallest()
    conversion.actuate(spec)
    before = run(model, pixels())
    found = conversion.calibrate([pixels(8, seed=1), pixels(4, seed=2)], spec)
    assert set(found) == {spec}
    conversion.actuate(spec)
    after = run(model, pixels())
    assert not torch.equal(before, after)
    torch.testing.assert_close(run(conversion.extract(spec), pixels()), after, rtol=0, atol=TOLERANCE)
    conversion.forget_statistics()
    conversion.actuate(spec)
    assert torch.equal(run(model, pixels()), before)


def test_reordering_leaves_the_full_network_and_puts_what_matters_first(
    case: tuple[nn.Module, Tensor, Mapping[str, object]],
) -> None:
    model, example, options = case
    conversion = convert(model, example, **options)
    before = run(model, example)
    orders = reorder_by_importance(conversion)
    assert set(orders) == {width.name for width in conversion.space.widths}
    assert any(order != tuple(sorted(order)) for order in orders.values())
    torch.testing.assert_close(run(model, example), before, rtol=0, atol=TOLERANCE)
    again = reorder_by_importance(conversion)
    assert all(order == tuple(range(len(order))) for order in again.values())


def test_reordering_sorts_neurons_by_what_reads_them_and_heads_as_a_whole() -> None:
    model = randomised(TinyTransformer())
    fc1, fc2 = model.get_submodule("layers.0.fc1"), model.get_submodule("layers.0.fc2")
    out = model.get_submodule("layers.0.attention.out")
    assert isinstance(fc1, nn.Linear)
    assert isinstance(fc2, nn.Linear)
    assert isinstance(out, nn.Linear)
    rows, importance = fc1.weight.detach().clone(), fc2.weight.detach().abs().sum(0)
    heads = out.weight.detach().clone().view(32, 4, 8).transpose(0, 1)
    orders = reorder_by_importance(convert(model, words()))
    assert orders["layers.0.fc1"] == tuple(importance.argsort(descending=True).tolist())
    assert torch.equal(fc1.weight, rows[list(orders["layers.0.fc1"])])
    order = orders["layers.0.attention.query"]
    assert order == tuple(torch.linalg.vector_norm(heads, dim=(1, 2)).argsort(descending=True).tolist())
    assert torch.equal(out.weight.view(32, 4, 8).transpose(0, 1), heads[list(order)])


def test_a_subnet_outside_the_space_is_refused_and_changes_nothing() -> None:
    model = randomised(ResidualCnn())
    conversion = convert(model, pixels())
    before = run(model, pixels())
    largest = conversion.space.largest()
    wrong = SubnetSpec(largest.keep, tuple((name, 0.4) for name, _ in largest.widths))
    for use in (conversion.actuate, conversion.extract, conversion.statistics):
        with pytest.raises(IllegalSubnetError, match=r"width 'stem' = 0\.4 is not one of"):
            use(wrong)
    with pytest.raises(IllegalSubnetError):
        conversion.calibrate([pixels()], wrong)
    assert torch.equal(run(model, pixels()), before)


def test_several_inputs_by_position_and_by_name() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(8, 32)
            self.b = nn.Linear(4, 32)
            self.out = nn.Linear(32, 3)

        def forward(self, x: Tensor, other: Tensor) -> dict[str, Tensor]:
            return {"logits": self.out(torch.tanh(self.a(x) * self.b(other)))}

    x, y = torch.randn(2, 8), torch.randn(2, 4)
    for example in ((x, y), {"x": x, "other": y}):
        conversion = convert(Two(), example)
        (width,) = conversion.report.widths
        assert set(width.layers) == {"a", "b", "out"}


class TupleLayer(nn.Module):
    """Called by name, with something beside the stream; answers with a tuple, of which the rest may hold a tensor."""

    def __init__(self, *, tells: bool) -> None:
        super().__init__()
        self.fc1, self.fc2, self.tells = nn.Linear(8, 16), nn.Linear(16, 8), tells

    def forward(self, bias: float, *, hidden: Tensor) -> tuple[Tensor, Tensor | None]:
        weights = torch.tanh(self.fc1(hidden) + bias)
        return hidden + self.fc2(weights), weights if self.tells else None


class TupleNet(nn.Module):
    def __init__(self, *, tells: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TupleLayer(tells=tells) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x, _ = layer(hidden=x, bias=0.5)
        return x


def test_blocks_called_by_name_that_answer_with_tuples() -> None:
    model = randomised(TupleNet(tells=False))
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    conversion = convert(model, x)
    (stage,) = conversion.report.stages
    assert (stage.blocks, stage.depths, stage.rule) == (tuple(f"layers.{i}" for i in range(3)), (2, 3), "spread")
    spec = conversion.space.spec((2,), dict(conversion.space.largest().widths))
    assert spec.keep == ((0, 1),)
    conversion.actuate(spec)
    small = copy.deepcopy(randomised(TupleNet(tells=False)).layers)[:2]
    expected = x
    for layer in small:
        expected = layer(hidden=expected, bias=0.5)[0]
    torch.testing.assert_close(run(model, x), expected, rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(run(conversion.extract(spec), x), expected, rtol=0, atol=TOLERANCE)


def test_blocks_that_answer_with_more_than_the_stream_always_run() -> None:
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    assert convert(TupleNet(tells=True), x).report.stages == ()


def test_the_model_still_trains_as_a_supernet() -> None:
    """Gradients of a narrow subnet reach the leading weights only."""
    model = randomised(TinyTransformer())
    conversion = convert(model, words())
    from superserve.supernet.actuator import apply, bind  # noqa: PLC0415 (what the training loop does)

    apply(bind(conversion.model, conversion.space.smallest(), None))
    model(words()).sum().backward()
    fc1 = model.get_submodule("layers.0.fc1")
    assert isinstance(fc1, nn.Linear)
    assert fc1.weight.grad is not None
    assert fc1.weight.grad[:32].any()
    assert not fc1.weight.grad[32:].any()
    assert isinstance(model.get_submodule("layers.0.attention"), SelfAttention)


def test_uniform_subnets_have_one_share_of_everything() -> None:
    conversion = convert(randomised(ResidualCnn()), pixels())
    specs = conversion.uniform()
    assert specs[0] == conversion.space.smallest()
    assert specs[-1] == conversion.space.largest()
    assert len(specs) == len(set(specs))
    largest = dict(conversion.space.largest().widths)
    assert {spec.keep for spec in specs} == {conversion.space.spec(depths, largest).keep for depths in ((2, 1), (3, 2))}
    # Where a width has no three quarters it takes the next larger share.
    assert {tuple(sorted({ratio for _, ratio in spec.widths})) for spec in specs} == {(0.5,), (0.75, 1.0), (1.0,)}


def test_convert_is_found_where_the_documentation_says() -> None:
    assert superserve.supernet.convert is convert
    assert superserve.supernet.Conversion is Conversion
