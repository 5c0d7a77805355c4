"""Digests of the code that kept results depend on."""

from pathlib import Path

import pytest

from superserve.experiments import code_of
from superserve.experiments.code_of import code_of_bounds, code_of_policy
from superserve.profile import Profile

R_PROFILE = Profile.load("r-profile")


@pytest.fixture
def changed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Files whose content reads as changed from then on."""
    names: list[str] = []
    read = Path.read_bytes
    monkeypatch.setattr(
        Path, "read_bytes", lambda path: read(path) + (b"#" if any(str(path).endswith(name) for name in names) else b"")
    )
    return names


def digests() -> dict[str, str]:
    for function in (code_of._code_of_class, code_of.code_of_bounds):
        function.cache_clear()
    policies = {
        name: code_of_policy(name, R_PROFILE) for name in ("slackfit", "slackfit:4", "fixed:smallest", "coarse")
    }
    return {**policies, "bounds": code_of_bounds()}


@pytest.mark.parametrize(
    ("file", "stale"),
    [
        ("scheduling/slackfit.py", {"slackfit", "slackfit:4"}),
        ("scheduling/baselines.py", {"fixed:smallest"}),
        ("scheduling/hosting.py", {"coarse"}),
        ("scheduling/arrivals.py", {"coarse"}),
        ("scheduling/scheduler.py", {"slackfit", "slackfit:4", "fixed:smallest", "coarse"}),
        ("simulator/results.py", {"slackfit", "slackfit:4", "fixed:smallest", "coarse"}),
        ("bounds/fluid.py", {"bounds"}),
        ("training/digits.py", set()),
    ],
)
def test_only_what_depends_on_a_file_is_made_again(changed: list[str], file: str, stale: set[str]) -> None:
    """A change of one policy leaves the others' runs valid."""
    before = digests()
    changed.append(file)
    after = digests()
    assert {name for name in before if before[name] != after[name]} == stale
    changed.clear()
    assert digests() == before
