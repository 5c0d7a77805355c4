"""Clients for Python programs: arrays in, arrays out, refusals as the exceptions that the server raised.

`Client` blocks, `AsyncClient` does not; ``http://`` speaks HTTP, ``grpc://`` gRPC; otherwise they are all the same::

    with Client("http://localhost:8000") as client:
        reply = client.infer("digits", {"image": image}, slo_ms=50, min_accuracy=95)
        reply.outputs["logits"], reply.parameters.subnet

A deadline (``slo_ms``) counts from the call. The server is told what is left of it, and when it has passed the call
ends with `ExpiredError` and the server hears that nobody waits any more. What fails is asked again as `Retries` says,
if it was certainly not executed: there was no connection, or the server refused it with ``Retry-After``.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Self, TypeVar

import numpy as np
import numpy.typing as npt

from superserve.client.address import GRPC, GRPCS, HTTP, HTTPS, Address
from superserve.client.calls import Ask, AsyncTransport, BlockingTransport, Call, Wording
from superserve.client.deadline import Deadline
from superserve.client.http_transports import AsyncHttp, BlockingHttp
from superserve.client.http_wording import HttpWording
from superserve.client.reply import InferReply, ModelMetadata
from superserve.client.retries import Attempts, Retries, RetryBudget
from superserve.clock import Clock, MachineClock, MonotonicClock, SleepingClock, wait_until_ns
from superserve.errors import ConfigError, SuperServeError, UnavailableError

DEFAULT_TIMEOUT_S: Final = 30.0

_DEFAULT_RETRIES: Final = Retries()
_MACHINE: Final = MachineClock()

_Inputs = Mapping[str, npt.NDArray[Any]]
T = TypeVar("T")


class _Side:
    """What both clients know: where the server is, in which words to ask it, and how often."""

    def __init__(self, address: Address, timeout_s: float, retries: Retries, rng: np.random.Generator | None) -> None:
        if not timeout_s > 0:
            raise ConfigError(f"timeout_s = {timeout_s}: must be a number of seconds above 0")
        self.address = address
        self.wording = _wording(self.address)
        self._timeout_ms = timeout_s * 1000
        self._retries = retries
        self._budget = RetryBudget(retries)
        self._rng = rng or np.random.default_rng()

    def deadline(
        self, now_ns: Callable[[], int], slo_ms: float | None = None, wait_ms: float | None = None
    ) -> Deadline:
        return Deadline.start(now_ns, slo_ms, wait_ms, self._timeout_ms)

    def attempts(self, call: Call[Any], deadline: Deadline) -> Attempts:
        idempotent = call.is_idempotent
        return Attempts(self._retries, self._budget, self._rng, deadline, is_idempotent=idempotent)


def _address(url: str, token: str, ca_file: str) -> Address:
    return Address.parse(url, HTTP, HTTPS, GRPC, GRPCS, token=token, ca_file=ca_file)


def _wording(address: Address) -> Wording:
    if address.scheme in {HTTP, HTTPS}:
        return HttpWording(address)
    from superserve.client.grpc_wording import GrpcWording  # noqa: PLC0415  (gRPC takes 0.2 s and 20 MB)

    return GrpcWording(address)


def _blocking(address: Address) -> BlockingTransport:
    if address.scheme in {HTTP, HTTPS}:
        return BlockingHttp(address)
    from superserve.client.grpc_transports import BlockingGrpc  # noqa: PLC0415

    return BlockingGrpc(address)


def _async(address: Address, max_connections: int) -> AsyncTransport:
    if address.scheme in {HTTP, HTTPS}:
        return AsyncHttp(address, max_connections)
    from superserve.client.grpc_transports import AsyncGrpc  # noqa: PLC0415

    return AsyncGrpc(address)


class Client:
    """A blocking client; thread-safe: connections are kept and shared.

    Args:
        url: ``http://host:port`` or ``grpc://host:port``, ``https`` or ``grpcs`` for TLS; without a port 8000 or 8001.
        timeout_s: how long to wait for an answer where no ``slo_ms`` says so. The server is not told.
        retries: what to ask again, and how often.
        rng: draws the pauses before that; by default from the machine's entropy, as no two clients may agree.
        token: bearer token, where the server asks for one; to another machine over TLS only.
        ca_file: certificates (PEM) to trust instead of the system's.
        transport: carries the calls; by default made for the URL.
        clock: time and sleep.

    Raises:
        ConfigError: for an URL of another form, or a timeout that is not positive.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retries: Retries = _DEFAULT_RETRIES,
        rng: np.random.Generator | None = None,
        token: str = "",
        ca_file: str = "",
        transport: BlockingTransport | None = None,
        clock: SleepingClock = _MACHINE,
    ) -> None:
        self._side = _Side(_address(url, token, ca_file), timeout_s, retries, rng)
        self._transport = transport or _blocking(self._side.address)
        self._clock = clock

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop the connections; idempotent."""
        self._transport.close()

    def ready(self) -> bool:
        """Whether the server is there and ready to serve."""
        try:
            return self._ask(self._side.wording.ready(), once=True)
        except UnavailableError:
            return False

    def metadata(self, model: str, version: str = "") -> ModelMetadata:
        """Names, datatypes and shapes of a model's tensors.

        Raises:
            UnknownModelError: if the server has no such model or version.
            UnavailableError: if it does not answer.
        """
        return self._ask(self._side.wording.metadata(model, version))

    def infer(
        self,
        model: str,
        inputs: _Inputs,
        *,
        slo_ms: float | None = None,
        wait_ms: float | None = None,
        min_accuracy: float = 0.0,
        priority: int = 0,
        outputs: Sequence[str] = (),
        version: str = "",
        request_id: str = "",
        idempotent: bool = False,
    ) -> InferReply:
        """Ask for one inference.

        Args:
            model: its name.
            inputs: by tensor name; the leading dimension is rows. Arrays of `str`, `bytes` or objects of these go as
                BYTES, arrays of ``ml_dtypes.bfloat16`` as BF16.
            slo_ms: deadline from now; None leaves it to the server, which then counts the model's own from arrival.
            wait_ms: how long to wait for the answer: by default for ``slo_ms``. More than that takes late answers of a
                server that gives them (``reply.parameters.slo_met`` is false then).
            min_accuracy: accuracy floor in per cent: no subnet below it may answer.
            priority: in overload larger numbers are given up first; 0, the default, is like 1.
            outputs: the names of the tensors that are wanted; all if empty.
            version: of the model; the one that is served if empty.
            request_id: echoed in the reply, and the name of the request in the server's log.
            idempotent: whether it may be asked again although it may have been executed: after a lost connection, too.

        Returns:
            Outputs by tensor name, and what the server says of how it answered.

        Raises:
            InvalidRequestError: if the request does not fit the model.
            UnknownModelError: if the server has no such model.
            RefusedError: if the server ended the request without an answer; the subclass says why.
            ExpiredError: if the deadline passed, there or here.
            WorkerError: if the server failed on it.
            UnavailableError: if it does not answer at all.
        """
        deadline = self._side.deadline(self._clock.now_ns, slo_ms, wait_ms)
        ask = Ask(
            model=model,
            inputs=inputs,
            version=version,
            outputs=outputs,
            min_accuracy=min_accuracy,
            priority=priority,
            request_id=request_id,
            is_idempotent=idempotent,
        )
        return self._ask(self._side.wording.infer(ask), deadline)

    def _ask(self, call: Call[T], deadline: Deadline | None = None, *, once: bool = False) -> T:
        deadline = deadline or self._side.deadline(self._clock.now_ns)
        attempts = self._side.attempts(call, deadline)
        while True:
            try:
                response = self._transport.exchange(lambda: call.render(deadline.slo_left_us()), deadline)
                return call.decode(response)
            except TimeoutError:
                raise deadline.missed(self._side.address.url) from None
            except SuperServeError as error:
                if once:
                    raise
                again_ns = attempts.again_ns(error)
            self._clock.sleep_until_ns(again_ns)


class AsyncClient:
    """An asyncio client, for one event loop.

    Args:
        url: ``http://host:port`` or ``grpc://host:port``, ``https`` or ``grpcs`` for TLS; without a port 8000 or 8001.
        timeout_s: how long to wait for an answer where no ``slo_ms`` says so. The server is not told.
        max_connections: HTTP: how many requests may be on their way at once; further ones wait for their turn. gRPC
            sends them all over one connection.
        retries: what to ask again, and how often.
        rng: draws the pauses before that; by default from the machine's entropy, as no two clients may agree.
        token: bearer token, where the server asks for one; to another machine over TLS only.
        ca_file: certificates (PEM) to trust instead of the system's.
        transport: carries the calls; by default made for the URL.
        clock: time and timers; by default those of the running loop.

    Raises:
        ConfigError: for an URL of another form, or a timeout or number that is not positive.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        max_connections: int = 64,
        retries: Retries = _DEFAULT_RETRIES,
        rng: np.random.Generator | None = None,
        token: str = "",
        ca_file: str = "",
        transport: AsyncTransport | None = None,
        clock: Clock | None = None,
    ) -> None:
        if max_connections < 1:
            raise ConfigError(f"max_connections = {max_connections}: at least one is needed")
        self._side = _Side(_address(url, token, ca_file), timeout_s, retries, rng)
        self._transport = transport or _async(self._side.address, max_connections)
        self._clock = clock

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Drop the connections; what is on its way gets an `UnavailableError`. Idempotent."""
        await self._transport.close()

    async def ready(self) -> bool:
        """See `Client.ready`."""
        try:
            return await self._ask(self._side.wording.ready(), once=True)
        except UnavailableError:
            return False

    async def metadata(self, model: str, version: str = "") -> ModelMetadata:
        """See `Client.metadata`."""
        return await self._ask(self._side.wording.metadata(model, version))

    async def infer(
        self,
        model: str,
        inputs: _Inputs,
        *,
        slo_ms: float | None = None,
        wait_ms: float | None = None,
        min_accuracy: float = 0.0,
        priority: int = 0,
        outputs: Sequence[str] = (),
        version: str = "",
        request_id: str = "",
        idempotent: bool = False,
    ) -> InferReply:
        """See `Client.infer`. Cancelling this tells the server to give up."""
        deadline = self._side.deadline(self._running_clock().now_ns, slo_ms, wait_ms)
        ask = Ask(
            model=model,
            inputs=inputs,
            version=version,
            outputs=outputs,
            min_accuracy=min_accuracy,
            priority=priority,
            request_id=request_id,
            is_idempotent=idempotent,
        )
        return await self._ask(self._side.wording.infer(ask), deadline)

    def _running_clock(self) -> Clock:
        if self._clock is None:
            self._clock = MonotonicClock(asyncio.get_running_loop())
        return self._clock

    async def _ask(self, call: Call[T], deadline: Deadline | None = None, *, once: bool = False) -> T:
        clock = self._running_clock()
        deadline = deadline or self._side.deadline(clock.now_ns)
        attempts = self._side.attempts(call, deadline)
        while True:
            try:
                response = await self._transport.exchange(lambda: call.render(deadline.slo_left_us()), deadline)
                return call.decode(response)
            except TimeoutError:
                raise deadline.missed(self._side.address.url) from None
            except SuperServeError as error:
                if once:
                    raise
                again_ns = attempts.again_ns(error)
            await wait_until_ns(clock, again_ns)
