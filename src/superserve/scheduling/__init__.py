"""The scheduling core: pure Python, no I/O, no clock of its own.

Importing the package registers the policies that come with it.
"""

from superserve.scheduling import baselines, drainfit, hosting, slackfit
from superserve.scheduling.actions import Action, Finish, Launch
from superserve.scheduling.buckets import create_policies
from superserve.scheduling.mixed import MixedScheduler, create_scheduler
from superserve.scheduling.policy import (
    Bound,
    Decision,
    HeadPolicy,
    Placement,
    Policy,
    SchedulerView,
    TimeoutAction,
    Wait,
    create_policy,
    policy_names,
    register_policy,
)
from superserve.scheduling.queue import EDFQueue
from superserve.scheduling.scheduler import Scheduler
from superserve.scheduling.state import SchedulerLimits
from superserve.scheduling.workers import SharedWorkers

__all__ = [
    "Action",
    "Bound",
    "Decision",
    "EDFQueue",
    "Finish",
    "HeadPolicy",
    "Launch",
    "MixedScheduler",
    "Placement",
    "Policy",
    "Scheduler",
    "SchedulerLimits",
    "SchedulerView",
    "SharedWorkers",
    "TimeoutAction",
    "Wait",
    "baselines",
    "create_policies",
    "create_policy",
    "create_scheduler",
    "drainfit",
    "hosting",
    "policy_names",
    "register_policy",
    "slackfit",
]
