"""Who reads which form of a model's weights, and who is left out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import compared
from benchmarks.compared import Compared, label_of
from benchmarks.environments import PeerUnavailableError
from benchmarks.protocol import LoadOptions

OPTIONS = LoadOptions(
    gguf="", hf_folder="", package="", work="none", precision="int4", threads=1, max_length=1, max_batch=1
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "My-model"
    path.mkdir()
    (path / "model.safetensors").write_bytes(bytes(500))
    (path / "config.json").write_text("")
    return path


def test_a_folder_is_read_as_it_is_and_is_no_gguf(folder: Path) -> None:
    model = Compared(str(folder), folder.parent / "kept")
    assert model.hf_folder() == folder
    assert model.disk_bytes("transformers", replace(OPTIONS, hf_folder=str(folder))) == 500
    with pytest.raises(PeerUnavailableError, match=r"reads GGUF files, and .*My-model is a folder"):
        model.gguf()


def test_a_file_is_written_as_a_folder_where_its_class_is_known(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = folder / "My model.Q4_0.gguf"
    file.write_bytes(bytes(70))
    model = Compared(str(file), folder / "kept")
    assert (model.gguf(), model.label) == (file, "My model.Q4_0")
    assert model.disk_bytes("xllamacpp", replace(OPTIONS, gguf=str(file))) == 70

    def write(gguf: Path, target: Path) -> Path:
        raise KeyError("mamba")

    monkeypatch.setattr(compared, "write_hf_folder", write)
    with pytest.raises(PeerUnavailableError, match="of 'mamba' none is written"):
        model.hf_folder()


def test_what_a_peer_has_built_is_what_it_reads(folder: Path) -> None:
    (folder / "int4").mkdir()
    (folder / "int4" / "model.onnx").write_bytes(bytes(30))
    options = replace(OPTIONS, hf_folder=str(folder), work=str(folder))
    assert Compared(str(folder), folder).disk_bytes("onnxruntime-genai", options) == 30


def test_labels_are_names_of_files() -> None:
    assert [label_of(name) for name in ("a/b.Q4_0.gguf", "org/name:Q8_0", "folder/", "smollm2")] == [
        "b.Q4_0", "name-Q8_0", "folder", "smollm2",
    ]  # fmt: skip
