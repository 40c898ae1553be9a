"""Pages of weights that were mapped: given back, read again where they are needed, by the system's name of the file."""

from __future__ import annotations

import mmap
import re
import sys
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from genai.config import EngineConfig
from genai.errors import ModelError
from genai.runtime import ort
from genai.runtime.mapped import data_files, give_back, given_back, unmapping
from genai.runtime.session import Session

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what is mapped")

SIZE = 4 << 20
SIZES = {"rows": 64, "scores": SIZE // 4 // 64}


def resident_bytes(path: Path) -> int:
    """What of a file is in this process's memory."""
    total, is_wanted = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            is_wanted = line.endswith(f" {path}")
        elif is_wanted and line.startswith("Rss:"):
            total += int(line.split()[1]) << 10
    return total


@pytest.fixture
def mapped(tmp_path: Path) -> tuple[Path, mmap.mmap]:
    """A file as ONNX Runtime maps it, privately, and all of it read."""
    path = tmp_path / "model.onnx.data"
    path.write_bytes(np.arange(SIZE // 8).tobytes())
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    assert sum(data[:: mmap.PAGESIZE]) >= 0
    return path, data


def test_pages_go_and_come_again(mapped: tuple[Path, mmap.mmap]) -> None:
    path, data = mapped
    assert resident_bytes(path) == SIZE
    assert give_back([path]) == SIZE
    assert resident_bytes(path) == 0
    assert np.array_equal(np.frombuffer(data, np.int64), np.arange(SIZE // 8))


def test_other_files_keep_theirs(mapped: tuple[Path, mmap.mmap]) -> None:
    path, _data = mapped
    assert give_back([path.with_name("another")]) == 0
    assert resident_bytes(path) == SIZE


def test_what_lies_beside_a_model_is_given_back_however_loading_ends(mapped: tuple[Path, mmap.mmap]) -> None:
    path, _data = mapped
    link = path.parent / "by-another-name"
    link.symlink_to(path.parent)
    with pytest.raises(ValueError, match="no model"), given_back(data_files(link / "model.onnx")):
        raise ValueError("no model")
    assert resident_bytes(path) == 0


def test_nothing_is_given_back_while_a_mapping_goes(mapped: tuple[Path, mmap.mmap]) -> None:
    path, _data = mapped
    thread = threading.Thread(target=give_back, args=([path],))
    with unmapping():
        thread.start()
        thread.join(0.1)
        assert resident_bytes(path) == SIZE
    thread.join()
    assert resident_bytes(path) == 0


def test_nothing_is_given_back_while_a_model_is_loaded(
    mapped: tuple[Path, mmap.mmap], monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime unmaps while it packs: what others then get at the same address would be emptied."""
    path, _data = mapped
    during = []

    def load(*_: object, **__: object) -> None:
        time.sleep(0.1)
        during.append(resident_bytes(path))
        raise ValueError("no model")

    monkeypatch.setattr(ort.import_onnxruntime(), "InferenceSession", load)
    with pytest.raises(ModelError):
        Session(path.with_name("model.onnx"), EngineConfig(num_threads=1, device="cpu"))
    assert during == [SIZE]


def test_a_table_with_two_readers_is_not_resident_after_loading(tmp_path: Path) -> None:
    table = np.arange(SIZE // 4, dtype=np.float32).reshape(-1, 64)
    model = helper.make_model(
        helper.make_graph(
            [
                helper.make_node("Gather", ["table", "ids"], ["rows"]),
                helper.make_node("Gemm", ["rows", "table"], ["scores"], transB=1),
            ],
            "tied",
            [helper.make_tensor_value_info("ids", TensorProto.INT64, [1])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size]) for name, size in SIZES.items()],
            [onnx.numpy_helper.from_array(table, "table")],
        ),
        opset_imports=[helper.make_opsetid("", 24)],
        ir_version=11,
    )
    onnx.save(model, tmp_path / "model.onnx", save_as_external_data=True, location="model.onnx.data")
    session = Session(tmp_path / "model.onnx", EngineConfig(num_threads=1, device="cpu"))
    assert resident_bytes(tmp_path / "model.onnx.data") == 0
    found = session.call({"ids": np.array([7])})
    assert np.array_equal(found["rows"], table[7:8])
    assert np.allclose(found["scores"], table[7:8] @ table.T)
    assert 0 < resident_bytes(tmp_path / "model.onnx.data") < SIZE, "the row alone was read again"
