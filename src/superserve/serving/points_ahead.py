"""Before workers start: see to it that what they are to run answers as eager float32 does, on this machine.

A worker checks that itself when it loads a model (``engines.py``), and finds what is kept. Counting takes longer than a
worker may take to start, and somebody should see how far it is: it is done here, in a process of its own. Nothing here
imports torch.
"""

import logging
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Final

import msgspec

from superserve.engine import EngineChoice
from superserve.errors import ModelFolderError
from superserve.model_folder import ModelFolder
from superserve.serving.devices import CPU, device_name, emulated_profile
from superserve.serving.residency.packer import environment
from superserve.supernet.points import answers_on, labelled_examples
from superserve.supernet.right_answers import REFERENCE, Runs, losses, refuse_losses

logger = logging.getLogger(__name__)

#: Told of progress: batches done, batches in all, what is being done.
Report = Callable[[int, int, str], None]

_MODULE: Final = "superserve.serving.points_process"

#: How much of what a failed process wrote is told.
_LAST_CHARACTERS: Final = 1_000


class PointsTask(msgspec.Struct, frozen=True, kw_only=True):
    """What a counting process is told, as JSON on its command line."""

    folder: str
    bundled: bool
    choice: EngineChoice
    """An engine on the one copy of the weights; packed subnets are checked when they are packed."""


def runs_of(choice: EngineChoice) -> Runs:
    """What counts of right answers are kept by."""
    return Runs(choice.engine, choice.dtype, CPU if choice.device == CPU else device_name(choice.device))


def require_points(
    folder: ModelFolder, choice: EngineChoice, report: Report | None = None, *, may_count: bool = True
) -> None:
    """Refuse a choice that loses accuracy, on the test data of the folder or on what it was evaluated on.

    Eager float32, which the others are held against, and emulated devices pass at once.

    Args:
        folder: the model.
        choice: by `choose_engine`.
        report: told of progress while something is counted: once for a model, engine and dtype on a machine.
        may_count: whether there is time for it.

    Raises:
        ModelFolderError: if it loses more than it may, cannot be run, or would have to be counted and may not.
    """
    on_one_copy = choice.behind
    runs = runs_of(on_one_copy)
    if runs == REFERENCE or emulated_profile(choice.device) is not None:
        return
    if not _is_counted(folder, runs):
        if not may_count:
            raise ModelFolderError(
                f"{folder.path}: the accuracy of {runs} has not been compared with eager float32's on this machine: "
                f"run `superserve profile {folder.path} --device {choice.device} --engine {choice.engine} --dtype "
                f"{choice.dtype}` first"
            )
        logger.info("comparing the accuracy of %s with eager float32's, once on this machine", runs)
        _count(folder, on_one_copy, report or (lambda *_: None))
    refuse_losses(folder, runs)


def tell_never_compared(folder: ModelFolder, choice: EngineChoice) -> None:
    """What rounds more than float32 is served where nobody can know what that costs, but not silently.

    Args:
        folder: the model.
        choice: by `choose_engine`; of the packed engine, what is behind it counts for itself.
    """
    if emulated_profile(choice.device) is not None or choice.dtype == REFERENCE.dtype or folder.carries_test_data:
        return
    for each in dict.fromkeys((choice, choice.behind)):
        if not losses(folder, runs_of(each)):
            logger.warning(
                "the accuracy of %s has never been compared with eager float32's: %s carries no test data. `superserve "
                "evaluate %s --engine %s --dtype %s --data PATH` does so, and is remembered",
                runs_of(each),
                folder.path,
                folder.config.name if folder.bundled else folder.path,
                each.engine,
                each.dtype,
            )


def _is_counted(folder: ModelFolder, runs: Runs) -> bool:
    """Whether all subnets were counted on the test data of a folder, if it carries any, and on eager float32, too."""
    examples = labelled_examples(folder)
    if examples is None:
        return True
    front = {record.id for record in folder.front.subnets}
    return all(front == {kept.subnet for kept in answers_on(folder, each, examples)} for each in (runs, REFERENCE))


def _count(folder: ModelFolder, choice: EngineChoice, told: Report) -> None:
    """Have a process count, on one thread as a worker has.

    Raises:
        ModelFolderError: if it fails.
    """
    task = PointsTask(folder=str(folder.path.resolve()), bundled=folder.bundled, choice=choice)
    # What it says is told to users: not what torch says to its own developers.
    command = [sys.executable, "-W", "ignore", "-P", "-m", _MODULE, msgspec.json.encode(task).decode()]
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(  # noqa: S603  (our own module)
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment()
        ) as process,
    ):
        assert process.stdout is not None
        try:
            for line in process.stdout:
                done, total = map(int, line.split())
                told(done, total, "compare accuracy")
        except BaseException:
            process.kill()
            raise
        if process.wait():
            errors.seek(0)
            words = errors.read().decode(errors="replace").strip()[-_LAST_CHARACTERS:]
            raise ModelFolderError(words or f"{folder.path}: counting right answers ended ({process.returncode})")
