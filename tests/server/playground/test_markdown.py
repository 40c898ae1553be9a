"""Markdown as elements."""

from __future__ import annotations

import threading

from tests.server.playground.actions import OpenPage, ask, exchange, wait_until_idle
from tests.server.playground.fake_api import FakeApi
from tests.server.playground.test_policy import HOSTILE

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


def test_markdown(api: FakeApi, open_page: OpenPage) -> None:
    page = open_page()
    shown = {source: exchange(api, page, source) for source in MARKDOWN}
    assert shown == MARKDOWN


def test_markdown_streamed_is_as_whole(api: FakeApi, open_page: OpenPage) -> None:
    page, source = open_page(), "\n\n".join([*MARKDOWN, HOSTILE])
    whole = exchange(api, page, source)
    pieces = [source[start : start + 7] for start in range(0, len(source), 7)]
    api.will_stream(*pieces)
    ask(page, "Again, slowly.")
    wait_until_idle(page)
    assert page.evaluate("[...document.querySelectorAll('.assistant .text')].at(-1).innerHTML") == whole


def test_markdown_that_turns_out_to_be_one_block(api: FakeApi, open_page: OpenPage) -> None:
    page, go_on = open_page(), threading.Event()
    api.will_stream("- a\n\n-", go_on, " b")
    ask(page, "List.")
    page.wait_for("document.querySelector('.assistant .text').innerHTML === '<ul><li>a</li></ul><p>-</p>'")
    go_on.set()
    wait_until_idle(page)
    assert page.evaluate("document.querySelector('.assistant .text').innerHTML") == "<ul><li>a</li><li>b</li></ul>"


def test_markdown_that_is_meant_to_take_forever(api: FakeApi, open_page: OpenPage) -> None:
    page = open_page()
    for text in ("**a ", "[", "``a", "`` a ` ", "> ", "|", " ", "- ", "_", "~~a", "[a](", "https://a."):
        exchange(api, page, text * (50_000 // len(text)) + "x")
    assert page.text(".error") == ""
