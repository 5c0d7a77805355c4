"""The table of mutants fits the source: what `make mutants` would find out after minutes."""

from itertools import groupby

import pytest

from mutants.table import MUTANTS, ROOT, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.fault)
def test_what_a_mutant_takes_away_is_there(mutant: Mutant) -> None:
    """Once, and the test that has to notice it exists."""
    assert (ROOT / "src" / "superserve" / mutant.file).read_text().count(mutant.text) == 1
    assert mutant.text != mutant.replacement
    file, _, test = mutant.test.partition("::")
    assert f"def {test}(" in (ROOT / file).read_text()


def test_mutants_differ() -> None:
    keys = sorted((mutant.file, mutant.text) for mutant in MUTANTS)
    assert all(len(list(same)) == 1 for _, same in groupby(keys))
    assert len({mutant.fault for mutant in MUTANTS}) == len(MUTANTS)
