"""Virtual-time runs of the live scheduler."""

from superserve.simulator.simulator import Simulation, simulate

__all__ = ["Simulation", "simulate"]
