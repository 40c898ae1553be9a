"""No text becomes code, and nothing comes from elsewhere: by the page's own doing, and by its policy."""

from __future__ import annotations

import re

import pytest

from tests.server.playground.actions import OpenPage, exchange
from tests.server.playground.fake_api import PAGE, FakeApi
from tests.server.playground.policy import hash_of


@pytest.mark.parametrize("name", ["script", "style"])
def test_policy_allows_this_very_code(name: str) -> None:
    expected = f"{name}-src 'sha256-{hash_of(name)}';"
    assert expected in PAGE.read_text(encoding="utf-8"), "write it with: python -m tests.server.playground.policy"


def test_page_has_no_outside_asset_and_no_way_to_make_html() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", page)
    ways = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|setHTML|eval\(|Function\(|url\("
    assert not re.findall(ways, page)


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
