"""Checkpoints that bring code: it is not run, and nobody is asked whether it should be."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from genai.errors import UnsupportedModelError
from genai.export import export_plain
from tests.build import tiny


def test_configurations_that_transformers_cannot_follow(tmp_path: Path) -> None:
    """Whatever it raises is one line of ours."""
    (tmp_path / "config.json").write_text('{"model_type": "llama", "hidden_size": 0, "num_attention_heads": 0}')
    with pytest.raises(UnsupportedModelError, match="transformers cannot load") as caught:
        export_plain(tmp_path, tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_code_of_a_checkpoint_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tiny.save(tiny.make_model("llama"), tmp_path / "checkpoint")
    config = json.loads((source / "config.json").read_text())
    own = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    (source / "config.json").write_text(json.dumps(config | {"model_type": "own", "auto_map": own}))
    (source / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 9))
    with pytest.raises(UnsupportedModelError, match="transformers cannot load") as caught:
        export_plain(source, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()
    assert sys.stdin.read() == "y\n" * 9, "nobody was asked"
