"""The engine that replays CUDA graphs: one per (subnet, padded batch), captured as they are wanted."""

from superserve.supernet.graphs.device import Graph, GraphDevice, Span
from superserve.supernet.graphs.engine import GraphEngine
from superserve.supernet.graphs.holdings import Cell, GraphHoldings, GraphLimits

__all__ = ["Cell", "Graph", "GraphDevice", "GraphEngine", "GraphHoldings", "GraphLimits", "Span"]
