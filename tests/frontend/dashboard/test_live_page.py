"""The page over HTTP: complete, safe, cacheable, and no way around tokens."""

import json
import re
from html.parser import HTMLParser

import pytest

from superserve.clock import NS_PER_S, ManualClock
from superserve.frontend.authorization import Access, Tokens
from superserve.frontend.common import Common
from superserve.frontend.dashboard.history import History
from superserve.frontend.http_server import HttpServer
from superserve.frontend.routes import V2Routes
from superserve.serving.config import HttpConfig
from superserve.serving.dataplane import DataPlane
from superserve.serving.fake_pool import FakePool
from superserve.serving.shared_pool import SharedPool
from support.http_bench import responses
from support.serving import make_model, make_router
from support.transport import FakeTransport

Answer = tuple[int, dict[str, str], bytes]

TOKEN = "user-token-0123456789"  # noqa: S105  (it opens nothing)


class Bench:
    """A server with its page, without a socket."""

    def __init__(self, *, tokens: bool = False) -> None:
        self.clock = ManualClock()
        shared = SharedPool(FakePool(), self.clock)
        plane = DataPlane([make_model(make_router(shared, self.clock))], version="9")
        self.history = History(plane, shared.workers, lambda: 1, self.clock)
        common = Common()
        if tokens:
            common.access = Access(Tokens.read_lines([TOKEN]))
        self.server = HttpServer(V2Routes(plane, history=self.history), self.clock, HttpConfig(), common)

    def get(self, path: str, token: str = "") -> Answer:
        protocol = self.server.connection()
        transport = FakeTransport(protocol)
        protocol.connection_made(transport)
        header = f"Authorization: Bearer {token}\r\n" if token else ""
        protocol.data_received(f"GET {path} HTTP/1.1\r\nHost: x\r\n{header}\r\n".encode())
        (response,) = responses(transport.sent)
        return response

    def parts(self) -> list[str]:
        """Paths of what the page loads."""
        page = Links()
        page.feed(self.get("/")[2].decode())
        return page.found


class Links(HTMLParser):
    """What a page loads; nothing of it stands in the page itself."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        assert tag != "style"
        assert not {name for name in given if name == "style" or name.startswith("on")}, tag
        if tag in {"script", "img"}:
            self.found.append(given["src"] or "")
        elif tag == "link":
            self.found.append(given["href"] or "")


def test_the_page_loads_its_parts_and_nothing_else() -> None:
    """All are there, with the types that browsers insist on; modules import one another by name."""
    bench = Bench()
    status, headers, page = bench.get("/")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert b"{digest}" not in page
    assert {path.rpartition(".")[2] for path in bench.parts()} == {"svg", "css", "js"}
    waiting, seen = [f"/{path}" for path in bench.parts()], set[str]()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        status, headers, body = bench.get(path)
        assert status == 200, path
        kind = {"svg": "image/svg+xml", "css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}
        assert headers["content-type"] == kind[path.rpartition(".")[2]]
        waiting += [f"{path.rpartition('/')[0]}/{name}" for name in re.findall(r'from "\./(\w+\.js)"', body.decode())]
    assert len(seen) >= 10


@pytest.mark.parametrize("foreign", ["https?://", "eval\\(", "innerHTML", "insertAdjacentHTML", "document\\.write"])
def test_nothing_comes_from_elsewhere_and_no_text_becomes_html(foreign: str) -> None:
    """Labels, errors and file names are other people's words. The name space of SVG is no address."""
    bench = Bench()
    for path in ("/", *(f"/{path}" for path in bench.parts())):
        text = bench.get(path)[2].decode().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(foreign, text), path


def test_only_own_files_run_and_nobody_frames_it() -> None:
    """The page and its parts say so; parts stand for the same bytes for ever, the page is always asked for."""
    bench = Bench()
    for path, caching in (("/", "no-cache"), (f"/{bench.parts()[0]}", "public, max-age=31536000, immutable")):
        _, headers, _ = bench.get(path)
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == caching


def test_another_versions_parts_are_not_there() -> None:
    """What may be kept for ever must not be given for another name; nor is anything else of the package."""
    bench = Bench()
    path = f"/{bench.parts()[0]}"
    _, digest, name = path.rpartition("/")[0], path.split("/")[2], path.split("/")[3]
    for other in (path.replace(digest, "0" * 16), f"/page/{digest}/..%2f{name}", f"/page/{digest}/index.html"):
        status, _, body = bench.get(other)
        assert (status, "no such part" in body.decode()) == (404, True)


def test_with_tokens_the_page_is_free_and_what_it_shows_is_not() -> None:
    """A browser loads it, and has to send a token for everything that it tells."""
    bench = Bench(tokens=True)
    assert bench.get("/")[0] == 200
    for path in bench.parts():
        assert bench.get(f"/{path}")[0] == 200
    for path in ("/v2/activity", "/v2/activity?run=&after=0", "/v2/decisions", "/v2/models/tiny"):
        assert bench.get(path)[0] == 401
        assert bench.get(path, token=TOKEN)[0] == 200


async def test_activity_is_told_as_json() -> None:
    """All of it, and with a query what is new; never kept by a cache."""
    bench = Bench()
    bench.history.start()
    bench.clock.advance(3 * NS_PER_S)
    status, headers, body = bench.get("/v2/activity")
    told = json.loads(body)
    assert (status, headers["cache-control"]) == (200, "no-cache")
    assert [second["number"] for second in told["seconds"]] == [1, 2, 3]
    news = json.loads(bench.get(f"/v2/activity?run={told['run']}&after=2")[2])
    assert [second["number"] for second in news["seconds"]] == [3]
    assert news["models"] is None


@pytest.mark.parametrize(
    "query", ["after=x", "after=", "after=-1", "after=1_0", "after=1e9", "after=" + "9" * 5000, "&".join(["a=b"] * 20)]
)
def test_a_query_that_cannot_be_used_is_refused(query: str) -> None:
    """With words, whatever somebody types."""
    status, _, body = Bench().get(f"/v2/activity?{query}")
    assert (status, "after=INTEGER" in body.decode()) == (400, True)
