"""The live page in a real browser, before real servers with the bundled models."""

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pytest

from browser import chromium, console, prefer, why_not
from superserve.model_folder import ModelFolder, write_json
from support.profiles import guessed_profile
from support.server_process import ServerProcess, serving

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

pytestmark = [
    pytest.mark.integration,
    pytest.mark.browser,
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]

NAMES = ("digits", "intents", "cifar10")
DIGITS = tuple("0123456789")
PATIENCE_S = 30.0
NOTHING = "\N{EN DASH}"
"""What stands for a value that there is none of."""
TOKEN = "a-token-of-the-tests"  # noqa: S105

_Found = TypeVar("_Found")


class Page:
    """The page in a browser tab."""

    def __init__(self, driver: "Chrome", url: str) -> None:
        self.driver = driver
        driver.get("about:blank")
        console(driver)
        driver.get(url)

    def text(self, selector: str) -> str:
        """What an element says; empty if it is not there."""
        script = "return document.querySelector(arguments[0])?.textContent ?? ''"
        return str(self.driver.execute_script(script, selector)).strip()

    def until(self, condition: Callable[[], _Found], what: str) -> _Found:
        """Wait for something, and return it."""
        end = monotonic() + PATIENCE_S
        while monotonic() < end:
            found = condition()
            if found:
                return found
            sleep(0.1)
        raise AssertionError(f"{what}: {self.text('body')[:2000]}\n{self.log()}")

    def live(self) -> "Page":
        self.until(lambda: self.text("#status").startswith("Live"), "the page is not live")
        return self

    def choose(self, model: str) -> None:
        self.until(lambda: model in self.text("#models"), f"no {model}")
        for button in self.all("#models button"):
            if button.text == model:
                button.click()

    def all(self, selector: str) -> list[Any]:
        found: list[Any] = self.driver.find_elements("css selector", selector)
        return found

    def one(self, selector: str) -> Any:
        (found,) = self.all(selector)
        return found

    def press(self, *keys: str) -> None:
        """Keys, to whatever has the focus."""
        for key in keys:
            self.driver.switch_to.active_element.send_keys(key)

    def focused(self) -> str:
        """The id, class or text of what has the focus."""
        script = "const e = document.activeElement; return e.id || e.className?.baseVal || e.className || e.textContent"
        return str(self.driver.execute_script(script))

    def slide(self, position: int) -> None:
        """Set the deadline, as far from the least to the largest, in per cent."""
        script = (
            "const slider = document.getElementById('slo'); slider.value = arguments[0];"
            "for (const name of ['input', 'change']) slider.dispatchEvent(new Event(name, {bubbles: true}))"
        )
        self.driver.execute_script(script, position)

    def answered(self) -> dict[str, str]:
        """What the form tells of an answer, by name; waits for it."""
        self.until(lambda: self.text("#answer .verdict"), "no answer")
        names, values = ([each.text for each in self.all(f"#answer {tag}")] for tag in ("dt", "dd"))
        return {"verdict": self.text("#answer .verdict"), **dict(zip(names, values, strict=True))}

    def log(self) -> list[str]:
        """Complaints in the console since the last look."""
        return [entry["message"] for entry in console(self.driver) if entry["level"] != "INFO"]

    def refusals(self) -> list[str]:
        """Complaints that are not about an answer which is no success: every browser reports these."""
        return [message for message in self.log() if "Failed to load resource" not in message]


@pytest.fixture(scope="module")
def driver() -> Iterator["Chrome"]:
    with chromium() as driver:
        yield driver


def configuration(scratch: Path, settings: str) -> Path:
    """All bundled models, planned with guesses."""
    lines = [settings]
    for name in NAMES:
        write_json(scratch / f"{name}.json", guessed_profile(ModelFolder.resolve(name)))
        lines += [f"[models.{name}]", f'source = "{name}"', f'profile = "{scratch / name}.json"']
    file = scratch / "server.toml"
    file.write_text("\n".join(lines))
    return file


@contextmanager
def started(scratch: Path, *arguments: str, settings: str = "") -> Iterator[ServerProcess]:
    file = configuration(scratch, settings)
    with serving(
        Path(NAMES[0]), "--config", file, "--workers", "1", *arguments, scratch=scratch, device="cpu"
    ) as server:
        yield server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with started(tmp_path_factory.mktemp("page")) as server:
        yield server


@pytest.fixture
def page(driver: "Chrome", server: ServerProcess) -> Page:
    return Page(driver, server.url).live()


def infer(server: ServerProcess, timeout_ms: float) -> None:
    """Ask the digits model, whatever it answers."""
    image = {"name": "image", "shape": [1, 8, 8], "datatype": "UINT8", "data": [0] * 64}
    body = json.dumps({"inputs": [image], "parameters": {"timeout": round(timeout_ms * 1000)}}).encode()
    connection = http.client.HTTPConnection(server.address, timeout=PATIENCE_S)
    connection.request("POST", "/v2/models/digits/infer", body)
    connection.getresponse().read()
    connection.close()


@contextmanager
def load(server: ServerProcess) -> Iterator[None]:
    """Requests with long, short and hopeless deadlines, one after the other."""
    enough = threading.Event()

    def ask() -> None:
        while not enough.is_set():
            for timeout_ms in (1000.0, 25.0, 0.5):
                infer(server, timeout_ms)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield
    finally:
        enough.set()
        asking.join()


def test_it_loads_without_a_complaint(page: Page) -> None:
    """All models are there, every chart has a name that can be read out, and the console is empty."""
    assert [button.text for button in page.all("#models button")] == ["digits", "intents", "cifar10"]
    page.until(lambda: page.text("#headroom .value") == "100 %", "no headroom")
    labels = [chart.get_attribute("aria-label") for chart in page.all("svg[role=img]")]
    assert [label.partition(":")[0] for label in labels] == [
        "Requests",
        "SLO attainment",
        "Accuracy",
        "Latency",
        "Subnets in use",
        "Queue",
        "Batch size",
        "Burst headroom",
    ]
    assert page.text("#workers li").startswith("0")
    assert page.one("#packed").get_attribute("hidden")  # all run from the one copy of their weights
    assert page.log() == []


def test_it_follows_a_load(page: Page, server: ServerProcess) -> None:
    """Rates, subnets, and what was refused or degraded with its reason; explained when asked."""
    with load(server):
        page.until(lambda: page.text("#requests .value") not in {NOTHING, "0 /s"}, "no requests are told")
        page.until(lambda: " of 6" in page.text("#subnets .value"), "no subnets are told")
        page.until(lambda: "rejected" in page.text("#notable tbody"), "no refusal is told")
        page.until(lambda: "degraded" in page.text("#notable tbody"), "no degradation is told")
        assert "deadline infeasible on arrival" in page.text("#notable tbody")
        assert page.text("#attainment .value") not in {NOTHING, "100 %"}
        page.one("#notable tbody").find_element("css selector", "button").click()
        page.until(lambda: "policy drainfit" in page.text("#why"), "no explanation")
        page.one("#why button").click()
    assert page.log() == []


def test_a_reload_shows_the_past(page: Page, server: ServerProcess) -> None:
    """The server remembers."""
    infer(server, 1000.0)
    page.until(lambda: page.text("#accuracy .value") != NOTHING, "no answer is told")
    page.driver.refresh()
    page.live()
    page.until(lambda: page.one("#accuracy path.line").get_attribute("d"), "the past is forgotten")


def latest(server: ServerProcess) -> Any:
    """What the server says of its latest request."""
    connection = http.client.HTTPConnection(server.address, timeout=PATIENCE_S)
    connection.request("GET", "/v2/decisions")
    told = json.loads(connection.getresponse().read())
    connection.close()
    return told[0]


def test_a_digit_is_drawn_and_answered(page: Page, server: ServerProcess) -> None:
    """By keyboard, within the deadline of the slider; a hopeless one is refused with a reason."""
    page.slide(100)
    page.driver.execute_script("document.querySelector('.pad').focus()")
    page.press("7")
    told = page.answered()
    assert told["verdict"] in DIGITS  # which one depends on the subnet that the machine has time for
    asked = latest(server)
    assert (told["Subnet"], told["Its accuracy"]) == (asked["subnet"], f"{asked['accuracy']:.1f} %")
    assert f"Deadline, {asked['deadline_ms']:.0f} ms" in told
    page.slide(0)
    page.until(lambda: "no subnet can answer" in page.text("#answer .wrong"), "no refusal")
    assert latest(server)["deadline_ms"] == 1.0
    page.one("#answer button").click()
    page.until(lambda: "Refused on arrival" in page.text("#why"), "no explanation")
    assert page.refusals() == []


def test_a_digit_is_drawn_with_the_pointer(page: Page) -> None:
    """A stroke from top to bottom; what was drawn is asked at once, and forgotten when told to."""
    from selenium.webdriver import ActionChains  # noqa: PLC0415  (not where this is skipped)

    pad = page.one(".pad")
    pen = ActionChains(page.driver).move_to_element_with_offset(pad, 0, -70).click_and_hold()
    pen.move_by_offset(0, 140).release().perform()
    assert page.answered()["verdict"] == "1"
    page.one("#ask-clear").click()
    page.one("#ask-send").click()
    page.until(lambda: "Draw a digit first" in page.text("#answer"), "nothing is asked for nothing")


def test_a_sentence_is_understood(page: Page) -> None:
    """Whatever is typed: nothing, what the model knows, other scripts, and more than it takes."""
    page.choose("intents")
    page.one("#ask-send").click()
    page.until(lambda: "Type a sentence first" in page.text("#answer"), "nothing was typed")
    page.one("#text").send_keys("My card was stolen, please block it")
    page.one("#ask-send").click()
    assert "card" in page.answered()["verdict"].lower()
    assert len(page.all("#answer .likely li")) == 3
    for text, expected in (("<b>\\ud83d\\ude00</b> 你好\\u0000", "Deadline"), ("x" * 5000, "1024")):
        page.driver.execute_script(f"document.getElementById('text').value = \"{text}\"")
        page.one("#ask-send").click()
        page.until(lambda expected=expected: expected in page.text("#answer"), expected)  # type: ignore[misc]
    assert page.refusals() == []


def picture(folder: Path) -> Path:
    """An image that is neither square nor small."""
    image = pytest.importorskip("PIL.Image")
    file = folder / "sky.png"
    image.fromarray(np.full((300, 500, 3), (120, 170, 240), np.uint8)).save(file)
    return file


def test_an_image_is_looked_at(page: Page, tmp_path: Path) -> None:
    """Chosen or dropped; what is no image is said so, whatever it calls itself."""
    page.choose("cifar10")
    page.one("#file").send_keys(str(picture(tmp_path)))
    labels = ModelFolder.resolve("cifar10").config.labels
    assert page.answered()["verdict"] in labels
    page.one("#ask-clear").click()
    junk = tmp_path / "junk.png"
    junk.write_bytes(b"\x89PNG\r\n" + bytes(1000))
    page.one("#file").send_keys(str(junk))
    page.until(lambda: "no image that this browser can read" in page.text("#ask-input"), "junk is taken")
    drop = """
        const canvas = new OffscreenCanvas(64, 48);
        canvas.getContext("2d").fillRect(0, 0, 30, 30);
        canvas.convertToBlob().then((blob) => {
          const data = new DataTransfer();
          data.items.add(new File([blob], "dropped.png", {type: "image/png"}));
          document.querySelector(".drop").dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true}));
        });
    """
    page.driver.execute_script(drop)
    assert page.answered()["verdict"] in labels
    assert page.refusals() == []


def test_it_follows_the_theme(page: Page) -> None:
    """Of the system, unless told otherwise; text stands out in both."""

    def colours() -> tuple[float, float]:
        """Lightness of ground and text."""
        script = "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]"
        ground, text = (sum(map(int, colour[4:-1].split(","))) / 765 for colour in page.driver.execute_script(script))
        return ground, text

    prefer(page.driver, "light")
    assert colours()[0] > 0.9
    prefer(page.driver, "dark")
    ground, text = colours()
    assert ground < 0.1
    assert text > 0.8
    page.one("#theme").click()
    assert page.text("#theme") == "Theme: light"
    assert colours()[0] > 0.9
    page.driver.refresh()
    assert page.text("#theme") == "Theme: light"  # remembered
    page.one("#theme").click()
    page.one("#theme").click()
    assert page.text("#theme") == "Theme: auto"


def test_it_is_usable_without_a_pointer(page: Page) -> None:
    """Everything that can be used is reached by the tab key; the arrow keys look back in the charts."""
    from selenium.webdriver.common.keys import Keys  # noqa: PLC0415  (as above)

    page.until(lambda: page.text("#headroom .value") == "100 %", "no headroom")
    reached: list[str] = []
    for _ in range(30):
        page.press(Keys.TAB)
        reached.append(page.focused())
    assert reached[0] == "skip"
    for wanted in ("digits", "intents", "cifar10", "theme", "pad", "slo", "ask-send", "ask-clear"):
        assert wanted in reached, reached
    assert len(set(reached)) > 10
    page.driver.execute_script("document.querySelector('#headroom svg').focus()")
    page.press(Keys.ARROW_LEFT)
    assert page.all("#requests .cursor"), "the cursor is shared"
    page.press(Keys.ESCAPE)
    assert not page.all("#requests .cursor")


def test_packed_subnets_are_marked_in_the_front(driver: "Chrome", tmp_path: Path) -> None:
    """From not packed to packing to resident, with their bytes and their part of the answers."""
    with started(tmp_path, "--engine", "packed", "--engine-memory", "50MB") as server:
        page = Page(driver, server.url).live()
        page.until(lambda: len(page.all("#packed .not-packed")) == 6, "the front is not shown")
        assert (page.text("#packed-size"), page.text("#packed-share")) == ("0 B of 50.0 MB", NOTHING)
        infer(server, 1000.0)
        page.until(lambda: page.all("#packed .packing"), "packing is not shown")
        page.until(lambda: page.all("#packed .resident"), "nothing becomes resident")
        assert page.one("#packed-bar").get_attribute("aria-label").endswith("s0")
        infer(server, 1000.0)
        page.choose("intents")
        page.until(lambda: page.text("#packed-size").startswith("0 B"), "it is not of the model that is chosen")
        assert "are other models'" in page.text("#packed-size-note")
        assert page.refusals() == []


def test_it_survives_a_restart(driver: "Chrome", tmp_path: Path) -> None:
    """It says that the server is away, and goes on with the next one; the form works and keeps what is in it."""
    with started(tmp_path) as server:
        page = Page(driver, server.url).live()
        page.driver.execute_script("document.querySelector('.pad').focus()")
        page.press("3")
        assert page.answered()["verdict"] in DIGITS
        port = server.port
    page.until(lambda: page.text("#status") == "Reconnecting", "the end is not noticed")
    (tmp_path / "ready.json").unlink()
    with started(tmp_path, "--http-port", str(port)):
        page.live()
        page.driver.execute_script("document.getElementById('answer').replaceChildren()")
        page.one("#ask-send").click()
        assert page.answered()["verdict"] in DIGITS
        page.until(lambda: page.text("#headroom .value") == "100 %", "nothing is told")
        assert [entry for entry in page.refusals() if "ERR_CONNECTION" not in entry] == []


def test_with_tokens_it_asks_for_one(driver: "Chrome", tmp_path: Path) -> None:
    """Until it has one that the server accepts; the tab remembers it."""
    tokens = tmp_path / "tokens"
    tokens.write_text(TOKEN)
    tokens.chmod(0o600)
    with started(tmp_path, settings=f'[server]\ntokens = "{tokens}"') as server:
        page = Page(driver, server.url)

        def enter(token: str) -> None:
            page.until(lambda: page.all("#token[open]"), "no token is asked for")
            page.one("#token input").send_keys(token)
            page.one("#token button").click()

        enter("wrong-" + TOKEN)
        page.until(lambda: "does not accept" in page.text("#token .wrong"), "a wrong token is accepted")
        enter(TOKEN)
        page.live()
        page.driver.refresh()
        page.live()
        assert not page.all("#token[open]")
        assert page.refusals() == []
