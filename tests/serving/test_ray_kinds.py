"""The kinds of workers of a Ray cluster, and how many of each fit in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superserve.errors import ConfigError
from superserve.serving.ray_kinds import Kind, Room, filled, kinds_of, rooms


def test_what_a_worker_takes_of_its_node() -> None:
    """A processor, and what its device needs besides; several emulated devices are resources with their names."""
    assert kinds_of("cpu") == [Kind("cpu", {"CPU": 1})]
    assert kinds_of("cuda,cpu") == [Kind("cuda", {"CPU": 1, "GPU": 1}), Kind("cpu", {"CPU": 1})]
    assert kinds_of("emulated:r-profile") == [Kind("emulated:r-profile", {"CPU": 1})]
    assert kinds_of("emulated:r-profile,/p/slow.json") == [
        Kind("emulated:r-profile", {"CPU": 1, "r-profile": 1}),
        Kind("emulated:/p/slow.json", {"CPU": 1, "slow": 1}),
    ]


@pytest.mark.parametrize(
    ("device", "named"),
    [("emulated:/a/gpu.json,/b/gpu.json", "same file name"), ("cpu,cpu", "twice"), ("cuda,tpu", "'cuda,cpu'")],
)
def test_kinds_that_nodes_could_not_tell_apart(device: str, named: str) -> None:
    """And devices that are none."""
    with pytest.raises(ConfigError, match=named):
        kinds_of(device)


def test_a_worker_on_a_gpu_takes_a_processor_from_the_others() -> None:
    """Of its own node; what is named first is counted first."""
    nodes = [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 1.0, "GPU": 4.0}, {"CPU": 3.0}, {}]
    assert rooms(kinds_of("cuda,cpu"), nodes, {"CPU": 4.5, "GPU": 1.0}) == [Room(3, 1), Room(9, 3)]
    assert rooms(kinds_of("cpu,cuda"), nodes, {}) == [Room(12, 0), Room(0, 0)]
    assert rooms(kinds_of("cuda,cpu"), [], {}) == [Room(0, 0)] * 2


RESOURCES = ("CPU", "GPU", "tpu")


@given(
    needs=st.lists(st.dictionaries(st.sampled_from(RESOURCES), st.integers(1, 3), min_size=1), min_size=1, max_size=4),
    total=st.dictionaries(st.sampled_from(RESOURCES), st.floats(0, 50)),
)
def test_what_fits_in_is_there_and_nothing_more_would(needs: list[dict[str, int]], total: dict[str, float]) -> None:
    """Of no resource more than there is; and of no kind another one after all of them."""
    kinds = [Kind(str(number), need) for number, need in enumerate(needs)]
    counts = filled(kinds, total)
    left = {
        name: total.get(name, 0.0)
        - sum(count * kind.needs.get(name, 0) for kind, count in zip(kinds, counts, strict=True))
        for name in RESOURCES
    }
    assert min(left.values()) >= 0
    assert all(any(left[name] < need for name, need in kind.needs.items()) for kind in kinds)
