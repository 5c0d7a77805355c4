"""What a server has observed, read from its metrics."""

from superserve.experiments.observed import ObservedOverhead, overhead_in, with_observed
from superserve.profile import Profile

PAGE = """\
# HELP superserve_overhead_duration_seconds From the launch of a batch to the last of its answers.
# TYPE superserve_overhead_duration_seconds histogram
superserve_overhead_duration_seconds_bucket{le="0.001",model="digits"} %(batches)s.0
superserve_overhead_duration_seconds_bucket{le="+Inf",model="digits"} %(batches)s.0
superserve_overhead_duration_seconds_count{model="digits"} %(batches)s.0
superserve_overhead_duration_seconds_sum{model="digits"} 0.0026
# HELP superserve_planned_overhead_seconds What plans take off every slack.
# TYPE superserve_planned_overhead_seconds gauge
superserve_planned_overhead_seconds{model="digits"} 0.00125
"""


def test_overhead_is_read_as_planned_and_on_average() -> None:
    found = overhead_in(PAGE % {"batches": 4})
    assert found == ObservedOverhead(planned_us=1250.0, mean_us=650.0)


def test_nothing_was_observed_before_the_first_batch() -> None:
    assert overhead_in(PAGE % {"batches": 0}) is None


def test_a_prediction_takes_the_observed_overhead() -> None:
    """What was profiled says little of a loaded router; without an observation it is all there is."""
    profile = Profile.load("r-profile")
    observed = with_observed(profile, ObservedOverhead(planned_us=700.0, mean_us=400.0))
    assert (observed.dispatch_overhead_us, observed.typical_overhead_us) == (700.0, 400.0)
    assert with_observed(profile, None) is profile
