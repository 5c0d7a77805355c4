"""Virtual-time runs of the live scheduler."""

from superserve.simulator.conditions import Conditions, WorkerEvent, impatient, losses
from superserve.simulator.recording import BatchRecord, Recording
from superserve.simulator.simulator import Simulation, simulate

__all__ = ["BatchRecord", "Conditions", "Recording", "Simulation", "WorkerEvent", "impatient", "losses", "simulate"]
