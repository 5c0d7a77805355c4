import pytest
from hypothesis import given

from superserve.neighbours import levers, step_down
from superserve.subnet import SearchSpace, Stage, SubnetSpec, Width
from support.supernets import small_network, specs

SPACE = small_network().space
KERNELS = SearchSpace(
    (Stage(2, (2,)),),
    (
        Width("stage0.block0", (3.0, 6.0), stage=0, block=0),
        Width("stage0.block0.kernel", (3.0, 5.0, 7.0), stage=0, block=0),
        Width("stage0.block1", (3.0, 6.0), stage=0, block=1),
        Width("stage0.block1.kernel", (3.0, 5.0, 7.0), stage=0, block=1),
        Width("fixed", (1.0,)),
    ),
)


def test_a_lever_is_what_differs_in_numbers_alone() -> None:
    assert levers(SPACE) == ("depth", "stem", "stage*", "stage*.block*")


def test_what_has_one_value_is_no_lever() -> None:
    assert levers(KERNELS) == ("stage*.block*", "stage*.block*.kernel")


def test_each_value_of_a_lever_goes_to_the_next_smaller_one() -> None:
    """What has none stays; everything else stays anyway."""
    start = KERNELS.spec((2,), {"fixed": 1.0} | {
        "stage0.block0": 6.0, "stage0.block0.kernel": 7.0, "stage0.block1": 3.0, "stage0.block1.kernel": 3.0
    })  # fmt: skip
    assert dict(step_down(KERNELS, start, "stage*.block*.kernel").widths) == dict(start.widths) | {
        "stage0.block0.kernel": 5.0
    }
    assert dict(step_down(KERNELS, start, "stage*.block*").widths) == dict(start.widths) | {"stage0.block0": 3.0}


def test_a_smaller_depth_leaves_out_the_widths_of_blocks_that_do_not_run() -> None:
    found = step_down(SPACE, SPACE.largest(), "depth")
    assert [len(keep) for keep in found.keep] == [2, 2]
    assert found == SPACE.spec((2, 2), {width.name: max(width.ratios) for width in SPACE.widths})


@pytest.mark.parametrize("lever", levers(SPACE))
def test_the_smallest_subnet_has_no_step(lever: str) -> None:
    assert step_down(SPACE, SPACE.smallest(), lever) == SPACE.smallest()


@given(specs(SPACE))
def test_steps_of_all_levers_lead_to_the_smallest_subnet(spec: SubnetSpec) -> None:
    for _ in range(6):
        for lever in levers(SPACE):
            spec = step_down(SPACE, spec, lever)
            SPACE.validate(spec)
    assert spec == SPACE.smallest()
