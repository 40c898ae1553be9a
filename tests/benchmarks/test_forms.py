"""The table of forms, from runs that took no time."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import forms
from benchmarks.results import Cell, Contestant, Results
from benchmarks.side_by_side import Settings


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The forms that a fake llama.cpp has made; runs find the same of each."""
    names: list[str] = []

    def quantize(source: Path, target: Path, form: str) -> None:
        names.append(form)
        target.write_bytes(b"GGUF")

    def compare(settings: Settings) -> Results:
        assert Path(settings.model).read_bytes() == b"GGUF"
        return Results(
            model=settings.model,
            machine={},
            settings={},
            contestants=[
                Contestant(name="ours-auto", version="1", load_seconds=1, mean_kl=0.0012, disk_bytes=12 * 10**6),
                Contestant(name="llama.cpp-gguf", version="1", load_seconds=1, mean_kl=0.0034, disk_bytes=10**7),
            ],
            cells=[Cell(title="", work=1, rounds={"ours-auto": [[0.01]], "llama.cpp-gguf": [[0.02]]})],
            notes=["llama.cpp-newest-gguf is left out: cannot be installed"],
        )

    monkeypatch.setattr(forms, "ROOT", tmp_path)
    monkeypatch.setattr(forms, "quantize", quantize)
    monkeypatch.setattr(forms, "compare", compare)
    monkeypatch.setattr(forms.models, "checkpoint", lambda name: tmp_path / "m.gguf")
    return names


def test_each_form_is_a_line_and_is_made_once(made: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        forms.main(["m.gguf", "--forms", "Q4_K_M,IQ4_XS"])
    assert made == ["Q4_K_M", "IQ4_XS"]
    text = capsys.readouterr().out
    assert "| Q4_K_M | 10.0 | 12.0 | 1.20 | 0.0012 | 0.0034 |  | 10.0 | 20.0 |  |" in text
    assert "- IQ4_XS: llama.cpp-newest-gguf is left out: cannot be installed" in text


def test_an_unknown_form_is_refused(made: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        forms.main(["m.gguf", "--forms", "Q9"])
    assert "--forms 'Q9': must be of Q4_0, Q4_1" in capsys.readouterr().err
    assert not made
