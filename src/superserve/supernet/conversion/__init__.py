"""Insert the operators into people's own models, and say what was found."""

from superserve.supernet.conversion.adapters import Adaptation, linear_members, register_adapter
from superserve.supernet.conversion.conversion import Conversion
from superserve.supernet.conversion.convert import convert
from superserve.supernet.conversion.groups import Member
from superserve.supernet.conversion.options import Options
from superserve.supernet.conversion.reorder import reorder_by_importance
from superserve.supernet.conversion.report import Report

__all__ = [
    "Adaptation",
    "Conversion",
    "Member",
    "Options",
    "Report",
    "convert",
    "linear_members",
    "register_adapter",
    "reorder_by_importance",
]
