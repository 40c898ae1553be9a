"""A browser, what it talks to, and pages in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.server.playground import chromium
from tests.server.playground.actions import OpenPage, complaints
from tests.server.playground.chromium import Chromium, Page
from tests.server.playground.fake_api import FakeApi


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    yield from chromium.started(tmp_path_factory.mktemp("profile"))


@pytest.fixture
def api() -> Iterator[FakeApi]:
    api = FakeApi()
    yield api
    api.left.set()
    api.close()


@pytest.fixture
def open_page(browser: Chromium, api: FakeApi) -> Iterator[OpenPage]:
    """Opens the playground; at the end, no page may have complained about anything."""
    pages: list[Page] = []

    def open_page(**options: object) -> Page:
        page = browser.new_page(api.url, **options)  # type: ignore[arg-type]
        pages.append(page)
        page.wait_for("document.querySelectorAll('#counts dd').length && document.querySelectorAll('option').length")
        return page

    yield open_page
    for page in pages:
        page.evaluate("0")  # whatever it had to say has arrived before the answer
        assert not page.dialogs
        assert complaints(page) == []
        page.close()
