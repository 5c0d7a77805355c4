import hypothesis.strategies as st
import msgspec
import numpy as np
import pytest
from hypothesis import given

from superserve.errors import IllegalSubnetError
from superserve.subnet import SearchSpace, Stage, SubnetSpec, Width
from support.supernets import specs

SPACE = SearchSpace(
    stages=(Stage(3, (1, 2, 3)), Stage(12, (6, 9, 12), "spread")),
    widths=(
        Width("stem", (0.5, 1.0)),
        Width("stage0.block1", (0.25, 0.5), stage=0, block=1),
        Width("stage0.block2", (0.25, 0.5), stage=0, block=2),
    ),
)


def test_first_keeps_leading_blocks() -> None:
    assert Stage(4, (2, 4)).keep(2) == (0, 1)


def test_spread_keeps_dynaberts_layers() -> None:
    """DynaBERT at 9 of 12 layers keeps floor(i * 12 / 9): the paper's congruence names the dropped ones."""
    assert Stage(12, (9, 12), "spread").keep(9) == (0, 1, 2, 4, 5, 6, 8, 9, 10)


@given(blocks=st.integers(1, 24), data=st.data())
def test_keep_sets_are_legal(blocks: int, data: st.DataObject) -> None:
    depth = data.draw(st.integers(1, blocks))
    for rule in ("first", "spread"):
        keep = Stage(blocks, (depth,), rule).keep(depth)
        assert len(set(keep)) == depth
        assert keep == tuple(sorted(keep))
        assert keep[0] == 0
        assert keep[-1] < blocks


def test_widths_of_skipped_blocks_are_left_out() -> None:
    """So that specs are equal exactly if they run the same network."""
    ratios = {"stem": 1.0, "stage0.block1": 0.25, "stage0.block2": 0.5}
    spec = SPACE.spec((2, 12), ratios)
    assert spec.widths == (("stem", 1.0), ("stage0.block1", 0.25))
    assert spec == SPACE.spec((2, 12), ratios | {"stage0.block2": 0.25})


def test_ends() -> None:
    assert SPACE.smallest().keep == ((0,), (0, 2, 4, 6, 8, 10))
    assert SPACE.largest().keep == ((0, 1, 2), tuple(range(12)))
    assert SPACE.smallest().width("stem") == 0.5
    assert SPACE.largest().width("stage0.block2") == 0.5


@given(specs(SPACE))
def test_every_spec_is_valid_and_survives_json(spec: SubnetSpec) -> None:
    SPACE.validate(spec)
    again = msgspec.json.decode(msgspec.json.encode(spec), type=SubnetSpec)
    assert again == spec
    assert hash(again) == hash(spec)


def test_samples_are_seeded_and_reach_both_ends() -> None:
    drawn = [SPACE.sample(np.random.default_rng(seed)) for seed in range(200)]
    assert drawn == [SPACE.sample(np.random.default_rng(seed)) for seed in range(200)]
    assert {SPACE.smallest().keep, SPACE.largest().keep} < {spec.keep for spec in drawn}


RATIOS = {"stem": 1.0, "stage0.block1": 0.25, "stage0.block2": 0.5}


@pytest.mark.parametrize(
    ("depths", "ratios", "message"),
    [
        ((2,), RATIOS, "one value for each of 2 stages"),
        ((2, 7), RATIOS, r"depth 7 of stage 1 is not one of \(6, 9, 12\)"),
        ((2, 6), RATIOS | {"stem": 0.7}, r"width 'stem' = 0.7 is not one of"),
        ((2, 6), RATIOS | {"root": 0.7}, r"unknown widths \['root'\]"),
        ((2, 6), {"stem": 1.0}, "width 'stage0.block1' is missing"),
    ],
)
def test_illegal_choices_are_named(depths: tuple[int, ...], ratios: dict[str, float], message: str) -> None:
    with pytest.raises(IllegalSubnetError, match=message):
        SPACE.spec(depths, ratios)


@pytest.mark.parametrize(
    "spec",
    [
        SubnetSpec(((1,), tuple(range(12))), (("stem", 1.0),)),  # right depth, wrong blocks
        SubnetSpec(((0,), tuple(range(12))), (("stem", 1.0), ("stage0.block2", 0.5))),  # width of a skipped block
        SubnetSpec(((0,), tuple(range(12))), ()),
    ],
)
def test_validate_refuses_what_the_space_cannot_make(spec: SubnetSpec) -> None:
    with pytest.raises(IllegalSubnetError):
        SPACE.validate(spec)


def test_missing_width_is_named() -> None:
    with pytest.raises(IllegalSubnetError, match=r"no width 'root'; it has \['stem'\]"):
        SubnetSpec(((0,),), (("stem", 1.0),)).width("root")
