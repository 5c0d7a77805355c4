import pytest

from superserve.experiments.parallel import run_jobs


def half(number: int) -> float:
    if number < 0:
        raise ValueError(f"{number} is below zero")
    return number / 2


@pytest.mark.parametrize("processes", [1, 2])
def test_every_job_is_run_once(processes: int) -> None:
    assert dict(run_jobs(half, range(5), processes=processes)) == {n: n / 2 for n in range(5)}


def test_one_process_keeps_the_order() -> None:
    assert [job for job, _ in run_jobs(half, [3, 1, 2], processes=1)] == [3, 1, 2]


@pytest.mark.parametrize("processes", [1, 2])
def test_what_a_job_raises_is_raised_here(processes: int) -> None:
    with pytest.raises(ValueError, match="below zero"):
        list(run_jobs(half, [1, -1, 2], processes=processes))


def test_no_jobs_start_nothing() -> None:
    assert list(run_jobs(half, [])) == []
