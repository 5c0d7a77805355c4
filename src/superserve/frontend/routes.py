"""The Open Inference Protocol V2 over HTTP: which path and method does what.

Every handler gets the `Exchange` of one request and answers it, at once or later. HTTP itself is ``http.py``'s.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator, Mapping
from functools import cached_property
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

import msgspec

from superserve.errors import CancelledError, SuperServeError, UnknownModelError
from superserve.frontend.authorization import Access
from superserve.frontend.dashboard.history import History
from superserve.frontend.dashboard.live_page import LivePage
from superserve.frontend.exchange import Exchange
from superserve.frontend.infer_reader import InferReader
from superserve.frontend.openapi import describe
from superserve.frontend.openapi_page import page
from superserve.frontend.per_model import PerModel
from superserve.frontend.repository import ModelRepository, RepositoryRequest
from superserve.frontend.v2_response import ResponsePlan
from superserve.serving.dataplane import DataPlane, ServedModel
from superserve.serving.inference import Answer
from superserve.serving.router import Pending
from superserve.serving.tracing import HTTP

_logger = logging.getLogger(__name__)

#: Paths that clients ask for are remembered with what they mean, unless they are long or have a query; beyond this many
#: the memory starts anew.
_MAX_REMEMBERED: Final = 1024
_MAX_REMEMBERED_BYTES: Final = 256

#: Requests in the list of the latest ones.
_MAX_LISTED: Final = 100


class PathArguments(NamedTuple):
    """What a path names; None where it names none."""

    model: str | None
    version: str | None
    request_id: str | None


Action = Callable[[Exchange, PathArguments], None]


class RouteTable:
    """Paths with ``{model}`` and ``{version}`` in them, and what each method does there.

    Implements `superserve.frontend.exchange.RequestHandler`.
    """

    def __init__(self) -> None:
        self._patterns: list[tuple[list[str], dict[bytes, Action]]] = []
        self._remembered: dict[bytes, tuple[Mapping[bytes, Action], PathArguments]] = {}

    def add(self, method: bytes, pattern: str, action: Action) -> None:
        """Serve a method of a path. GET serves HEAD, too."""
        parts = pattern.split("/")
        actions = next((actions for known, actions in self._patterns if known == parts), None)
        if actions is None:
            actions = {}
            self._patterns.append((parts, actions))
        actions[method] = action
        if method == b"GET":
            actions[b"HEAD"] = action

    def routes(self) -> Iterator[tuple[bytes, str]]:
        """Method and pattern of everything that is served."""
        for parts, actions in self._patterns:
            for method in actions:
                yield method, "/".join(parts)

    def handle(self, exchange: Exchange) -> None:
        """Answer a request, or see to it that it will be."""
        found = self._remembered.get(exchange.url) or self._look_up(exchange.url)
        if found is None:
            path = exchange.url.decode("latin-1")
            exchange.fail(UnknownModelError(f"nothing is served at {path!r}; the protocol's paths start with /v2"))
            return
        actions, arguments = found
        action = actions.get(exchange.method)
        if action is None:
            exchange.refuse_method(sorted(actions))
            return
        try:
            action(exchange, arguments)
        except SuperServeError as error:
            exchange.fail(error)

    def _look_up(self, url: bytes) -> tuple[Mapping[bytes, Action], PathArguments] | None:
        path = url.partition(b"?")[0].decode("latin-1")
        parts = [unquote(part) for part in path.split("/")]
        for pattern, actions in self._patterns:
            named = _match(pattern, parts)
            if named is not None:
                found = actions, PathArguments(named.get("{model}"), named.get("{version}"), named.get("{request_id}"))
                if len(url) <= _MAX_REMEMBERED_BYTES and b"?" not in url:
                    self._remember(url, found)
                return found
        return None

    def _remember(self, url: bytes, found: tuple[Mapping[bytes, Action], PathArguments]) -> None:
        if len(self._remembered) >= _MAX_REMEMBERED:
            self._remembered.clear()
        self._remembered[url] = found


def _match(pattern: list[str], parts: list[str]) -> dict[str, str] | None:
    if len(pattern) != len(parts):
        return None
    named: dict[str, str] = {}
    for expected, part in zip(pattern, parts, strict=True):
        if expected.startswith("{") and part:
            named[expected] = part
        elif expected != part:
            return None
    return named


class V2Routes(RouteTable):
    """The Open Inference Protocol V2 over a `DataPlane`.

    Args:
        plane: what to serve.
        repository: what can be loaded; None: not even the paths for it are there.
        access: says who may load; default: everybody.
        history: what the live page shows; None: there is no such page.
    """

    def __init__(
        self,
        plane: DataPlane,
        repository: ModelRepository | None = None,
        access: Access | None = None,
        history: History | None = None,
    ) -> None:
        super().__init__()
        self._access = access or Access()
        self._plane = plane
        self._tasks: set[asyncio.Task[None]] = set()
        self._readers = PerModel(plane, InferReader)
        self.add(b"GET", "/v2", self._server_metadata)
        self.add(b"GET", "/v2/health/live", self._live)
        self.add(b"GET", "/v2/health/ready", self._ready)
        self.add(b"GET", "/v2/models/stats", self._statistics)  # before the metadata of a model that is named so
        for model in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            self.add(b"GET", model, self._model_metadata)
            self.add(b"GET", f"{model}/ready", self._model_ready)
            self.add(b"GET", f"{model}/config", self._model_configuration)
            self.add(b"GET", f"{model}/stats", self._statistics)
            self.add(b"POST", f"{model}/infer", self._infer)
        self.add(b"GET", "/v2/decisions", self._decisions)
        self.add(b"GET", "/v2/decisions/{request_id}", self._explanation)
        self.add(b"GET", "/v2/ledger", self._ledger)
        self.add(b"GET", "/v2/models/{model}/profile", self._profile)
        self.add(b"POST", "/v2/models/{model}/profile", self._reprofile)
        self.add(b"GET", "/openapi.json", self._openapi)
        self.add(b"GET", "/docs", self._docs)
        if history is not None:
            page = LivePage(history)
            self.add(b"GET", "/", page.show)
            self.add(b"GET", "/page/{digest}/{file}", page.asset)
            self.add(b"GET", "/v2/activity", page.activity)
        if repository is not None:
            self._repository = repository
            self.add(b"POST", "/v2/repository/index", self._index)
            self.add(b"POST", "/v2/repository/models/{model}/load", self._load)
            self.add(b"POST", "/v2/repository/models/{model}/unload", self._unload)

    def _server_metadata(self, exchange: Exchange, _: PathArguments) -> None:
        exchange.respond_json(msgspec.json.encode(self._plane.metadata))

    def _live(self, exchange: Exchange, _: PathArguments) -> None:
        exchange.respond_json(b'{"live":true}')

    def _ready(self, exchange: Exchange, _: PathArguments) -> None:
        ready = self._plane.ready
        exchange.respond_json(msgspec.json.encode({"ready": ready}), 200 if ready else 503)

    def _model_metadata(self, exchange: Exchange, path: PathArguments) -> None:
        exchange.respond_json(msgspec.json.encode(self._model(path).metadata))

    def _model_ready(self, exchange: Exchange, path: PathArguments) -> None:
        assert path.model is not None
        ready = self._plane.model_ready(path.model, path.version)
        exchange.respond_json(msgspec.json.encode({"name": path.model, "ready": ready}), 200 if ready else 503)

    def _model_configuration(self, exchange: Exchange, path: PathArguments) -> None:
        exchange.respond_json(msgspec.json.encode(self._model(path).configuration))

    def _statistics(self, exchange: Exchange, path: PathArguments) -> None:
        exchange.respond_json(msgspec.json.encode(self._plane.statistics(path.model, path.version)))

    def _decisions(self, exchange: Exchange, _: PathArguments) -> None:
        exchange.respond_json(msgspec.json.encode(self._plane.latest(_MAX_LISTED)))

    def _explanation(self, exchange: Exchange, path: PathArguments) -> None:
        assert path.request_id is not None
        exchange.respond_json(msgspec.json.encode(self._plane.explain(path.request_id)))

    def _ledger(self, exchange: Exchange, _: PathArguments) -> None:
        exchange.respond_json(msgspec.json.encode(self._plane.ledgers()))

    def _profile(self, exchange: Exchange, path: PathArguments) -> None:
        exchange.respond_json(msgspec.json.encode(self._model(path).live_profile.report()))

    def _reprofile(self, exchange: Exchange, path: PathArguments) -> None:
        self._access.check_admin(exchange.headers.get(b"authorization"))
        model = self._model(path)
        model.live_profile.begin(model.router.wake_idle_work)
        exchange.respond_json(msgspec.json.encode(model.live_profile.report()))

    def _openapi(self, exchange: Exchange, _: PathArguments) -> None:
        exchange.respond_json(self._document[0])

    def _docs(self, exchange: Exchange, _: PathArguments) -> None:
        exchange.respond_text(b"text/html; charset=utf-8", self._document[1])

    @cached_property
    def _document(self) -> tuple[bytes, bytes]:
        """As JSON and as a page."""
        document = describe(self.routes(), self._plane.metadata.version)
        return msgspec.json.encode(document), page(document).encode()

    def _index(self, exchange: Exchange, _: PathArguments) -> None:
        asked = RepositoryRequest.of(exchange.body)
        exchange.respond_json(msgspec.json.encode(self._repository.index(ready_only=asked.ready)))

    def _load(self, exchange: Exchange, path: PathArguments) -> None:
        assert path.model is not None
        self._access.check_admin(exchange.headers.get(b"authorization"))
        self._answer(exchange, self._repository.load(path.model, RepositoryRequest.of(exchange.body).parameters))

    def _unload(self, exchange: Exchange, path: PathArguments) -> None:
        assert path.model is not None
        self._access.check_admin(exchange.headers.get(b"authorization"))
        self._answer(exchange, self._repository.unload(path.model, RepositoryRequest.of(exchange.body).parameters))

    def _answer(self, exchange: Exchange, work: Coroutine[Any, Any, None]) -> None:
        """Answer when something is done that takes its time."""

        async def answered() -> None:
            try:
                await work
            except SuperServeError as error:
                exchange.fail(error)
            except Exception:  # a defect here must cost one answer, and tell the client nothing of our insides
                _logger.exception("cannot answer %s", exchange.url.decode("latin-1"))
                exchange.fail(SuperServeError("internal error; the server's log says more"))
            else:
                exchange.respond_json(b"{}")

        task = asyncio.ensure_future(answered())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _infer(self, exchange: Exchange, path: PathArguments) -> None:
        model = self._model(path)
        checked, plan, request_id = self._readers.of(model).read(exchange.body, exchange.headers)
        call = _InferCall(exchange, plan, request_id, model)
        exchange.work = call
        traceparent = exchange.headers.get(b"traceparent")
        origin = HTTP if traceparent is None else HTTP.within(traceparent.decode("latin-1"))
        pending = model.submit(checked, exchange.arrival_ns, call, exchange.request_id(), origin)
        if exchange.response is None:
            call.pending = pending

    def _model(self, path: PathArguments) -> ServedModel:
        assert path.model is not None, "only routes with a model ask for it"
        return self._plane.model(path.model, path.version)


class _InferCall:
    """An infer request under way: where its answer goes and in which form."""

    __slots__ = ("_exchange", "_model", "_plan", "_request_id", "pending")

    def __init__(self, exchange: Exchange, plan: ResponsePlan, request_id: str, model: ServedModel) -> None:
        self._exchange = exchange
        self._plan = plan
        self._request_id = request_id
        self._model = model
        self.pending: Pending | None = None

    def answered(self, answer: Answer) -> None:
        """See `Responder.answered`."""
        self.pending = None  # which refers back
        json, tensors = self._plan.encode(self._request_id, answer)
        if tensors:
            self._exchange.respond_tensors(json, tensors)
        else:
            self._exchange.respond_json(json)

    def refused(self, error: SuperServeError) -> None:
        """See `Responder.refused`."""
        self.pending = None
        if not isinstance(error, CancelledError):  # nobody is left to read that
            self._exchange.fail(error)

    def cancel(self) -> None:
        """See `Cancellable.cancel`."""
        self._exchange.work = None  # which is this object
        if self.pending is not None:
            self._model.cancel(self.pending)
