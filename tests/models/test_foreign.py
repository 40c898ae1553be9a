"""Somebody's ONNX models as models: a folder and a hub id become packages in the cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from genai import models
from genai.config import ModelConfig
from genai.errors import ModelNotFoundError
from tests.convert.layout import of_optimum
from tests.models.loopback import HubServer

RUN = """
import json, sys
import genai
with genai.load(sys.argv[1], precision=sys.argv[2], max_batch=1) as llm:
    print(json.dumps(list(llm.generate("t5 t6 t7", max_new_tokens=6, ignore_eos=True).token_ids)))
"""


def test_a_folder_is_converted_once_for_each_precision(tmp_path: Path, home: Path) -> None:
    folder = of_optimum("llama", tmp_path / "layout", ["", "q4"])
    first = models.package(folder, device="cpu")
    assert ModelConfig.read(first).provenance.precision == "int4"
    assert first.name.startswith("layout-auto-")
    assert models.package(folder, device="cpu") == first
    exact = models.package(folder, precision="f32", device="cpu")
    assert ModelConfig.read(exact).provenance.precision == "f32"
    assert models.package(folder / "onnx" / "model.onnx", precision="f32", device="cpu") == exact
    (folder / "onnx" / "model.onnx").unlink()
    with pytest.raises(ModelNotFoundError, match=r"no ONNX file for precision f32, only onnx/model_q4\.onnx"):
        models.package(folder, precision="f32", device="cpu")


def test_a_hub_id(tmp_path: Path, home: Path) -> None:
    """Only the file that is meant is fetched, with its weights; what was fetched is used without asking again."""
    folder = of_optimum("llama", tmp_path / "layout", ["", "q4", "int8"])
    server = HubServer()
    server.repos["org/tiny-ONNX"] = {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    } | {"README.md": b"read me", "onnx/other.txt": b""}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")} | {
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "GENAI_HOME": str(home),
    }

    def run(name: str, precision: str, **added: str) -> list[int]:
        done = subprocess.run(
            [sys.executable, "-c", RUN, name, precision],
            env=environment | added,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        tokens: list[int] = json.loads(done.stdout)
        return tokens

    try:
        text = run("org/tiny-ONNX", "auto")
        fetched = {
            path.partition("resolve/")[2].partition("/")[2] for path, _ in server.requests if "/resolve/" in path
        }
        assert fetched == {"config.json", "tokenizer.json", "onnx/model_q4.onnx", "onnx/model_q4.onnx_data"}
        assert text == run(str(folder), "auto")
        run("org/tiny-ONNX:int8", "auto")
        assert any(path.endswith("onnx/model_int8.onnx") for path, _ in server.requests)
    finally:
        server.close()
    assert run("org/tiny-ONNX", "auto", HF_HUB_OFFLINE="1") == text
