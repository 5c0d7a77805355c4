"""Measure how long each (subnet, batch size) takes on this device, as it is served."""

from superserve.processor import cpu_name
from superserve.profiler.measure import Measurement, measure, measure_async
from superserve.profiler.sampling import Progress
from superserve.profiler.store import find_profile, save_profile

__all__ = ["Measurement", "Progress", "cpu_name", "find_profile", "measure", "measure_async", "save_profile"]
