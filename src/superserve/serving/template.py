"""The process that workers are forked from: it loads and warms up what they run, and serves nothing itself.

    ``python -m superserve.serving.template --socket FD``

Importing torch and warming up a model take seconds on a busy machine, forking milliseconds, and pages are shared until
somebody writes to them. It is started by ``fork_server.py``. The standard library's fork server
(`multiprocessing.forkserver`) does not fit: it unpickles what it is to run, and its children live on when the process
that wanted them is killed.

A fork copies one thread. So nothing here may start a second one: should an engine do so when it is loaded, workers are
executed afresh instead.
"""

import argparse
import gc
import importlib
import mmap
import os
import signal
import socket
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

import msgspec

from superserve.engine import Engine
from superserve.processes import show_command_line
from superserve.serving import worker
from superserve.serving.child import adopt
from superserve.serving.ipc import Fork, Setup, SlotLayout, StartFailed, worker_channel

_REQUEST_BYTES: Final = 4_096


class _Descriptors(NamedTuple):
    """What a worker is given."""

    socket: int
    memory: int
    output: int


def main() -> None:
    """Load what the first messages say, then fork a worker per request until the router is gone."""
    parser = argparse.ArgumentParser(prog="superserve.serving.template", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--socket", type=int, required=True, help="descriptor of the socket that requests come from")
    args = parser.parse_args()
    adopt()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the router's wish, which may come while something is loaded
    requests = socket.socket(fileno=args.socket)
    serve(requests, _load(worker.receive_setups(worker_channel(requests))))
    os._exit(0)


def _load(setups: Sequence[Setup]) -> dict[int, Engine]:
    """Engines that workers can inherit, warm, by model. Of others they find the modules imported."""
    for setup in setups:
        with suppress(Exception):  # a worker tries again, and says why it cannot
            importlib.import_module(setup.spec.engine.partition(":")[0])
    engines: dict[int, Engine] = {}
    for setup in setups:
        if setup.spec.inheritable:
            layouts = SlotLayout.of({setup.model: setup.spec})
            # What is resident changes. Workers map it when they are forked, in milliseconds; here it would stay mapped.
            bare = msgspec.structs.replace(setup, spec=msgspec.structs.replace(setup.spec, resident=()))
            with suppress(Exception):
                region = mmap.mmap(-1, layouts[setup.model].size)
                engines[setup.model] = worker.start([bare], layouts, region, {})[0].engine
    # What lives now lives on, in pages that are shared until somebody writes to them: the collector would.
    gc.collect()
    gc.freeze()
    return engines


def serve(requests: socket.socket, engines: Mapping[int, Engine]) -> None:
    """Fork what is asked for, until the other end of the socket is closed."""
    while True:
        data, descriptors, _, _ = socket.recv_fds(requests, _REQUEST_BYTES, len(_Descriptors._fields))
        if not data:
            return
        given = _Descriptors(*descriptors)
        # Ended in between, it would leave the router a process that nobody knows of.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            _fork(msgspec.msgpack.decode(data, type=Fork), given, requests, engines)
        except OSError as error:  # too many processes, too little memory, a core that has gone
            _refuse(given.socket, error)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        for descriptor in given:
            os.close(descriptor)


def _fork(request: Fork, given: _Descriptors, requests: socket.socket, engines: Mapping[int, Engine]) -> None:
    """Fork a worker whose parent is the router: the process between the two ends at once, and the router adopts.

    Raises:
        OSError: if the kernel refuses.
    """
    os.sched_setaffinity(0, {request.core})  # inherited; and forking takes no time of other workers' cores
    may_fork = len(list(Path("/proc/self/task").iterdir())) == 1
    if between := os.fork():
        os.waitpid(between, 0)
        return
    between = os.getpid()
    try:
        if not os.fork():
            requests.close()
            _become_worker(request, given, engines if may_fork else None, orphan_of=between)
    except OSError as error:
        _refuse(given.socket, error)
    finally:
        os._exit(0)


def _refuse(socket_fd: int, error: OSError) -> None:
    with suppress(OSError), socket.socket(fileno=os.dup(socket_fd)) as refused:
        worker_channel(refused).send(StartFailed(f"it cannot be forked: {error}"))


def _become_worker(
    request: Fork, given: _Descriptors, engines: Mapping[int, Engine] | None, *, orphan_of: int
) -> NoReturn:
    """Be a worker from now on, once the router is this process's parent: only then it can be waited for.

    Without engines it is executed afresh.
    """
    status = 1
    try:
        while os.getppid() == orphan_of:
            os.sched_yield()
        for standard in (1, 2):
            os.dup2(given.output, standard)
        os.close(given.output)
        arguments = worker.arguments(given.socket, given.memory, background=request.background)
        if engines is None:
            for descriptor in (given.socket, given.memory):
                os.set_inheritable(descriptor, True)  # noqa: FBT003  (os names it so)
            os.execv(sys.executable, [sys.executable, "-P", *arguments])  # noqa: S606  (our own interpreter)
        show_command_line(sys.executable, *arguments)
        status = worker.work(given.socket, given.memory, background=request.background, inherited=engines)
    except BaseException:  # noqa: BLE001  (nothing may return into the template's loop)
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
