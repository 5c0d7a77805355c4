"""The document says what is served, and what is served is as the document says."""

import json
from html.parser import HTMLParser
from typing import Any, cast, get_args

import pytest
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import validate

from superserve.clock import ManualClock
from superserve.frontend import openapi_bodies as bodies
from superserve.frontend import v2
from superserve.frontend.dashboard.history import History
from superserve.frontend.exchange import Exchange
from superserve.frontend.openapi import OPERATIONS, describe
from superserve.frontend.repository import ModelRepository
from superserve.frontend.routes import V2Routes
from superserve.model_folder import DTYPES
from superserve.scheduling.workers import SharedWorkers
from superserve.serving.dataplane import DataPlane
from superserve.serving.fake_pool import FakePool
from support.serving import make_ledger, make_model, make_router

TENSORS = [
    {"name": "image", "shape": [1, 2, 2], "datatype": "UINT8", "data": [1, 2, 3, 4]},
    {"name": "scale", "shape": [1], "datatype": "FP32", "data": [0.5]},
]


class Bench:
    """The routes of a server, without HTTP."""

    def __init__(self) -> None:
        clock = ManualClock()
        self.pool = FakePool()
        self.router = make_router(self.pool, clock, ledger=make_ledger())
        plane = DataPlane([make_model(self.router)], version="9")
        history = History(plane, SharedWorkers(), lambda: 1, clock)
        # What could be loaded is not asked for here; that there is something gives the paths for it.
        self.routes = V2Routes(plane, cast("ModelRepository", object()), history=history)
        self.response = b""

    def send(self, _: Exchange, response: bytes) -> None:
        self.response = response

    def next_request_id(self) -> bytes:
        return b"r"

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, str, bytes]:
        """Status, media type and body."""
        exchange = Exchange(self)
        exchange.method, exchange.url = method.encode(), path.encode()
        exchange.body = b"" if body is None else json.dumps(body).encode()
        self.routes.handle(exchange)
        while self.pool.running:
            self.pool.finish(0)
        head, _, answer = self.response.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        media = next(line.partition(": ")[2] for line in lines if line.startswith("Content-Type"))
        return int(status.split()[1]), media.partition(";")[0], answer


@pytest.fixture
async def bench() -> Bench:
    bench = Bench()
    await bench.router.start()
    return bench


@pytest.fixture
def document(bench: Bench) -> Any:
    status, media, body = bench.ask("GET", "/openapi.json")
    assert (status, media) == (200, "application/json")
    return json.loads(body)


async def test_the_document_is_valid(document: Any) -> None:
    """By the validator of the OpenAPI 3.1 schema; the server's version is its own."""
    validate(document)
    assert (document["openapi"], document["info"]["version"]) == ("3.1.0", "9")


async def test_every_route_is_in_it_and_nothing_else(bench: Bench, document: Any) -> None:
    """HEAD goes without saying; each description belongs to a route."""
    served = {(method, path) for method, path in bench.routes.routes() if method != b"HEAD"}
    told = {(method.upper().encode(), path) for path, methods in document["paths"].items() for method in methods}
    assert told == served
    assert {(method, path.replace("/versions/{version}", "")) for method, path in served} == set(OPERATIONS)
    names = [operation["operationId"] for methods in document["paths"].values() for operation in methods.values()]
    assert len(set(names)) == len(names)


def test_a_route_that_nobody_described_is_missed() -> None:
    """So that the test above cannot pass by leaving it out."""
    with pytest.raises(KeyError):
        describe([(b"GET", "/v2/new")], "9")


def check(document: Any, path: str, method: str, answer: tuple[int, str, bytes]) -> None:
    """An answer's status, media type and body are among those that the document has for it."""
    status, media, body = answer
    content = document["paths"][path][method]["responses"][str(status)]["content"]
    assert media in content, (path, status, media)
    if media == "application/json" and "schema" in content[media]:
        schema = {**content[media]["schema"], "components": document["components"]}
        OAS31Validator(schema).validate(json.loads(body))


async def test_answers_are_as_the_document_says(bench: Bench, document: Any) -> None:
    """Of everything that is asked with GET, for a model that is there and one that is not."""
    for path in document["paths"]:
        if "get" in document["paths"][path]:
            for model, version in (("tiny", "1"), ("other", "1"), ("tiny", "7")):
                answer = bench.ask("GET", path.replace("{model}", model).replace("{version}", version))
                check(document, path, "get", answer)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, {"inputs": TENSORS, "id": "me"}),
        (200, {"inputs": TENSORS, "outputs": [{"name": "pixels", "parameters": {"binary_data": True}}]}),
        (400, {"inputs": TENSORS[:1]}),
        (400, []),
        (504, {"inputs": TENSORS, "parameters": {"timeout": 1}}),
    ],
)
async def test_inference_is_as_the_document_says(bench: Bench, document: Any, status: int, body: Any) -> None:
    """Answers in JSON, with binary tensors, and refusals; requests that are served fit their schema, too."""
    path = "/v2/models/{model}/infer"
    answer = bench.ask("POST", path.replace("{model}", "tiny"), body)
    assert answer[0] == status
    check(document, path, "post", answer)
    if status == 200:
        schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        OAS31Validator({**schema, "components": document["components"]}).validate(body)


async def test_an_unready_server_is_as_the_document_says(document: Any) -> None:
    """503 with the same body."""
    bench = Bench()
    for path in ("/v2/health/ready", "/v2/models/{model}/ready"):
        answer = bench.ask("GET", path.replace("{model}", "tiny"))
        assert answer[0] == 503
        check(document, path, "get", answer)


def test_request_bodies_are_those_that_are_read() -> None:
    """The same fields of the same names, and the same datatypes."""
    for told, read in (
        (bodies.InferRequest, v2._Body),
        (bodies.InferInput, v2._Input),
        (bodies.InferRequestedOutput, v2._Output),
    ):
        assert set(told.__struct_fields__) == set(read.__struct_fields__)
    assert set(get_args(bodies.Datatype)) == {*DTYPES, "BYTES"}


class Page(HTMLParser):
    """Tags that are open, text, and what is asked from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.links: list[str] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        assert tag not in {"script", "link", "img", "iframe"}
        self.links += [found["href"] or ""] if "href" in found else []
        self.ids |= {found["id"] or ""} if "id" in found else set()
        if tag not in {"html", "meta"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


async def test_the_page_shows_it_all(bench: Bench, document: Any) -> None:
    """Every path and body; links lead to places on it or to the document; tags are closed."""
    status, media, body = bench.ask("GET", "/docs")
    assert (status, media) == (200, "text/html")
    page = Page()
    page.feed(body.decode())
    assert page.open == []
    for path, methods in document["paths"].items():
        for method in methods:
            assert f"{method.upper()} {path}" in page.text
    assert page.ids == document["components"]["schemas"].keys()
    assert {link.removeprefix("#") for link in page.links} <= page.ids | {"openapi.json"}
