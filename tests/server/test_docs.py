"""`docs/server.md` names every setting, field, endpoint and error code."""

from __future__ import annotations

import re
from pathlib import Path

from genai.requests.chat import ChatRequest
from genai.requests.completions import CompletionRequest
from genai.requests.foreign import HARMLESS, REFUSED, RENAMED
from server.settings import Settings
from tests.server.fakes import FakeModel, app_with

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "server.md").read_text()


def test_settings_and_their_defaults() -> None:
    rows = [line for line in TEXT.splitlines() if line.startswith("| `")]
    for name, field in Settings.model_fields.items():
        row = next((row for row in rows if f"`{name}`" in row.split("|")[1]), None)
        assert row, f"{name} is not in the table of settings"
        if isinstance(field.default, int | float | str):
            assert str(field.default).removesuffix(".0") in row, name


def test_fields() -> None:
    for name in ChatRequest.model_fields.keys() | CompletionRequest.model_fields.keys():
        assert f"`{name}`" in TEXT, name


def test_what_is_ignored_and_refused() -> None:
    lists = TEXT[TEXT.index("### Ignored and refused") : TEXT.index("### Answers")]
    assert not {name for name in (*HARMLESS, *REFUSED, *RENAMED) if f"`{name}`" not in lists}


def test_endpoints() -> None:
    for path in app_with(FakeModel()).openapi()["paths"]:
        assert path.replace("{name}", "{id}") in TEXT, path


def test_error_codes() -> None:
    codes = set()
    for file in (ROOT / "server").rglob("*.py"):
        codes |= set(re.findall(r'code="([a-z_]+)"', file.read_text()))
    told = {"invalid_value", "missing_required_parameter", "unsupported_parameter", *codes}
    assert not {code for code in told if f"`{code}`" not in TEXT}
