"""Data-parallel training over processes of one machine.

On a CPU two processes of one thread are faster than one process of two threads: convolutions of small images leave
the second thread idle half of the time. The processes hold equal weights, take their share of each batch, and average
gradients through torch.distributed (gloo).
"""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Final, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, distributed

from superserve.errors import WorkerError

_J = TypeVar("_J")

#: A run may be stopped (a laptop asleep, SIGSTOP) for longer than torch's default of half an hour.
_PATIENCE: Final = timedelta(days=1)
#: How often it is looked whether a process that is waited for still lives.
_LOOK_S: Final = 0.1


class Group(Protocol):
    """The processes of a training run, seen from one of them."""

    @property
    def rank(self) -> int:
        """This process's number, from 0."""

    @property
    def size(self) -> int:
        """How many there are."""

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes; the same bits in all of them."""


class Alone:
    """A run of one process."""

    rank: Final = 0
    size: Final = 1

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """See `Group.sum`."""


class GlooGroup:
    """A process of several; `torch.distributed` is initialised."""

    def __init__(self) -> None:
        self.rank = distributed.get_rank()
        self.size = distributed.get_world_size()

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """See `Group.sum`; in one message, because hundreds of small ones would cost more than their content."""
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        distributed.all_reduce(flat)
        for tensor, total in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(total.view_as(tensor))


@contextmanager
def processes(count: int, work: Callable[[_J, Group], object], job: _J) -> Iterator[Group]:
    """Run ``work(job, group)`` in ``count - 1`` new processes, and give this one its own group to do the same with.

    Every process runs one thread. New ones are spawned: work and job must be picklable. They end with the block; if
    one fails, so does the next exchange with it.

    Raises:
        WorkerError: if a process failed.
    """
    if count == 1:
        yield Alone()
        return
    with tempfile.TemporaryDirectory(prefix="superserve-train-") as folder:
        meeting = Path(folder) / "meeting"
        ends = _Ends.of(count)
        others = [_start(_Place(rank, count, meeting), work, job, ends) for rank in range(1, count)]
        try:
            with _joined(_Place(0, count, meeting)) as group:
                yield group
                ends.wait_for(others)
            for process in others:
                process.join()
        except RuntimeError as error:
            raise WorkerError(f"a training process was lost: {error}") from error
        finally:
            for process in others:
                process.kill()
                process.join()
        # One that has done its work may still be aborted by torch's threads as it ends, which costs nothing.
        failed = [process.exitcode for process, done in zip(others, ends.done, strict=True) if not done.is_set()]
        if failed:
            raise WorkerError(f"a training process ended with exit code {failed[0]}")


class _Place(NamedTuple):
    """A process's number, how many there are, and the file at which they meet."""

    rank: int
    size: int
    meeting: Path


class _Ends(NamedTuple):
    """Keeps every process in the group until all have done their work.

    One that leaves while another is still in their last exchange resets its connection, and the other one fails.
    """

    done: tuple[Event, ...]
    """Of each process but the first: set when its work is done."""
    leave: Event

    @classmethod
    def of(cls, count: int) -> "_Ends":
        """For so many processes."""
        context = get_context("spawn")
        return cls(tuple(context.Event() for _ in range(1, count)), context.Event())

    def wait_for(self, others: Sequence[BaseProcess]) -> None:
        """Wait until the work of each is done or the process is lost, and let all of them leave."""
        for process, done in zip(others, self.done, strict=True):
            while not done.wait(_LOOK_S) and process.is_alive():
                pass
        self.leave.set()


def _start(place: _Place, work: Callable[[_J, Group], object], job: _J, ends: _Ends) -> BaseProcess:
    process = get_context("spawn").Process(
        target=_run, args=(place, work, job, ends), name=f"superserve-train-{place.rank}", daemon=True
    )
    process.start()
    return process


def _run(place: _Place, work: Callable[[_J, Group], object], job: _J, ends: _Ends) -> None:
    torch.set_num_threads(1)
    with _joined(place) as group:
        work(job, group)
        ends.done[place.rank - 1].set()
        ends.leave.wait()


@contextmanager
def _joined(place: _Place) -> Iterator[Group]:
    """Meet the others at a file: no port of ours, and the loopback interface unless the user says otherwise."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    distributed.init_process_group(
        "gloo", init_method=f"file://{place.meeting}", rank=place.rank, world_size=place.size, timeout=_PATIENCE
    )
    try:
        yield GlooGroup()
    finally:
        distributed.destroy_process_group()
