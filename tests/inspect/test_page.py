"""The page: what it says, what it keeps out, and how it looks to a browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from genai.convert.fusions.report import FusionReport, Mismatch, Site
from genai.inspect import inspect
from genai.inspect.page import page
from tests.random_model import build_random_model
from tests.server.playground import chromium
from tests.server.playground.chromium import Chromium

HOSTILE = "<img src=x onerror=alert(1)>'\"&</title></style><script>alert(2)</script>\u202e\x00\n"
VOID = {"meta", "!doctype"}


class Parsed(HTMLParser):
    """Elements with their attributes, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def hostile_model(folder: Path) -> Path:
    nodes = [
        helper.make_node(
            f"Op{HOSTILE}", ["x", f"w{HOSTILE}"], [f"layers.0{HOSTILE}"], name=f"layers.0{HOSTILE}", domain=HOSTILE
        ),
        helper.make_node("Relu", [f"layers.0{HOSTILE}"], ["y"], name=f"layers.1{HOSTILE}"),
    ]
    value = helper.make_tensor_value_info
    inputs = [value("x", TensorProto.FLOAT, [1]), value(f"past.0{HOSTILE}", TensorProto.FLOAT, [1, 2, 3])]
    weight = helper.make_tensor(f"w{HOSTILE}", TensorProto.FLOAT, [500], [0.0] * 500)
    graph = helper.make_graph(nodes, "g", inputs, [value("y", TensorProto.FLOAT, [1])], [weight])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(HOSTILE, 1)]
    path = folder / "m<b>.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


FUSIONS = FusionReport(
    patterns=("RotaryEmbedding", "RMSNormalization"),
    sites=(
        *(Site(pattern="RotaryEmbedding", node=f"rotary.{number}") for number in range(3)),
        Site(
            pattern="RotaryEmbedding",
            node=HOSTILE,
            mismatch=Mismatch(node=HOSTILE, expected="Add", found="Sub"),
        ),
        *(Site(pattern="RMSNormalization", node=f"norm.{number}", is_present=number < 2) for number in range(5)),
    ),
)


def test_what_it_says(tmp_path: Path) -> None:
    build_random_model(tmp_path)
    parsed = Parsed(page(inspect(tmp_path), batch=4, length=300, fusions=FUSIONS))
    for text in ("Followed", "Layer 0 of 2", "TensorScatter", "key_cache.0", "same memory", "512 bytes a token"):
        assert text in parsed.text, text
    assert parsed.text.count("same memory") == 3, "one of each loop, and the legend"
    assert "4 rows" in parsed.text
    assert "300" in parsed.text
    assert "Why RotaryEmbedding cannot be fused everywhere" in parsed.text
    assert "RMSNormalization5 of 5230" in parsed.text, "sites, one operator already, can be fused, cannot"
    assert "Why RMSNormalization" not in parsed.text
    assert "Not looked for" not in parsed.text
    assert "Not looked for" in Parsed(page(inspect(tmp_path))).text


def test_nothing_comes_from_elsewhere(tmp_path: Path) -> None:
    build_random_model(tmp_path)
    html = page(inspect(tmp_path), fusions=FUSIONS)
    parsed = Parsed(html)
    assert {"script", "img", "link", "iframe", "object", "a"}.isdisjoint(parsed.tags)
    assert {"src", "href", "srcset", "action"}.isdisjoint(name for name, _ in parsed.attributes)
    assert not any(name.startswith("on") for name, _ in parsed.attributes)
    assert not re.search(r"url\(|@import|https?:", html)
    assert "default-src 'none'; style-src 'unsafe-inline'" in html


def test_names_of_a_model_stay_text(tmp_path: Path) -> None:
    html = page(inspect(hostile_model(tmp_path)), fusions=FUSIONS)
    parsed = Parsed(html)
    assert {"img", "script", "b"} & set(parsed.tags) <= {"b"}
    assert parsed.tags.count("b") == 1, "the picture's title alone"
    assert not any(name.startswith("on") for name, _ in parsed.attributes)
    assert "<img src=x" in parsed.text
    assert not {"\u202e", "\x00"} & set(html)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    yield from chromium.started(tmp_path_factory.mktemp("profile"))


@pytest.mark.parametrize("width", [390, 1200])
def test_in_a_browser(browser: Chromium, tmp_path: Path, width: int) -> None:
    build_random_model(tmp_path)
    files = {"built.html": tmp_path, "hostile.html": hostile_model(tmp_path)}
    for name, path in files.items():
        (tmp_path / name).write_text(page(inspect(path), fusions=FUSIONS), encoding="utf-8")
        shown = browser.new_page((tmp_path / name).as_uri(), width=width, scheme="dark")
        assert shown.evaluate("document.documentElement.scrollWidth") <= width, (
            "only pictures and tables scroll sideways"
        )
        outside = """[...document.querySelectorAll('svg .box')].filter((box) => {
          const text = box.querySelector('text').getBBox(), rect = box.querySelector('rect').getBBox();
          return text.x < rect.x || text.x + text.width > rect.x + rect.width;
        }).map((box) => box.textContent)"""
        assert shown.evaluate(outside) == []
        assert shown.evaluate("document.querySelectorAll('img, script').length") == 0
        assert shown.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(20, 23, 27)"
        assert (shown.complaints, shown.dialogs) == ([], [])
        shown.close()
