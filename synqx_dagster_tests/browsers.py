"""A real browser for the tests of pages."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


@contextmanager
def chromium(profile: Path) -> Iterator[Any]:
    """Debian's Chromium without a window. At a desk a missing browser skips, in CI it fails."""
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        message = "no chromium or chromedriver: run scripts/install-system-packages as root"
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(message)
        pytest.skip(message)
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-dev-shm-usage",
        "--window-size=1400,1000",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(argument)
    window = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        window.set_page_load_timeout(60)
        yield window
    finally:
        window.quit()


def wait_for_words(window: Any, words: tuple[str, ...], seconds: float = 90) -> str:
    """Wait until the page shows all words; returns its text."""
    deadline = time.monotonic() + seconds
    while True:
        text = str(window.execute_script("return document.body ? document.body.innerText : ''"))
        missing = [word for word in words if word not in text]
        if not missing:
            return text
        assert time.monotonic() < deadline, f"the page does not show {missing}; it shows:\n{text}"
        time.sleep(0.5)
