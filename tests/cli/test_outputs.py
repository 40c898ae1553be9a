"""What lies where a model is to be written stays, unless it is to be replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Genai

COMMANDS = {
    "build": ["build", "SOURCE", "--output", "OUT"],
    "convert": ["convert", "SOURCE", "OUT"],
    "export": ["export", "SOURCE", "OUT"],
    "plain": ["export", "SOURCE", "OUT", "--plain"],
}


@pytest.mark.parametrize("marker", ["genai.json", "export.json"])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_model_is_not_replaced_unasked(run_genai: Genai, tmp_path: Path, name: str, marker: str) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / marker).write_text("{}")
    arguments = [str({"SOURCE": tmp_path / "nowhere", "OUT": output}.get(part, part)) for part in COMMANDS[name]]
    done = run_genai(*arguments)
    assert done.code == 2
    assert "already: --force replaces it" in done.err
    assert "--force" not in run_genai(*arguments, "--force").err, "the next complaint is about the source"
    assert (output / marker).read_text() == "{}"
