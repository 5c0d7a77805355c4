"""The OpenAPI document of what is served over HTTP: https://spec.openapis.org/oas/v3.1.0.

It is made from the routes themselves: a path stands in the document because it is served. `OPERATIONS` adds what a
route does not know: words, bodies and statuses.
"""

from collections.abc import Iterable, Mapping
from functools import cache
from http import HTTPStatus
from typing import Any, Final, NamedTuple

import msgspec

from superserve.frontend import openapi_bodies as bodies
from superserve.frontend.dashboard.activity import Activity
from superserve.frontend.status import reason_phrase
from superserve.serving.dataplane import MAX_TIMEOUT_US
from superserve.serving.explanation import Explanation, Summary
from superserve.serving.ledger import LedgerReport
from superserve.serving.live_profile import ReprofileReport
from superserve.serving.metadata import ModelConfiguration, ModelIndex, ModelMetadata, ServerMetadata
from superserve.serving.statistics import StatisticsReport

OPENAPI: Final = "3.1.0"

_JSON: Final = "application/json"
_TENSORS: Final = "application/octet-stream"
_HTML: Final = "text/html"
_ANY: Final = "*/*"

_REF: Final = "#/components/schemas/{name}"
_VERSION_PART: Final = "/versions/{version}"

#: Statuses that HTTP itself may answer any request with.
_OF_HTTP: Final = (400, 408, 431, 503)
#: Those that requests with a body may get beside.
_OF_BODIES: Final = (413, 415, 417)


#: Request headers that mean something: words and schema.
_HEADERS: Final[Mapping[str, tuple[str, Mapping[str, Any]]]] = {
    "x-request-id": ("An id of the client's own for the request.", {"type": "string"}),
    "x-slo-ms": (
        "Deadline in milliseconds from arrival, unless `parameters.timeout` sets one.",
        {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_TIMEOUT_US // 1000},
    ),
    "Inference-Header-Content-Length": (
        "How many bytes of the body are JSON; without it, all.",
        {"type": "integer", "minimum": 1},
    ),
}


#: Parameters of queries, the same.
_QUERIES: Final[Mapping[str, tuple[str, Mapping[str, Any]]]] = {
    "run": ("As an earlier answer said.", {"type": "string"}),
    "after": ("The number of the latest second that is known of that run.", {"type": "integer", "minimum": 0}),
}


class Operation(NamedTuple):
    """What a method of a path is for.

    ``answer`` is the type of a 200's body, None for another media type; ``statuses`` are those of errors that belong to
    this operation; ``unready`` says that 503 comes with the same body as 200; ``body`` is the type of the request's;
    ``tensors`` says that bytes of tensors may stand behind either.
    """

    summary: str
    answer: Any
    statuses: tuple[int, ...] = ()
    description: str = ""
    media_type: str = _JSON
    unready: bool = False
    body: Any = None
    tensors: bool = False
    queries: tuple[str, ...] = ()


_MODEL: Final = "/v2/models/{model}"
_REPOSITORY: Final = "/v2/repository"
_LOADING: Final = "Answered when it is done; the other models are served meanwhile."

#: By method and pattern; a pattern with a version is described by the one without.
OPERATIONS: Final[Mapping[tuple[bytes, str], Operation]] = {
    (b"GET", "/v2"): Operation("Server metadata", ServerMetadata),
    (b"GET", "/v2/health/live"): Operation("Server live", bodies.Live),
    (b"GET", "/v2/health/ready"): Operation("Server ready", bodies.Ready, unready=True),
    (b"GET", "/v2/models/stats"): Operation("Statistics of all models", StatisticsReport),
    (b"GET", _MODEL): Operation("Model metadata", ModelMetadata, (404,)),
    (b"GET", f"{_MODEL}/ready"): Operation("Model ready", bodies.ModelReady, (404,), unready=True),
    (b"GET", f"{_MODEL}/config"): Operation("Model configuration", ModelConfiguration, (404,)),
    (b"GET", f"{_MODEL}/stats"): Operation("Statistics of a model", StatisticsReport, (404,)),
    (b"POST", f"{_MODEL}/infer"): Operation(
        "Inference",
        bodies.InferAnswer,
        (404, 429, 500, 504),
        "Tensors stand in the JSON, or as raw bytes behind it (Triton's binary tensor data extension): then the header "
        "`Inference-Header-Content-Length` says how many bytes of the body are JSON, and the answer has the same form. "
        "A request that cannot be in time is refused as soon as that is certain (504), and never executed.",
        body=bodies.InferRequest,
        tensors=True,
    ),
    (b"POST", f"{_REPOSITORY}/index"): Operation(
        "Models that can be loaded",
        list[ModelIndex],
        (501,),
        "Those of the folder that the server was started with, and those that it serves.",
        body=bodies.RepositoryRequest,
    ),
    (b"POST", f"{_REPOSITORY}/models/{{model}}/load"): Operation(
        "Load a model", bodies.Done, (404, 409, 500, 501), _LOADING, body=bodies.RepositoryRequest
    ),
    (b"POST", f"{_REPOSITORY}/models/{{model}}/unload"): Operation(
        "Unload a model", bodies.Done, (404, 409, 500, 501), _LOADING, body=bodies.RepositoryRequest
    ),
    (b"GET", "/v2/decisions"): Operation(
        "The latest requests", list[Summary], description="What became of them, the latest first."
    ),
    (b"GET", "/v2/decisions/{request_id}"): Operation(
        "Why a request ended as it did",
        Explanation,
        (404,),
        "In numbers and in sentences, by the id that its answer carried as `x-request-id`.",
    ),
    (b"GET", "/v2/ledger"): Operation(
        "What degraded answers cost",
        list[LedgerReport],
        (501,),
        "Of each model: how often subnets answered the same as the largest one, which was run later.",
    ),
    (b"GET", f"{_MODEL}/profile"): Operation(
        "What has become of a model's profile",
        ReprofileReport,
        (404, 501),
        "As it was measured again, or how far that is.",
    ),
    (b"POST", f"{_MODEL}/profile"): Operation(
        "Measure a profile again",
        ReprofileReport,
        (404, 409, 501),
        "In idle time, which takes as long as it takes: answered when it has begun. What was measured is what a server "
        "plans with that starts later.",
    ),
    (b"GET", "/v2/activity"): Operation(
        "What happened lately",
        Activity,
        description="The last five minutes, second by second, as the live page shows them; with `run` and `after` only "
        "what is new.",
        queries=("run", "after"),
    ),
    (b"GET", "/"): Operation("The live page", None, media_type=_HTML),
    (b"GET", "/page/{digest}/{file}"): Operation("A part of the live page", None, (404,), media_type=_ANY),
    (b"GET", "/openapi.json"): Operation("This document", None, description="OpenAPI 3.1."),
    (b"GET", "/docs"): Operation("This document, to be read", None, media_type=_HTML),
}


def describe(routes: Iterable[tuple[bytes, str]], version: str) -> dict[str, Any]:
    """The document.

    Args:
        routes: method and pattern of everything that is served; HEAD goes without saying where there is GET.
        version: of the server.

    Raises:
        KeyError: if a route is missing in `OPERATIONS`.
    """
    paths: dict[str, dict[str, Any]] = {}
    for method, pattern in routes:
        if method != b"HEAD":
            paths.setdefault(pattern, {})[method.decode().lower()] = _operation(method, pattern)
    return {
        "openapi": OPENAPI,
        "info": {
            "title": "SuperServe",
            "version": version,
            "description": "The Open Inference Protocol V2 over HTTP. HEAD is answered wherever GET is. Every answer, "
            "errors too, carries `x-request-id`. gzip and deflate are understood both ways.",
            "license": {"name": "Apache 2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {"schemas": _schemas()},
    }


def _operation(method: bytes, pattern: str) -> dict[str, Any]:
    operation = OPERATIONS[method, pattern.replace(_VERSION_PART, "")]
    of_version = _VERSION_PART in pattern
    summary = f"{operation.summary}, of a version" if of_version else operation.summary
    told: dict[str, Any] = {
        "operationId": "_".join(summary.replace(",", "").lower().split()),
        "summary": summary,
        "parameters": [
            *_path_parameters(pattern),
            *(_parameter(name, "query", *_QUERIES[name]) for name in operation.queries),
            *_header_parameters(operation),
        ],
        "responses": _responses(operation),
    }
    if operation.description:
        told["description"] = operation.description
    if operation.body is not None:
        # What a repository is asked has an answer without a body, too.
        told["requestBody"] = {
            "required": operation.tensors,
            "content": _content(operation.body, tensors=operation.tensors),
        }
    return told


def _path_parameters(pattern: str) -> list[dict[str, Any]]:
    schema = {"type": "string", "minLength": 1}
    names = [part[1:-1] for part in pattern.split("/") if part.startswith("{")]
    return [{"name": name, "in": "path", "required": True, "schema": schema} for name in names]


def _header_parameters(operation: Operation) -> list[dict[str, Any]]:
    names = _HEADERS if operation.tensors else ("x-request-id",)
    return [_parameter(name, "header", *_HEADERS[name]) for name in names]


def _parameter(name: str, place: str, description: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": place, "description": description, "schema": schema}


def _responses(operation: Operation) -> dict[str, Any]:
    statuses = {*operation.statuses, *_OF_HTTP, *(_OF_BODIES if operation.body is not None else ())}
    responses = {str(status): _error(status) for status in sorted(statuses)}
    content: dict[str, Any] = {operation.media_type: {}}
    if operation.answer is not None:
        content = _content(operation.answer, tensors=operation.tensors)
    responses["200"] = {"description": HTTPStatus.OK.phrase, "content": content}
    if operation.unready:
        answers = {"anyOf": [_schema(operation.answer), _schema(bodies.Error)]}
        responses["503"] = {"description": "Not ready", "content": {_JSON: {"schema": answers}}}
    return dict(sorted(responses.items()))


def _error(status: int) -> dict[str, Any]:
    told: dict[str, Any] = {"description": reason_phrase(status), "content": _content(bodies.Error)}
    if status in {429, 503}:
        told["headers"] = {
            "Retry-After": {"description": "In how many seconds to try again.", "schema": {"type": "integer"}}
        }
    return told


def _content(kind: object, *, tensors: bool = False) -> dict[str, Any]:
    content: dict[str, Any] = {_JSON: {"schema": _schema(kind)}}
    if tensors:
        content[_TENSORS] = {}
    return content


@cache
def _schema(kind: object) -> dict[str, Any]:
    (schema,), _ = msgspec.json.schema_components([kind], ref_template=_REF)
    return schema


def _schemas() -> dict[str, Any]:
    kinds = [kind for one in OPERATIONS.values() for kind in (one.answer, one.body) if kind is not None]
    return msgspec.json.schema_components([bodies.Error, *kinds], ref_template=_REF)[1]
