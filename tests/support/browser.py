"""A headless Chromium to test HTML pages in."""

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

EXECUTABLES = {
    "browser": ("chromium", "chromium-browser", "google-chrome"),
    "driver": ("chromedriver", "chromium-driver"),
}


def why_unavailable() -> str | None:
    """Return why there is no browser to test in, or None if there is one."""
    for name, executables in EXECUTABLES.items():
        if not any(map(shutil.which, executables)):
            choices = " or ".join(executables)
            return f"no {name} is installed ({choices}); on Debian: apt-get install chromium chromium-driver"
    return None


class Browser:
    """A browser window.

    Args:
        profile: an empty folder for the browser's profile.
    """

    def __init__(self, profile: Path) -> None:
        browser, driver = (next(filter(None, map(shutil.which, names))) for names in EXECUTABLES.values())
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
        """Open a file or a URL in a window of the given size. ``dark`` is the preferred color scheme."""
        self.chrome.get("about:blank")  # ends the requests of the previous page
        self.resize(width, height, dark=dark)
        self.chrome.get_log("browser")
        self.chrome.get_log("performance")
        self.chrome.get(page if isinstance(page, str) else page.as_uri())
        # The driver may return before a long page is loaded.
        WebDriverWait(self.chrome, 60).until(lambda _: self.run("return document.readyState") == "complete")

    def resize(self, width: int, height: int, *, dark: bool = False) -> None:
        """Set the size of the window and the preferred color scheme. Narrow windows emulate a phone."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def run(self, script: str, *arguments: object) -> Any:
        """Run a script and return its result."""
        return self.chrome.execute_script(script, *arguments)

    def wait_for_frames(self) -> None:
        """Wait until the page has handled pending events and drawn two frames."""
        wait = "setTimeout(() => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done))))"
        self.run(f"return new Promise(done => {wait})")

    def visible_texts(self, selector: str) -> list[str]:
        """Return the texts of the visible elements that match a selector, in document order."""
        script = """return [...document.querySelectorAll(arguments[0])]
            .filter(element => element.checkVisibility()).map(element => element.textContent.trim())"""
        texts: list[str] = self.run(script, selector)
        return texts

    def console_messages(self) -> list[str]:
        """Return the errors, warnings, and policy violations since the page was opened."""
        return [entry["message"] for entry in self.chrome.get_log("browser")]

    def requests(self) -> list[str]:
        """Return the URLs requested since the page was opened, without the page itself and data URLs."""
        urls = []
        for entry in self.chrome.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                urls.append(message["params"]["request"]["url"])
        return [url for url in urls if not url.startswith("data:") and url != self.chrome.current_url]

    def screenshot(self) -> bytes:
        """Return a PNG file of the window."""
        data: str = self.chrome.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})["data"]
        return base64.b64decode(data)


@contextmanager
def open_browser(profile: Path) -> Iterator[Browser]:
    """Start a browser, and close it at the end of the block."""
    browser = Browser(profile)
    try:
        yield browser
    finally:
        browser.chrome.quit()
