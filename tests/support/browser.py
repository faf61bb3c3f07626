"""A page in a real browser: headless Chromium, as a person would have it before them."""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

PLACES = {
    "browser": ("chromium", "chromium-browser", "google-chrome"),
    "driver": ("chromedriver", "chromium-driver"),
}


def missing() -> str | None:
    """Why there is no browser here; None where there is one."""
    for what, names in PLACES.items():
        if not any(map(shutil.which, names)):
            return f"no {what} is installed ({' or '.join(names)}); on Debian: apt-get install chromium chromium-driver"
    return None


class Browser:
    """One window of it, which looks at one page at a time."""

    def __init__(self, profile: Path) -> None:
        browser, driver = (next(filter(None, map(shutil.which, names))) for names in PLACES.values())
        options = ChromeOptions()
        options.binary_location = browser
        for argument in (
            "--headless=new",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--no-first-run",
            "--force-color-profile=srgb",
            f"--user-data-dir={profile}",
        ):
            options.add_argument(argument)
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            options.add_argument("--no-sandbox")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.chrome = Chrome(options, Service(driver, log_output=os.devnull))

    def open(self, page: Path | str, width: int = 1280, height: int = 900, *, dark: bool = False) -> None:
        """Open a file or a URL in a window of that size, by somebody who likes it dark or not."""
        self.chrome.get("about:blank")  # whatever was there before is done asking
        self.size(width, height, dark=dark)
        self.chrome.get_log("browser")
        self.chrome.get_log("performance")
        self.chrome.get(page if isinstance(page, str) else page.as_uri())
        # The driver may come back from a long page before the last of it is there.
        WebDriverWait(self.chrome, 60).until(
            lambda chrome: chrome.execute_script("return document.readyState") == "complete"
        )

    def size(self, width: int, height: int, *, dark: bool = False) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def run(self, script: str, *arguments: object) -> Any:
        """What the script returns."""
        return self.chrome.execute_script(script, *arguments)

    def settle(self) -> None:
        """Wait until what the page was going to do at once is done and drawn."""
        wait = "setTimeout(() => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done))))"
        self.run(f"return new Promise(done => {wait})")

    def texts(self, selector: str) -> list[str]:
        """The texts of what is seen, in the page's order."""
        script = """return [...document.querySelectorAll(arguments[0])]
            .filter(element => element.checkVisibility()).map(element => element.textContent.trim())"""
        found: list[str] = self.run(script, selector)
        return found

    def complaints(self) -> list[str]:
        """What the console says since the page was opened: errors, warnings, breaches of its policy."""
        return [entry["message"] for entry in self.chrome.get_log("browser")]

    def requests(self) -> list[str]:
        """What the page asked for since it was opened, other than itself and what is inside it."""
        asked = []
        for entry in self.chrome.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                asked.append(message["params"]["request"]["url"])
        return [url for url in asked if not url.startswith("data:") and url != self.chrome.current_url]

    def screenshot(self, *, whole: bool = False) -> bytes:
        """PNG of the window, or of the whole page."""
        settings: dict[str, Any] = {"format": "png", "captureBeyondViewport": whole}
        if whole:
            size = self.chrome.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
            settings["clip"] = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        data: str = self.chrome.execute_cdp_cmd("Page.captureScreenshot", settings)["data"]
        return base64.b64decode(data)


@contextmanager
def opened(profile: Path) -> Iterator[Browser]:
    """A browser, gone at the end."""
    browser = Browser(profile)
    try:
        yield browser
    finally:
        browser.chrome.quit()
