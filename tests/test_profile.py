"""Profiles: their file, their repair, and the table that the scheduler plans with."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from superserve.errors import ProfileError
from superserve.model_folder import write_json
from superserve.profile import LatencyTable, Profile
from support.profiles import make_profile, profiles, with_shorter

CROOKED = make_profile([[2.0, 1.0, 5.0], [1.5, 3.0, 4.0]], batches=(1, 2, 4))


def test_a_profile_survives_its_file(tmp_path: Path) -> None:
    write_json(tmp_path / "p.json", CROOKED)
    assert Profile.load(tmp_path / "p.json") == CROOKED


def test_the_bundled_profile_loads_by_name_and_is_monotone() -> None:
    profile = Profile.load("r-profile")
    assert profile.batches == (1, 2, 4, 8, 16)
    assert profile.violations() == []
    assert profile.largest_cell_ms() == 30.7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format 2 is not 1"),
        ({"batches": [1, 1, 2]}, "distinct, positive and rising"),
        ({"batches": [0, 1, 2]}, "distinct, positive and rising"),
        ({"batches": []}, "at least one subnet and one batch size"),
        ({"batches": [1, 2]}, "'s0' needs one positive latency for each"),
        ({"speed": 1}, "unknown field `speed`"),
        ({"dispatch_overhead_us": "fast"}, "dispatch_overhead_us"),
    ],
)
def test_a_bad_file_is_refused_by_name_and_field(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "p.json"
    path.write_bytes(msgspec.json.encode({**msgspec.to_builtins(CROOKED), **change}))
    with pytest.raises(ProfileError, match=message) as caught:
        Profile.load(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_told_with_the_bundled_names() -> None:
    with pytest.raises(ProfileError, match=r"'nowhere\.json' is neither a file nor one of r-profile"):
        Profile.load("nowhere.json")


def test_violations_name_the_cell() -> None:
    found = CROOKED.violations()
    assert "p50 of s0 falls from 2000 to 1000 us at batch 2" in found
    assert "p95 of s1 at batch 1 is below that of a less accurate subnet" in found
    assert "p99 of s1 at batch 4 is below that of a less accurate subnet" in found
    assert len(found) == 9


@given(profiles())
def test_repair_only_raises_and_leaves_no_violation(profile: Profile) -> None:
    """Every cell becomes the largest of those that it must not be below, so quantiles rise as well."""
    repaired = profile.repaired()
    assert not repaired.violations()
    assert repaired.repaired() == repaired
    for before, after in zip(profile.subnets, repaired.subnets, strict=True):
        assert all(a >= b for a, b in zip(after.p95_us, before.p95_us, strict=True))
        assert all(a <= b <= c for a, b, c in zip(after.p50_us, after.p95_us, after.p99_us, strict=True))
        assert (after.id, after.accuracy) == (before.id, before.accuracy)


def test_repair_raises_no_more_than_it_must() -> None:
    first, second = CROOKED.repaired().subnets
    assert list(first.p50_us) == [2000, 2000, 5000]
    assert list(second.p50_us) == [2000, 3000, 5000]


def test_default_slo() -> None:
    assert make_profile([[10.0]], batches=(1,)).default_slo_ms() == 50.0
    assert make_profile([[10.0, 100.0]], batches=(1, 2)).default_slo_ms() == pytest.approx(117.0)


def test_a_partial_batch_costs_the_next_larger_cell() -> None:
    table = LatencyTable(make_profile([[1.0, 2.0, 5.0]], batches=(1, 2, 4)))
    assert table.latency_ns[0] == (1_000_000, 1_000_000, 2_000_000, 5_000_000, 5_000_000)


def test_subnets_are_found_by_id_and_by_floor() -> None:
    table = LatencyTable(CROOKED)
    assert table.index("s1") == 1
    with pytest.raises(ProfileError, match="subnet 'x' is not in the profile; it has s0, s1"):
        table.index("x")
    assert [table.floor_index(floor) for floor in (0, 70, 70.5, 71, 71.5)] == [0, 0, 1, 1, 2]


@given(profiles(), st.integers(0, 60_000_000), st.data())
def test_what_fits_the_slack_is_what_a_search_of_all_cells_finds(
    profile: Profile, slack_ns: int, data: st.DataObject
) -> None:
    table = LatencyTable(profile)
    for subnet, row in enumerate(table.latency_ns):
        assert all(a <= b for a, b in pairwise(row))
        fitting = [batch for batch in table.batches if row[batch] < slack_ns]
        assert table.largest_batch(subnet, slack_ns) == max(fitting, default=0)
    rows = data.draw(st.integers(1, table.max_rows))
    usable = sorted(data.draw(st.sets(st.integers(0, len(table) - 1), min_size=1)))
    fast = [subnet for subnet in usable if table.latency_ns[subnet][rows] < slack_ns]
    assert table.most_accurate(rows, slack_ns, usable) == max(fast, default=None)


TEXTS = with_shorter(CROOKED, (8, 0.5, 2.0), (16, 0.25, 0.5))


def test_a_profile_of_a_text_model_survives_its_file_and_older_files_have_one_length(tmp_path: Path) -> None:
    write_json(tmp_path / "p.json", TEXTS)
    assert Profile.load(tmp_path / "p.json") == TEXTS
    older = msgspec.to_builtins(TEXTS)
    del older["shorter"]
    (tmp_path / "p.json").write_bytes(msgspec.json.encode(older))
    assert Profile.load(tmp_path / "p.json") == TEXTS.longest == CROOKED


def test_buckets_are_profiles_from_the_shortest_to_the_longest() -> None:
    assert [bucket.subnets[0].p50_us[0] for bucket in TEXTS.buckets] == [4000, 1000, 2000]
    assert TEXTS.shares == (0.5, 0.25, 0.25)
    assert (CROOKED.buckets, CROOKED.shares) == ((CROOKED,), (1.0,))


def test_longer_texts_take_no_less_time_once_repaired() -> None:
    assert "p50 of s0 at batch 1 is below that of shorter texts" in TEXTS.violations()
    repaired = TEXTS.repaired()
    assert not repaired.violations()
    assert [bucket.subnets[0].p50_us for bucket in repaired.buckets] == [(4000, 4000, 10000)] * 3


@pytest.mark.parametrize(
    ("buckets", "message"),
    [
        ([(16, 0.5, 0.5), (8, 0.1, 0.5)], r"lengths \[16, 8\] must rise"),
        ([(8, 0.6, 0.5), (16, 0.6, 0.5)], r"shares \[0.6, 0.6\] must be at least 0, and at most 1 together"),
        ([(8, -0.6, 0.5)], "shares"),
        ([(8, 0.5, -1.0)], "needs one positive latency"),
    ],
)
def test_impossible_lengths_are_refused(buckets: list[tuple[int, float, float]], message: str) -> None:
    with pytest.raises(ProfileError, match=message):
        with_shorter(CROOKED, *buckets)


def test_shorter_texts_have_the_same_subnets() -> None:
    (bucket,) = with_shorter(CROOKED, (8, 0.5, 0.5)).shorter
    fewer = msgspec.structs.replace(bucket, subnets=bucket.subnets[:1])
    with pytest.raises(ProfileError, match=r"length 8 must have the subnets \['s0', 's1'\]"):
        msgspec.structs.replace(CROOKED, shorter=(fewer,))
