"""Weights outside of a graph: mapped by us and read where they lie, given back while and after they are packed."""

from __future__ import annotations

import mmap
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from genai.config import EngineConfig
from genai.errors import ModelError
from genai.runtime import ort
from genai.runtime.session import Session
from genai.runtime.weight_files import WeightFiles
from tests.runtime.test_mapped import resident_bytes

SIZE = 4 << 20
SIZES = {"rows": 64, "scores": SIZE // 4 // 64}
TABLE = np.arange(SIZE // 4, dtype=np.float32).reshape(-1, 64)
CONFIG = EngineConfig(num_threads=1, device="cpu")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what is resident")


def tied_model(folder: Path, location: str = "model.onnx.data") -> Path:
    """A table that is embedding and head, in a file of this name."""
    model = helper.make_model(
        helper.make_graph(
            [
                helper.make_node("Gather", ["table", "ids"], ["rows"]),
                helper.make_node("Gemm", ["rows", "table"], ["scores"], transB=1),
            ],
            "tied",
            [helper.make_tensor_value_info("ids", TensorProto.INT64, [1])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size]) for name, size in SIZES.items()],
            [onnx.numpy_helper.from_array(TABLE, "table")],
        ),
        opset_imports=[helper.make_opsetid("", 24)],
        ir_version=11,
    )
    (folder / location).parent.mkdir(exist_ok=True)
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location=location)
    return folder / "model.onnx"


def rows_of(session: Session) -> np.ndarray:
    return session.call({"ids": np.array([7])})["rows"]


@on_linux
def test_a_table_with_two_readers_is_not_resident_after_loading(tmp_path: Path) -> None:
    session = Session(tied_model(tmp_path), CONFIG)
    data = tmp_path / "model.onnx.data"
    assert resident_bytes(data) == 0
    found = session.call({"ids": np.array([7])})
    assert np.array_equal(found["rows"], TABLE[7:8])
    assert np.allclose(found["scores"], TABLE[7:8] @ TABLE.T)
    assert 0 < resident_bytes(data) < SIZE, "the row alone was read again"


@on_linux
def test_pages_are_given_back_while_they_are_read_and_at_the_end(tmp_path: Path) -> None:
    weights, data = WeightFiles.of(tied_model(tmp_path)), tmp_path / "model.onnx.data"
    (file,) = weights._files.values()
    with weights.given_back():
        assert sum(file[:: mmap.PAGESIZE]) >= 0
        time.sleep(0.2)
        assert resident_bytes(data) == 0
        assert sum(file[:: mmap.PAGESIZE]) >= 0
    assert resident_bytes(data) == 0
    assert file[:] == TABLE.tobytes()


@on_linux
def test_the_runtime_has_no_mapping_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mapped: list[int] = []
    load = ort.import_onnxruntime().InferenceSession

    def watched(*arguments: object, **options: object) -> object:
        session = load(*arguments, **options)
        mapped.append(Path("/proc/self/maps").read_text().count(str(tmp_path / "model.onnx.data")))
        return session

    monkeypatch.setattr(ort.import_onnxruntime(), "InferenceSession", watched)
    assert np.array_equal(rows_of(Session(tied_model(tmp_path), CONFIG)), TABLE[7:8])
    assert mapped == [1]


@pytest.mark.parametrize("location", ["model.onnx.data", "weights", "parts/model.data", "n" * 200])
def test_files_may_have_any_place_and_name(tmp_path: Path, location: str) -> None:
    assert np.array_equal(rows_of(Session(tied_model(tmp_path, location), CONFIG)), TABLE[7:8])


@pytest.mark.parametrize(
    ("location", "names"), [("weights", {"weights"}), ("parts/weights", set()), ("./weights", set())]
)
def test_what_lies_beside_the_graph_is_mapped_and_nothing_else(tmp_path: Path, location: str, names: set[str]) -> None:
    (tmp_path / "another").write_bytes(bytes(SIZE))
    assert set(WeightFiles.of(tied_model(tmp_path, location))._files) == names


def test_links_are_left_to_the_runtime(tmp_path: Path) -> None:
    model = tied_model(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    data = (tmp_path / "model.onnx.data").rename(tmp_path / "elsewhere" / "data")
    (tmp_path / "model.onnx.data").symlink_to(data)
    assert not WeightFiles.of(model)._files


@pytest.mark.parametrize("content", [None, b"", b"\n\x08location\x12", b"\n\x08location\x12\x04", b"\x00\xff" * 1000])
def test_graphs_that_are_damaged_name_nothing(tmp_path: Path, content: bytes | None) -> None:
    model = tied_model(tmp_path)
    model.unlink()
    if content is not None:
        model.write_bytes(content)
    assert not WeightFiles.of(model)._files


@pytest.mark.parametrize("size", [None, 0, 500, SIZE - 1])
def test_weights_that_are_missing_or_too_short_are_refused(tmp_path: Path, size: int | None) -> None:
    model, data = tied_model(tmp_path), tmp_path / "model.onnx.data"
    data.unlink()
    if size is not None:
        data.write_bytes(bytes(size))
    with pytest.raises(ModelError, match="cannot load"):
        Session(model, CONFIG)
