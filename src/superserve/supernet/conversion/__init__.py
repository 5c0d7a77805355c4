"""Insert the operators into people's own models, and say what was found."""

from superserve.supernet.conversion.adaptations import Adaptation, Concatenation, Projection, Units
from superserve.supernet.conversion.adapters import register_adapter
from superserve.supernet.conversion.conversion import Conversion
from superserve.supernet.conversion.convert import convert
from superserve.supernet.conversion.options import Options
from superserve.supernet.conversion.reorder import reorder_by_importance
from superserve.supernet.conversion.report import Report

__all__ = [
    "Adaptation",
    "Concatenation",
    "Conversion",
    "Options",
    "Projection",
    "Report",
    "Units",
    "convert",
    "register_adapter",
    "reorder_by_importance",
]
