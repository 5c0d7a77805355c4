"""A headless Chromium that belongs to the operating system, driven by Selenium: for screenshots and tests of pages."""

import importlib.util
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

_BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome")
_DRIVER: Final = "chromedriver"

#: It talks to nobody but the server, and works as root, as in containers.
_FLAGS: Final = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--force-color-profile=srgb",
    "--hide-scrollbars",
)


def why_not() -> str | None:
    """Why there is no browser here; None if there is one."""
    if importlib.util.find_spec("selenium") is None:
        return "selenium is not installed: make test-page does that"
    if _browser() is None or shutil.which(_DRIVER) is None:
        return "no chromium and chromedriver: apt-get install chromium chromium-driver"
    return None


@contextmanager
def chromium(*, width: int = 1440, height: int = 1000, scale: float = 1.0) -> Iterator["Chrome"]:
    """A browser with an empty profile and a window of so many pixels; pictures have ``scale`` times as many."""
    from selenium import webdriver  # noqa: PLC0415  (only where there is a browser)

    options = webdriver.ChromeOptions()
    options.binary_location = _browser() or ""
    # The window's own frame takes some of the height.
    for flag in (*_FLAGS, f"--window-size={width},{height + 143}", f"--force-device-scale-factor={scale}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        options.add_argument(f"--user-data-dir={profile}")
        service = webdriver.ChromeService(executable_path=shutil.which(_DRIVER))
        driver = webdriver.Chrome(options=options, service=service)
        try:
            yield driver
        finally:
            driver.quit()


def prefer(driver: "Chrome", scheme: str) -> None:
    """Let pages know that the user likes it ``light`` or ``dark``."""
    feature = {"name": "prefers-color-scheme", "value": scheme}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def console(driver: "Chrome") -> list[dict[str, Any]]:
    """What has come to the console since the last look: ``level``, ``message`` and more of each entry."""
    return list(cast("Any", driver).get_log("browser"))  # which has no types


def _browser() -> str | None:
    return next(filter(None, map(shutil.which, _BROWSERS)), None)
