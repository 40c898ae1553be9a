"""Settings, keyboard, clipboard, the picture of the cache, small windows and colours."""

from __future__ import annotations

import json
import re

import pytest

from tests.server.playground.actions import OpenPage, ask, exchange, last_request, wait_until_idle
from tests.server.playground.fake_api import FakeApi, status


def test_settings_reach_the_request(api: FakeApi, open_page: OpenPage) -> None:
    page = open_page()
    page.evaluate("document.querySelector('#model').value = 'large'")
    given = {
        "system": "Be brief.",
        "temperature": "0.7",
        "top_p": "0.9",
        "top_k": "40",
        "max_tokens": "12",
        "seed": "0",
    }
    for name, text in given.items():
        page.click(f"[name={name}]")
        page.type(text)
    exchange(api, page, "Hi.", "Hello.")
    request = last_request(api)
    assert request["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello."},
    ]
    numbers = {"temperature": 0.7, "top_p": 0.9, "top_k": 40, "max_tokens": 12, "seed": 0}
    assert {name: request[name] for name in numbers} == numbers
    assert request["model"] == "large"
    page.evaluate("window.isOld = true")
    page.send("Page.reload")
    page.wait_for("!window.isOld && document.querySelectorAll('option').length")
    assert page.evaluate("document.querySelector('[name=seed]').value") == "0"
    page.click("[type=reset]")
    page.wait_for("!sessionStorage.getItem('options').includes('0.7')")
    exchange(api, page, "Hi.", "Hello.")
    assert not set(numbers) & set(last_request(api))


def test_keyboard(api: FakeApi, open_page: OpenPage) -> None:
    page = open_page()
    assert page.evaluate("document.activeElement.id") == "prompt"
    page.press("Enter")
    page.type("one")
    page.press("Enter", shift=True)
    page.type("two")
    assert page.evaluate("document.querySelector('#prompt').value") == "one\ntwo"
    assert api.requests == [], "an empty message was sent"
    api.will_stream("Read.")
    page.press("Enter")
    wait_until_idle(page)
    assert page.text(".user") == "one\ntwo"
    visited = []
    for _ in range(8):
        page.press("Tab")
        visited.append(page.evaluate("document.activeElement.id || document.activeElement.innerText"))
        outline = page.evaluate("getComputedStyle(document.activeElement).outline")
        assert "solid 2px" in outline, f"no focus to be seen on {visited[-1]}"
    assert visited[:3] == ["send", "KV cache", "Settings"]
    page.evaluate("document.querySelector('#send').focus()")
    page.evaluate("document.querySelector('#prompt').value = 'by the button'")
    api.will_stream("Read.")
    page.press(" ")
    wait_until_idle(page)
    assert page.text(".user") == "one\ntwo\nby the button"


def test_copying(api: FakeApi, open_page: OpenPage) -> None:
    page = open_page()
    page.allow("clipboardReadWrite", "clipboardSanitizedWrite")
    exchange(api, page, "*Code*:\n```\na < b\n```")
    page.click(".code button")
    page.wait_for("document.querySelector('.code button').innerText === 'Copied'")
    assert page.evaluate("navigator.clipboard.readText()") == "a < b"
    page.click(".foot button")
    page.wait_for("document.querySelector('.foot button').innerText === 'Copied'")
    assert page.evaluate("navigator.clipboard.readText()") == "*Code*:\n```\na < b\n```"


def test_cache_picture(api: FakeApi, open_page: OpenPage) -> None:
    api.status = status((64, 256), (512, 1024), running=2, waiting=1, hits=1500)
    page = open_page()
    assert page.text("#counts dd").split("\n") == ["2", "1", "31.3", "1.5K of 2K", "26.5 of 189", "1.47"]
    assert page.text("#rows span").split("\n") == ["Row 0: 64 of 256 tokens", "Row 1: 512 of 1024 tokens"]
    widths = "['.bar', '.fill'].map((name) => [...document.querySelectorAll(name)].map((bar) => bar.style.width))"
    assert page.evaluate(widths) == [["25%", "100%"], ["25%", "50%"]]
    api.status = status((128, 256))
    page.wait_for("document.querySelectorAll('#rows li').length === 1")
    assert page.evaluate(widths) == [["100%"], ["50%"]]
    api.status = status()
    page.wait_for("document.querySelectorAll('#rows li').length === 0")


def test_several_replicas(api: FakeApi, open_page: OpenPage) -> None:
    page = open_page()
    assert page.evaluate("document.querySelector('#replicas').hidden")
    replica = {"status": "ready", "running": 1, "waiting": 0, "tokens_per_second": 2.5}
    api.status = status() | {"replicas": [{"id": name, "node": "n", **replica} for name in ("a", "b")]}
    page.wait_for("document.querySelectorAll('#replicas li').length === 2")
    told = "Replica a on n: ready, 1 running, 0 waiting, 2.5 tokens per second"
    assert page.text("#replicas li").split("\n")[0] == told


def test_a_server_that_loads_its_models(api: FakeApi, open_page: OpenPage) -> None:
    api.models = {"tiny": "loading", "large": "failed"}
    api.status = status(condition="loading")
    page = open_page()
    page.wait_for("document.querySelector('#condition').innerText === 'The server is loading.'")
    assert page.evaluate("[...document.querySelectorAll('option')].map((node) => [node.text, node.disabled])") == [
        ["tiny (loading)", False],
        ["large (failed)", True],
    ]
    api.models["tiny"] = "ready"
    api.status = status()
    page.wait_for("document.querySelector('option').text === 'tiny'")
    page.wait_for("document.querySelector('#condition').hidden")


def test_phone(api: FakeApi, open_page: OpenPage) -> None:
    api.models["a-model-with-a-longer-name"] = "ready"
    page = open_page(width=360, height=640)
    wide = "W" * 300
    exchange(api, page, f"{wide}\n\n```\n{wide}\n```\n\n|{'a|' * 30}\n|{'-|' * 30}\n", wide)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate("document.querySelector('#log').scrollWidth <= document.querySelector('#log').clientWidth")
    heights = page.evaluate("[...document.querySelectorAll('h1, #new')].map((node) => node.offsetHeight)")
    assert max(heights) < 45, "words in the header are broken over lines"
    bottom, height = page.evaluate("[document.querySelector('#prompt').getBoundingClientRect().bottom, innerHeight]")
    assert 0 < bottom <= height
    for name in ("cache", "settings"):
        assert not page.evaluate(f"document.querySelector('#{name}').open")
        page.click(f"#{name} summary")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    sizes = page.evaluate(
        "[...document.querySelectorAll('input, textarea, select')].map((node) => getComputedStyle(node).fontSize)"
    )
    assert set(sizes) == {"16px"}, "phones zoom in on fields with small text"


def luminance(colour: str) -> float:
    """Of `rgb(r, g, b)`, as WCAG 2.2 defines it."""
    channels = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_follow_the_system_and_can_be_read(api: FakeApi, open_page: OpenPage, scheme: str) -> None:
    page = open_page(scheme=scheme)
    exchange(api, page, "A [link](https://example.org) and `code`.\n\n> quote")
    api.will_refuse(400, "no")
    ask(page, "Fail.")
    page.wait_for("document.querySelector('.error')")
    names = ["body", ".user .text", ".foot", ".text a", ".text code", "blockquote", ".error", "#send"]
    names += ["#counts dt", "label:has(input)", "#condition", "select"]
    pairs = page.evaluate(
        json.dumps(names)
        + """.map((name) => {
          const node = document.querySelector(name);
          let behind = node;
          while (getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
          return [name, getComputedStyle(node).color, getComputedStyle(behind).backgroundColor];
        })"""
    )
    for name, text, behind in pairs:
        bright, dim = sorted((luminance(text), luminance(behind)), reverse=True)
        assert (bright + 0.05) / (dim + 0.05) >= 4.5, f"{name}: {text} on {behind}"
    assert (luminance(pairs[0][2]) < 0.1) == (scheme == "dark")
