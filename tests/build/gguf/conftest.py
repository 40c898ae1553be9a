"""Fixtures: architectures that only tests know."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from genai.build.gguf import tables

EXPERTS = """
from genai.build.gguf.tables.table import PLAIN, Architecture

ARCHITECTURES = {
    "experts": Architecture(
        model_type="experts",
        layer=PLAIN | {"ffn_gate_inp": "mlp.gate"},
        reads=frozenset({"expert_count"}),
        by_layer=frozenset({"attention.head_count_kv", "feed_forward_length"}),
        has_experts=True,
    )
}
"""


@pytest.fixture
def tables_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose modules belong to the tables of architectures too."""
    folder = tmp_path / "tables"
    folder.mkdir()
    monkeypatch.setattr(tables, "__path__", [*tables.__path__, str(folder)])
    tables.architectures.cache_clear()
    yield folder
    tables.architectures.cache_clear()
    for file in folder.glob("*.py"):
        sys.modules.pop(f"{tables.__name__}.{file.stem}", None)


@pytest.fixture
def experts_arch(tables_folder: Path) -> str:
    """An architecture whose files hold experts."""
    (tables_folder / "experts_of_tests.py").write_text(EXPERTS)
    return "experts"
