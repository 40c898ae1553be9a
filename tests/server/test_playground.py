"""The page at `/` in a real browser, against a server that says what the tests tell it to."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.server import chromium
from tests.server.chromium import Chromium, Page
from tests.server.fake_api import PAGE, FakeApi, event, status

needs_chromium = pytest.mark.skipif(
    not chromium.find(), reason=f"no browser here: none of {', '.join(chromium.NAMES)} is on the path"
)
OpenPage = Callable[..., Page]
REFUSALS_ARE_LOGGED = "Failed to load resource"
"""Chromium's own line for every answer of 400 and above: no fault of the page."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    program = chromium.find()
    assert program
    browser = Chromium(program, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


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
        assert [text for text in page.complaints if REFUSALS_ARE_LOGGED not in text] == []
        page.close()


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


def inline_part(name: str) -> bytes:
    found = re.search(rf"<{name}[^>]*>(.*)</{name}>", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    return found[1].encode()


def hash_of(name: str) -> str:
    return base64.b64encode(hashlib.sha256(inline_part(name)).digest()).decode()


@pytest.mark.parametrize("name", ["script", "style"])
def test_policy_allows_this_very_code(name: str) -> None:
    expected = f"{name}-src 'sha256-{hash_of(name)}';"
    assert expected in PAGE.read_text(encoding="utf-8"), "write it with: python -m tests.server.test_playground"


def test_page_has_no_outside_asset_and_no_way_to_make_html() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", page)
    ways = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|setHTML|eval\(|Function\(|url\("
    assert not re.findall(ways, page)


@needs_chromium
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


@needs_chromium
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


@needs_chromium
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_events_that_arrive_in_bits(api: FakeApi, open_page: OpenPage, line_end: str) -> None:
    page = open_page()
    text = f": comment\n\nevent: x\ndata: {json.dumps(event(content='Zoë'), ensure_ascii=False)}\n\n"
    api.will_stream(*(bytes([each]) for each in text.replace("\n", line_end).encode()))
    ask(page, "Stutter.")
    wait_until_idle(page)
    assert page.text(".assistant .text") == "Zoë"


@needs_chromium
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


@needs_chromium
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


@needs_chromium
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


@needs_chromium
def test_a_server_that_is_gone(api: FakeApi, open_page: OpenPage) -> None:
    page = open_page()
    api.close()
    ask(page, "Are you there?")
    page.wait_for("document.querySelector('.error')?.innerText.includes('cannot be reached')")
    page.wait_for("document.querySelector('#condition').innerText.includes('cannot be reached')")


@needs_chromium
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


HOSTILE = """<img src=x onerror="alert(1)"> <script>alert(2)</script>

<iframe srcdoc="<script>parent.alert(3)</script>"></iframe>

[one](javascript:alert(4)) [two](data:text/html,<script>alert(5)</script>) [three](JaVaScRiPt:alert(6))
[four](<java\tscript:alert(7)>) [five](vbscript:x) [six](/v1/models) [seven](https://) ![eight](javascript:alert(8))

```html"onmouseover="alert(9)
</code></pre><img src=x onerror=alert(10)>
```

| <b>a</b> | [b](javascript:alert(11)) |
|---|---|
| <img src=x onerror=alert(12)> | `<img src=x>` |

# <svg onload=alert(13)>
[good](https://example.org/a_(b)?c=1&d=2) and https://example.org/bare."""


@needs_chromium
def test_hostile_messages_stay_text(api: FakeApi, open_page: OpenPage) -> None:
    page = open_page()
    exchange(api, page, HOSTILE, HOSTILE)
    tags = page.evaluate("[...new Set([...document.querySelectorAll('#log .text *')].map((node) => node.tagName))]")
    assert set(tags) <= {"P", "A", "DIV", "PRE", "CODE", "BUTTON", "TABLE", "THEAD", "TBODY", "TR", "TH", "TD", "H1"}
    links = page.evaluate("[...document.querySelectorAll('#log a')].map((link) => [link.href, link.rel, link.target])")
    proper = ["noopener noreferrer", "_blank"]
    assert links == [["https://example.org/a_(b)?c=1&d=2", *proper], ["https://example.org/bare", *proper]]
    assert page.evaluate("document.querySelector('.user .text').textContent") == HOSTILE
    shown = page.evaluate("document.querySelector('.assistant .text').textContent")
    for text in ('<img src=x onerror="alert(1)">', "[one](javascript:alert(4))", "<svg onload=alert(13)>"):
        assert text in shown
    names = page.evaluate(
        "[...document.querySelectorAll('#log .text *')].flatMap((node) => node.getAttributeNames())"
        ".filter((name) => !['href', 'rel', 'target', 'class', 'type', 'tabindex'].includes(name))"
    )
    assert names == []


@needs_chromium
def test_policy_stops_what_the_page_does_not(api: FakeApi, open_page: OpenPage) -> None:
    page = open_page()
    page.evaluate(
        """(() => {
          document.body.append(Object.assign(document.createElement("script"), {textContent: "window.ran = 1"}));
          document.body.insertAdjacentHTML("beforeend", "<img src=x onerror='window.ran = 2'>");
        })()"""
    )
    page.evaluate("fetch('https://example.org/').catch(() => {})")
    assert page.evaluate("window.ran ?? null") is None
    assert len([text for text in page.complaints if "Content Security Policy" in text]) >= 3
    page.complaints.clear()


MARKDOWN = {
    "one\ntwo  \nthree": "<p>one\ntwo<br>three</p>",
    "# One\n\n### `three`": "<h1>One</h1><h3><code>three</code></h3>",
    "*a* _b_ **c** __d__ ***e*** ~~f~~": "<p><em>a</em> <em>b</em> <strong>c</strong> <strong>d</strong> "
    "<strong><em>e</em></strong> <s>f</s></p>",
    "snake_case_name, 2 * 3 * 4, \\*not\\*": "<p>snake_case_name, 2 * 3 * 4, *not*</p>",
    "`` a`b `` and `c`": "<p><code>a`b</code> and <code>c</code></p>",
    "[**b**](http://a.example)": '<p><a href="http://a.example" target="_blank" rel="noopener noreferrer">'
    "<strong>b</strong></a></p>",
    "- a\n- b\n  - c\n\n  d\n- e\n\nafter": "<ul><li>a</li><li>b<ul><li>c</li></ul><p>d</p></li><li>e</li></ul>"
    "<p>after</p>",
    "3. a\n4. b": '<ol start="3"><li>a</li><li>b</li></ol>',
    "> q\n> > r\n\n---": "<blockquote><p>q</p><blockquote><p>r</p></blockquote></blockquote><hr>",
    "text\n- item\ntext": "<p>text</p><ul><li>item\ntext</li></ul>",
    "| a | b |\n|:--|--:|\n| 1 | *2* |\n| 3 |": '<div class="wide"><table><thead><tr><th>a</th><th>b</th></tr></thead>'
    "<tbody><tr><td>1</td><td><em>2</em></td></tr><tr><td>3</td></tr></tbody></table></div>",
    "```py\na  = '*b*'\n\n# c\n```\nd": '<div class="code"><pre tabindex="0"><code>a  = \'*b*\'\n\n# c</code></pre>'
    '<button class="quiet" type="button">Copy</button></div><p>d</p>',
    "~~~\nnever closed": '<div class="code"><pre tabindex="0"><code>never closed</code></pre>'
    '<button class="quiet" type="button">Copy</button></div>',
}


@needs_chromium
def test_markdown(api: FakeApi, open_page: OpenPage) -> None:
    page = open_page()
    shown = {source: exchange(api, page, source) for source in MARKDOWN}
    assert shown == MARKDOWN


@needs_chromium
def test_markdown_streamed_is_as_whole(api: FakeApi, open_page: OpenPage) -> None:
    page, source = open_page(), "\n\n".join([*MARKDOWN, HOSTILE])
    whole = exchange(api, page, source)
    pieces = [source[start : start + 7] for start in range(0, len(source), 7)]
    api.will_stream(*pieces)
    ask(page, "Again, slowly.")
    wait_until_idle(page)
    assert page.evaluate("[...document.querySelectorAll('.assistant .text')].at(-1).innerHTML") == whole


@needs_chromium
def test_markdown_that_turns_out_to_be_one_block(api: FakeApi, open_page: OpenPage) -> None:
    page, go_on = open_page(), threading.Event()
    api.will_stream("- a\n\n-", go_on, " b")
    ask(page, "List.")
    page.wait_for("document.querySelector('.assistant .text').innerHTML === '<ul><li>a</li></ul><p>-</p>'")
    go_on.set()
    wait_until_idle(page)
    assert page.evaluate("document.querySelector('.assistant .text').innerHTML") == "<ul><li>a</li><li>b</li></ul>"


@needs_chromium
def test_markdown_that_is_meant_to_take_forever(api: FakeApi, open_page: OpenPage) -> None:
    page = open_page()
    for text in ("**a ", "[", "``a", "`` a ` ", "> ", "|", " ", "- ", "_", "~~a", "[a](", "https://a."):
        exchange(api, page, text * (50_000 // len(text)) + "x")
    assert page.text(".error") == ""


@needs_chromium
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


@needs_chromium
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


@needs_chromium
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


@needs_chromium
def test_cache_picture(api: FakeApi, open_page: OpenPage) -> None:
    api.status = status((64, 256), (512, 1024), running=2, waiting=1, hits=1500)
    page = open_page()
    assert page.text("#counts dd").split("\n") == ["2", "1", "31.3", "1.5K of 2K"]
    assert page.text("#rows span").split("\n") == ["Row 0: 64 of 256 tokens", "Row 1: 512 of 1024 tokens"]
    widths = "['.bar', '.fill'].map((name) => [...document.querySelectorAll(name)].map((bar) => bar.style.width))"
    assert page.evaluate(widths) == [["25%", "100%"], ["25%", "50%"]]
    api.status = status((128, 256))
    page.wait_for("document.querySelectorAll('#rows li').length === 1")
    assert page.evaluate(widths) == [["100%"], ["50%"]]
    api.status = status()
    page.wait_for("document.querySelectorAll('#rows li').length === 0")


@needs_chromium
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


@needs_chromium
def test_phone(api: FakeApi, open_page: OpenPage) -> None:
    page = open_page(width=360, height=640)
    wide = "W" * 300
    exchange(api, page, f"{wide}\n\n```\n{wide}\n```\n\n|{'a|' * 30}\n|{'-|' * 30}\n", wide)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate("document.querySelector('#log').scrollWidth <= document.querySelector('#log').clientWidth")
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


@needs_chromium
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
    assert server.wait(chromium.PATIENCE) == 0


def wait_until_answers(url: str) -> None:
    deadline = time.monotonic() + chromium.PATIENCE
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), urllib.request.urlopen(url):
            return
        time.sleep(0.05)
    raise TimeoutError(url)


@needs_chromium
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
    assert [text for text in page.complaints if REFUSALS_ARE_LOGGED not in text] == []
    page.close()


def write_policy() -> None:
    """Put the right hashes into the page, after it was edited."""
    text = PAGE.read_text(encoding="utf-8")
    for name in ("script", "style"):
        text = re.sub(rf"{name}-src '[^']*'", f"{name}-src 'sha256-{hash_of(name)}'", text, count=1)
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_policy()
