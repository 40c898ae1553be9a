"""`genai inspect` of GGUF files; the oracle is the gguf package's own reader."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest

from tests.cli.conftest import Genai

TENSORS = {
    "token_embd.weight": (8, 32),
    "blk.0.attn_output.weight": (32, 32),
    "blk.1.attn_output.weight": (32, 32),
    "blk.0.ffn_up.weight": (64, 32),
    "blk.0.attn_norm.weight": (32,),
    "output.weight": (8, 32),
}


def write(path: Path, arch: str = "llama") -> Path:
    writer = gguf.GGUFWriter(path, arch)
    writer.add_name("Tiny\nmodel")
    writer.add_array("tokenizer.ggml.tokens", [f"t{number}" for number in range(20)])
    writer.add_array("tokenizer.ggml.scores", [0.5] * 3)
    for name, shape in TENSORS.items():
        values = np.ones(shape, np.float32)
        if "attn_output" in name:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_as_json(run_genai: Genai, tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf")
    report = json.loads(run_genai("inspect", path, "--json").out)
    theirs = gguf.GGUFReader(path)
    assert [(each["name"], each["shape"], each["type"], each["bytes"]) for each in report["tensors"]] == [
        (tensor.name, [int(size) for size in reversed(tensor.shape)], tensor.tensor_type.name, tensor.n_bytes)
        for tensor in theirs.tensors
    ]
    assert report["architecture"] == "llama"
    assert report["refused"] is None
    assert report["types"] == {"F32": 4, "Q8_0": 2}
    sizes = {name: int(np.prod(shape)) * 4 for name, shape in TENSORS.items()}
    assert report["weight_bytes"] == {
        "embedding": sizes["token_embd.weight"],
        "attention": 2 * 32 * 34,
        "mlp": sizes["blk.0.ffn_up.weight"],
        "experts": 0,
        "recurrence": 0,
        "norms": 128,
        "head": sizes["output.weight"],
        "other": 0,
        "total": sum(tensor.n_bytes for tensor in theirs.tensors),
    }
    assert report["metadata"]["tokenizer.ggml.tokens"] == [f"t{number}" for number in range(20)]
    assert report["metadata"]["tokenizer.ggml.scores"] == [0.5] * 3
    assert report["metadata"]["general.name"] == "Tiny\nmodel"


def test_as_text(run_genai: Genai, tmp_path: Path) -> None:
    done = run_genai("inspect", write(tmp_path / "m.gguf"))
    assert done.code == 0
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    assert "GGUF, llama (Tiny model), 6 tensors" in lines
    assert "blk.N.attn_output.weight 2 32 × 32 Q8_0" in lines
    assert "tokenizer.ggml.tokens [t0, t1, t2, t3, t4, t5, t6, t7, …] (20)" in lines
    assert "Q8_0 2 2.18 kB 17%" in lines


def test_what_is_not_built_is_shown_too(run_genai: Genai, tmp_path: Path) -> None:
    """By its content, whatever it is called."""
    done = run_genai("inspect", write(tmp_path / "file", arch="mamba"))
    assert done.code == 0
    assert "not built here: architecture 'mamba' is not supported" in done.out


@pytest.mark.parametrize("flags", [["--html", "x.html"], ["--fusions"]])
def test_what_is_about_graphs_is_refused(run_genai: Genai, tmp_path: Path, flags: list[str]) -> None:
    done = run_genai("inspect", write(tmp_path / "m.gguf"), *flags)
    assert done.code == 2
    assert "is a GGUF file, weights without a graph" in done.err


def test_a_damaged_file(run_genai: Genai, tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf")
    path.write_bytes(path.read_bytes()[:60])
    done = run_genai("inspect", path)
    assert done.code == 2
    assert "damaged or cut off" in done.err


def test_a_folder_with_one_file_means_the_file(run_genai: Genai, tmp_path: Path) -> None:
    write(tmp_path / "m.gguf")
    assert json.loads(run_genai("inspect", tmp_path, "--json").out)["path"] == str(tmp_path / "m.gguf")
    write(tmp_path / "n.gguf")
    assert "holds 2 GGUF models: give one of them" in run_genai("inspect", tmp_path).err


@pytest.mark.parametrize("given", ["", "model.safetensors", "pytorch_model.bin"])
def test_checkpoints_have_no_graph(run_genai: Genai, tmp_path: Path, given: str) -> None:
    for name in ("config.json", "model.safetensors", "pytorch_model.bin"):
        (tmp_path / name).write_text("{}")
    done = run_genai("inspect", tmp_path / given)
    assert done.code == 2
    assert "weights without a graph: genai build makes a package" in done.err
