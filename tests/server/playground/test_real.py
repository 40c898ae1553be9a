"""The page and the real server, with real weights."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.playground.actions import ask, complaints, wait_until_idle
from tests.server.playground.chromium import PATIENCE, Chromium


@pytest.fixture
def real_server(smollm2_auto: Path) -> Iterator[str]:
    """Where a server with real weights listens, as a process of its own."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "server", str(smollm2_auto), "--port", str(port), "--max-seq-len", "1024"]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}/"
    wait_until_answers(f"{url}health")
    yield url
    server.terminate()
    assert server.wait(PATIENCE) == 0


def wait_until_answers(url: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), urllib.request.urlopen(url):
            return
        time.sleep(0.05)
    raise TimeoutError(url)


@pytest.mark.slow
def test_real_model(browser: Chromium, real_server: str) -> None:
    page = browser.new_page(real_server)
    page.wait_for("document.querySelector('#condition').hidden && document.querySelector('option')")
    ask(page, "Write a list of fifty animals.")
    page.wait_for("document.querySelector('.assistant .text')?.innerText.length > 20")
    page.wait_for("document.querySelector('#rows li')")
    page.press("Escape")
    wait_until_idle(page)
    page.wait_for("!document.querySelector('#rows li')")
    page.click("[name=max_tokens]")
    page.type("8")
    ask(page, "And of plants.")
    wait_until_idle(page)
    foot = page.text(".assistant:last-child .foot")
    assert "8 tokens" in foot
    assert "cut off by a limit" in foot
    assert "prompt tokens from the cache" in foot
    assert page.text(".error") == ""
    assert complaints(page) == []
    page.close()
