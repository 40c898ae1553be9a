"""What a new family takes: one file builds it, and what tells of families asks for the rest."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from docs.tables import models
from genai.build import architectures
from genai.build.package import build_package
from genai.errors import UnsupportedModelError
from tests.build import tiny
from tests.families.cases import INSIDE, MODEL_TYPES

NEWCOMER = '''"""Newcomer: Llama under another name.

More about it.
"""

from genai.build.architectures import llama


def decoder_spec(config):
    return llama.decoder_spec(config)
'''


def test_a_family_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    source = tiny.save(tiny.make_model("llama"), tmp_path / "checkpoint", model_type="newcomer")
    with pytest.raises(UnsupportedModelError, match="model type 'newcomer' is not supported"):
        build_package(source, tmp_path / "package", precision="f32")
    (tmp_path / "newcomer.py").write_text(NEWCOMER)
    monkeypatch.setattr(architectures, "__path__", [*architectures.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "genai.build.architectures.newcomer", raising=False)
    package = build_package(source, tmp_path / "package", precision="f32")
    expected = tiny.build(tiny.make_model("llama"), tmp_path / "llama")
    prompt = [5, 17, 200, 3]
    np.testing.assert_array_equal(tiny.Graph(package).add(prompt)[0], tiny.Graph(expected).add(prompt)[0])
    assert "| `newcomer` | Newcomer: Llama under another name. | – | 0 | – | – |\n" in models()
    assert set(architectures.supported()) - MODEL_TYPES.keys() - INSIDE == {"newcomer"}, (
        "which test_every_family_has_a_case sees"
    )


@pytest.mark.parametrize("model_type", architectures.supported())
def test_the_first_line_of_a_familys_file_tells_what_is_special(model_type: str) -> None:
    line = architectures.described(model_type)
    assert line.endswith("."), line
    assert 20 < len(line) < 117, line
