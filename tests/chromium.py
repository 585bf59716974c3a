"""A real browser for tests: Chromium without a window, with a profile of its own."""

import base64
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException, TimeoutException
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

PATIENCE_S = 60
FLAGS = (
    "--headless",
    "--no-sandbox",  # it does not start as root with one
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


class Chromium:
    """A browser; pictures of what it shows go to `pictures`."""

    def __init__(self, profile: Path, pictures: Path) -> None:
        browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
        if not browser or not driver:
            pytest.skip("chromium and chromedriver are not installed (on Debian: apt install chromium chromium-driver)")
        options = Options()
        options.binary_location = browser
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        # With both paths given nothing is looked for elsewhere, and nothing downloaded.
        self.driver = webdriver.Chrome(options=options, service=Service(executable_path=driver))
        self._pictures = pictures
        pictures.mkdir(parents=True, exist_ok=True)

    def open(self, address: str, width: int = 1800, height: int = 1200) -> None:
        """Show the page in a window of this size."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.get("about:blank")  # MLflow's pages differ in what follows the #: they would not be loaded anew
        self.errors()
        self.driver.get(address)

    def text(self) -> str:
        """All text that is visible."""
        return self.driver.find_element(By.TAG_NAME, "body").text

    def until_shown(self, *texts: str) -> None:
        """Wait until all of them are visible."""
        missing = list(texts)

        def shown(_) -> bool:
            seen = self.text()
            missing[:] = [text for text in texts if text not in seen]
            return not missing

        try:
            self._wait(shown)
        except TimeoutException:
            pytest.fail(f"not shown: {missing}; shown is: {self.text()}")

    def until(self, script: str, wanted: str) -> None:
        """Wait until the script's result is true; `wanted` says for what."""
        try:
            self._wait(lambda driver: driver.execute_script(script))
        except TimeoutException:
            pytest.fail(f"{wanted}: not so; shown is: {self.text()}")

    def _wait(self, condition: Callable[[webdriver.Chrome], Any]) -> None:
        # What is read may go while it is read: the page redraws itself.
        WebDriverWait(self.driver, PATIENCE_S, ignored_exceptions=[StaleElementReferenceException]).until(condition)

    def errors(self) -> list[str]:
        """What the console has said of errors since it was asked last."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]

    def overflow(self) -> int:
        """By how many pixels the page is wider than its window."""
        wide = "const of = document.documentElement; return of.scrollWidth - of.clientWidth"
        return int(self.driver.execute_script(wide))

    def picture(self, name: str, whole: bool = False) -> None:
        """Keep what is seen, or the `whole` page, as a PNG."""
        asked: dict[str, Any] = {"captureBeyondViewport": whole}
        if whole:
            size = self.driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
            asked["clip"] = {**size, "scale": 1}
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", asked)
        (self._pictures / f"{name}.png").write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        self.driver.quit()
