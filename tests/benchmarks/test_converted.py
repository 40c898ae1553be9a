"""The benchmark of a converted folder: the folder is converted once, and one contestant gets the result."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks import compared, converted, side_by_side
from benchmarks.converted import CONVERTED, ENTRIES, ORIGINAL, ConvertedRun
from benchmarks.side_by_side import Settings


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every folder that was converted."""
    done: list[Path] = []

    class Report:
        def as_text(self) -> str:
            return "converted"

    def convert(folder: Path, package: Path) -> Report:
        done.append(folder)
        package.mkdir(parents=True, exist_ok=True)
        (package / "genai.json").write_text("{}")
        return Report()

    monkeypatch.setattr(converted, "convert", convert)
    return done


def test_a_folder_is_converted_when_it_is_newer(conversions: list[Path], tmp_path: Path) -> None:
    folder, package = tmp_path / "folder", tmp_path / "package"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"")
    for _ in range(2):
        assert converted.converted(folder, package) == package
    assert conversions == [folder]
    os.utime(folder / "model.onnx", (2e9, 2e9))
    converted.converted(folder, package)
    assert conversions == [folder, folder]


def test_one_contestant_gets_the_package(
    conversions: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(side_by_side, "ROOT", tmp_path)
    monkeypatch.setattr(compared.models, "checkpoint", lambda model: tmp_path / "model.gguf")
    monkeypatch.setattr(side_by_side.models, "package", lambda model, **options: tmp_path / "ours")
    monkeypatch.setattr(side_by_side, "english_tokens", lambda package: [1])
    monkeypatch.setattr(compared, "write_hf_folder", lambda gguf, folder: folder)
    settings = Settings(
        model="tiny", entries=ENTRIES, prefills=(), lengths=(9,), batches=(1,), rounds=1, steps=1, threads=1,
        pause=0.0, patience=1,
    )  # fmt: skip
    folder = tmp_path / ".envs" / "models" / "tiny" / "onnxruntime-genai" / "int4"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"")
    with ExitStack() as stack:
        run = ConvertedRun(settings, stack)
        options = {entry.name: run._options(entry) for entry in ENTRIES}
    assert ENTRIES[0] == ORIGINAL, "its worker builds the folder that the next one converts"
    assert conversions == [folder]
    assert Path(options[CONVERTED.name].package).parent.parent == folder.parent.parent
    assert options["ours-int4"].package == str(tmp_path / "ours")
