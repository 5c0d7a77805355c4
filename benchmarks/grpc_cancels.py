"""What a server of the bare gRPC library comes to hold when its clients cancel: the soak leaves that out.

A `grpc.aio` server that answers after a few milliseconds, in a process of its own, and a client that gives up a share
of its calls while they wait. The figure is what malloc has in use in the server, after a garbage collection; Python's
own memory does not change. See https://github.com/grpc/grpc/issues/43360.

Run: ``python benchmarks/grpc_cancels.py [--seconds 25] [--share 0.9]``.
"""

import argparse
import asyncio
import ctypes
import gc
import multiprocessing
import multiprocessing.connection
import random
import time
from contextlib import suppress
from typing import Any, Final

import grpc
import grpc.aio

_METHOD: Final = "/bare.Echo/Call"
_ANSWER_S: Final = 0.005
_PATIENCE_S: Final = 0.004
_CALLS: Final = 16


class _MallInfo(ctypes.Structure):
    """``struct mallinfo2`` of glibc."""

    _fields_ = (
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks")),
        *((name, ctypes.c_size_t) for name in ("uordblks", "fordblks", "keepcost")),
    )


async def _echo(request: bytes, context: Any) -> bytes:  # noqa: ANN401, ARG001  (grpc has no types)
    await asyncio.sleep(_ANSWER_S)
    return request


async def _serve(link: "multiprocessing.connection.Connection[Any, Any]") -> None:
    server = grpc.aio.server()
    method = grpc.unary_unary_rpc_method_handler(_echo)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bare.Echo", {"Call": method}),))
    link.send(server.add_insecure_port("127.0.0.1:0"))
    await server.start()
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = _MallInfo
    while await asyncio.to_thread(link.recv):
        gc.collect()
        link.send(mallinfo().uordblks)


def _run(link: "multiprocessing.connection.Connection[Any, Any]") -> None:
    asyncio.run(_serve(link))


async def _ask(port: int, share: float, seconds: float) -> tuple[int, int]:
    """Calls, and those of them that were cancelled."""
    calls = cancelled = 0
    draw = random.Random(0)  # noqa: S311  (patience, not secrets)
    end_s = time.monotonic() + seconds

    async def one(method: Any) -> None:  # noqa: ANN401
        nonlocal calls, cancelled
        while time.monotonic() < end_s:
            call = method(bytes(300))
            calls += 1
            if draw.random() < share:
                await asyncio.sleep(draw.random() * _PATIENCE_S)
                cancelled += call.cancel()
            with suppress(asyncio.CancelledError):
                await call

    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        method = channel.unary_unary(_METHOD)
        await asyncio.gather(*(one(method) for _ in range(_CALLS)))
    return calls, cancelled


def main() -> None:
    """Print bytes per cancelled call."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=25.0)
    parser.add_argument("--share", type=float, default=0.9, help="of the calls, to cancel")
    options = parser.parse_args()
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_run, args=(theirs,), daemon=True)
    process.start()
    port = ours.recv()

    def held() -> int:
        ours.send("held")
        in_use: int = ours.recv()
        return in_use

    asyncio.run(_ask(port, options.share, 2.0))
    before = held()
    calls, cancelled = asyncio.run(_ask(port, options.share, options.seconds))
    grown = held() - before
    print(f"{calls:,} calls, {cancelled:,} cancelled: the server has {grown / 1e6:+.2f} MB more in use")
    if cancelled:
        print(f"{grown / cancelled:.0f} bytes per cancelled call")


if __name__ == "__main__":
    main()
