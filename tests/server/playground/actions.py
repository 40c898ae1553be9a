"""What tests do in the playground, as a person would."""

from __future__ import annotations

from collections.abc import Callable

from tests.server.playground.chromium import Page
from tests.server.playground.fake_api import FakeApi

OpenPage = Callable[..., Page]
"""The fixture `open_page`: takes what `Chromium.new_page` does beside the address."""
_REFUSED = "Failed to load resource"
"""Chromium's own line for every answer of 400 and above: no fault of the page."""


def ask(page: Page, text: str) -> None:
    """Send a message as a person does."""
    page.click("#prompt")
    page.type(text)
    page.press("Enter")


def wait_until_idle(page: Page) -> None:
    page.wait_for("!document.querySelector('#send').hidden")


def exchange(api: FakeApi, page: Page, answer: str, question: str = "Go on.") -> str:
    """Ask, let the model answer, and return how its text is marked up."""
    api.will_stream(answer)
    ask(page, question)
    wait_until_idle(page)
    return str(page.evaluate("[...document.querySelectorAll('.assistant .text')].at(-1).innerHTML"))


def last_request(api: FakeApi) -> dict[str, object]:
    return api.requests[-1][0]


def complaints(page: Page) -> list[str]:
    """What the browser did not like about the page."""
    return [text for text in page.complaints if _REFUSED not in text]
