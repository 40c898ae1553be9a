"""Conversations: how they stream, stop, fail and go on."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable

import pytest

from tests.server.playground import chromium
from tests.server.playground.actions import OpenPage, ask, exchange, last_request, wait_until_idle
from tests.server.playground.chromium import Chromium, Page
from tests.server.playground.fake_api import FakeApi, event


def test_conversation(api: FakeApi, open_page: OpenPage) -> None:
    page = open_page()
    html = exchange(api, page, "Paris, **of course**.", "Capital of France?")
    assert html == "<p>Paris, <strong>of course</strong>.</p>"
    assert page.text(".user") == "Capital of France?"
    foot = page.text(".assistant .foot span")
    assert foot == "3 tokens, 41.3 per second · first after 0.03 s · 16 of 20 prompt tokens from the cache"
    exchange(api, page, "Rome.", "And of Italy?")
    assert last_request(api) == {
        "model": "tiny",
        "stream": True,
        "stream_options": {"include_usage": True},
        "messages": [
            {"role": "user", "content": "Capital of France?"},
            {"role": "assistant", "content": "Paris, **of course**."},
            {"role": "user", "content": "And of Italy?"},
        ],
    }
    page.click("#new")
    assert page.text("article") == ""
    exchange(api, page, "Hello.", "Hi.")
    assert last_request(api)["messages"] == [{"role": "user", "content": "Hi."}]


def test_text_is_shown_as_it_comes(api: FakeApi, open_page: OpenPage) -> None:
    page, go_on = open_page(), threading.Event()
    api.will_stream("The first half, ", go_on, "the second half.")
    ask(page, "Speak slowly.")
    page.wait_for("document.querySelector('.assistant .text').innerText === 'The first half,'")
    assert page.evaluate("document.querySelector('.assistant').ariaBusy") == "true"
    assert page.evaluate("document.querySelector('#send').hidden")
    ask(page, "not while it speaks")
    go_on.set()
    wait_until_idle(page)
    assert page.text(".assistant .text") == "The first half, the second half."
    assert page.evaluate("document.querySelector('.assistant').ariaBusy") == "false"
    assert page.evaluate("document.querySelector('#prompt').value") == "not while it speaks"
    assert len(api.requests) == 1


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_events_that_arrive_in_bits(api: FakeApi, open_page: OpenPage, line_end: str) -> None:
    page = open_page()
    text = f": comment\n\nevent: x\ndata: {json.dumps(event(content='Zoë'), ensure_ascii=False)}\n\n"
    api.will_stream(*(bytes([each]) for each in text.replace("\n", line_end).encode()))
    ask(page, "Stutter.")
    wait_until_idle(page)
    assert page.text(".assistant .text") == "Zoë"


@pytest.mark.parametrize("stop", [lambda page: page.press("Escape"), lambda page: page.click("#stop")])
def test_stop(api: FakeApi, open_page: OpenPage, stop: Callable[[Page], None]) -> None:
    page = open_page()
    api.will_stream_forever("On and on")
    ask(page, "Never end.")
    page.wait_for("document.querySelector('.assistant .text').innerText === 'On and on'")
    stop(page)
    assert api.left.wait(chromium.PATIENCE), "the server was not told"
    wait_until_idle(page)
    assert "stopped" in page.text(".foot")
    exchange(api, page, "Yes.", "Did you stop?")
    assert last_request(api)["messages"][1] == {"role": "assistant", "content": "On and on"}  # type: ignore[index]


def test_new_chat_stops_the_answer_of_the_old_one(api: FakeApi, open_page: OpenPage) -> None:
    page = open_page()
    api.will_stream_forever("On and on")
    ask(page, "Never end.")
    page.wait_for("document.querySelector('.assistant .text').innerText === 'On and on'")
    page.click("#new")
    assert api.left.wait(chromium.PATIENCE)
    exchange(api, page, "Hello.", "Hi.")
    assert last_request(api)["messages"] == [{"role": "user", "content": "Hi."}]
    assert page.text(".assistant .text") == "Hello."


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda api: api.will_refuse(429, "queue full", Retry_After="7"), ["busy", "in 7 s", "queue full"]),
        (lambda api: api.will_refuse(503, "draining"), ["shutting down", "draining"]),
        (lambda api: api.will_refuse(400, "top_k=-1: must be at least 0"), ["refused (400)", "top_k=-1"]),
        (lambda api: api.will_stream("Well, ", {"error": {"message": "no memory"}}), ["broke off", "no memory"]),
        (lambda api: api.will_break_off("Well, "), ["ended before the answer did"]),
    ],
    ids=["429", "503", "400", "error event", "lost connection"],
)
def test_errors_are_told_and_can_be_tried_again(
    api: FakeApi, open_page: OpenPage, prepare: Callable[[FakeApi], None], words: list[str]
) -> None:
    page = open_page()
    prepare(api)
    ask(page, "Answer me.")
    page.wait_for("document.querySelector('.error')")
    told = page.text(".error")
    assert [word for word in words if word not in told] == []
    api.will_stream("Here I am.")
    page.click(".error button")
    wait_until_idle(page)
    assert page.text(".assistant .text") == "Here I am."
    assert page.text(".error") == ""
    assert last_request(api)["messages"] == [{"role": "user", "content": "Answer me."}]


def test_a_server_that_is_gone(api: FakeApi, open_page: OpenPage) -> None:
    page = open_page()
    api.close()
    ask(page, "Are you there?")
    page.wait_for("document.querySelector('.error')?.innerText.includes('cannot be reached')")
    page.wait_for("document.querySelector('#condition').innerText.includes('cannot be reached')")


def test_api_key(api: FakeApi, browser: Chromium) -> None:
    api.key = "sesame"
    page = browser.new_page(api.url)
    page.wait_for("document.activeElement.name === 'key'")
    ask(page, "Let me in.")
    page.wait_for("document.querySelector('.error')?.innerText.includes('API key')")
    page.wait_for("document.activeElement.name === 'key'")
    page.type("sesame")
    page.press("Tab")
    page.wait_for("document.querySelector('#model').value === 'tiny'")
    api.will_stream("Come in.")
    page.click(".error button")
    wait_until_idle(page)
    assert page.text(".assistant .text") == "Come in."
    assert api.requests[-1][1] == "Bearer sesame"
    lasting = "document.documentElement.outerHTML + document.cookie + JSON.stringify(localStorage)"
    assert "sesame" not in page.evaluate(lasting)
    page.close()
