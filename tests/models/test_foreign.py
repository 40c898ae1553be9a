"""Somebody's ONNX models as models: a folder and a hub id become packages in the cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from genai import models
from genai.config import ModelConfig
from genai.errors import ConfigError, ModelNotFoundError
from genai.models import hub
from tests.convert.layout import OPTIMUM, of_optimum
from tests.models.loopback import HubServer

RUN = """
import json, sys
import genai
with genai.load(sys.argv[1], precision=sys.argv[2], max_batch=1) as llm:
    print(json.dumps(list(llm.generate("t5 t6 t7", max_new_tokens=6, ignore_eos=True).token_ids)))
"""


TEXTS = """
import json, sys
import genai
texts = {}
for name, prompts in json.loads(sys.argv[1]).items():
    with genai.load(name, max_batch=2) as llm:
        texts[name] = [list(text.token_ids) for text in llm.generate(prompts, max_new_tokens=12, ignore_eos=True)]
print(json.dumps(texts))
"""


def files_of(folder: Path) -> dict[str, bytes]:
    """A folder as a repository's files."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def hub_environment(server: HubServer, place: Path, home: Path) -> dict[str, str]:
    """That of a process for which the loopback server is the Hub."""
    return {name: value for name, value in os.environ.items() if not name.startswith("HF_")} | {
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(place / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "GENAI_HOME": str(home),
    }


def said(command: list[str], environment: dict[str, str]) -> str:
    """What a process printed."""
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_folder_is_converted_once_for_each_precision(tmp_path: Path, home: Path) -> None:
    folder = of_optimum("llama", tmp_path / "layout", ["", "q4"])
    first = models.package(folder, device="cpu")
    assert ModelConfig.read(first).provenance.precision == "int4"
    assert first.name.startswith("layout-auto-")
    assert models.package(folder, device="cpu") == first
    exact = models.package(folder, precision="f32", device="cpu")
    assert ModelConfig.read(exact).provenance.precision == "f32"
    assert models.package(folder / "onnx" / "model.onnx", precision="f32", device="cpu") == exact
    with pytest.raises(ConfigError, match=r"model_q4.onnx comes in int4, not in f32"):
        models.package(folder / "onnx" / "model_q4.onnx", precision="f32", device="cpu")
    (folder / "onnx" / "model.onnx").unlink()
    with pytest.raises(ModelNotFoundError, match=r"no ONNX file for precision f32, only onnx/model_q4\.onnx"):
        models.package(folder, precision="f32", device="cpu")


def test_weights_in_a_file_of_any_name(tmp_path: Path, home: Path) -> None:
    """Changed weights are another model; another graph's files, and what is no weights, are not looked at."""
    folder = of_optimum("llama", tmp_path / "layout", ["q4"])
    graph = folder / "onnx" / "model.onnx"
    whole = onnx.load(OPTIMUM / "llama" / "model.onnx")
    onnx.save(whole, graph, save_as_external_data=True, location="shared", size_threshold=256)
    first = models.package(folder, precision="f32", device="cpu")
    for name in ("model_q4.onnx", "model_q4.onnx_data", "README.md"):
        (folder / "onnx" / name).write_bytes(b"another")
    assert models.package(folder, precision="f32", device="cpu") == first
    weights = graph.with_name("shared")
    weights.write_bytes((np.frombuffer(weights.read_bytes(), np.float32) * 2).tobytes())
    assert models.package(folder, precision="f32", device="cpu") != first


def test_a_folder_called_onnx_may_be_whole(tmp_path: Path, home: Path) -> None:
    """With a configuration in it, its settings are its own, not those above."""
    folder = of_optimum("llama", tmp_path / "layout", [""])
    for name in ("config.json", "tokenizer.json"):
        (folder / name).rename(folder / "onnx" / name)
    first = models.package(folder / "onnx", precision="f32", device="cpu")
    config = folder / "onnx" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"eos_token_id": 7}))
    second = models.package(folder / "onnx", precision="f32", device="cpu")
    assert [ModelConfig.read(package).eos_token_ids == (7,) for package in (first, second)] == [False, True]


def test_a_repository_called_after_a_precision(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was pulled in another precision is not taken for this one."""
    folder = of_optimum("llama", tmp_path / "layout", ["int8", "q4"])
    pulled: list[str] = []

    def fetch(_: hub.HubId, __: object, precision: str) -> Path:
        pulled.append(precision)
        return folder / "onnx" / {"auto": "model_q4.onnx", "int8": "model_int8.onnx"}[precision]

    monkeypatch.setattr(hub, "fetch", fetch)
    for precision, found in (("auto", "int4"), ("int8", "int8"), ("auto", "int4"), ("int8", "int8")):
        package = models.package("org/tiny-int8", precision=precision, device="cpu")  # type: ignore[arg-type]
        assert ModelConfig.read(package).provenance.precision == found
    assert pulled == ["auto", "int8"]


def test_a_hub_id(tmp_path: Path, home: Path) -> None:
    """Only the file that is meant is fetched, with its weights; what was fetched is used without asking again."""
    folder = of_optimum("llama", tmp_path / "layout", ["", "q4", "int8"])
    server = HubServer()
    server.repos["org/tiny-ONNX"] = files_of(folder) | {"README.md": b"read me", "onnx/other.txt": b""}
    environment = hub_environment(server, tmp_path, home)

    def run(name: str, precision: str, **added: str) -> list[int]:
        tokens: list[int] = json.loads(said([sys.executable, "-c", RUN, name, precision], environment | added))
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


@pytest.mark.long
def test_hub_ids_of_four_architectures(tmp_path: Path, home: Path) -> None:
    """Exports of optimum-onnx by id: float files say what transformers says, rounded ones what they say as folders."""
    forms = {"llama": "", "gemma3": "", "gpt2": "q4", "qwen3": "int8"}
    folders = {name: of_optimum(name, tmp_path / name, [form]) for name, form in forms.items()}
    expected = {name: json.loads((OPTIMUM / name / "expected.json").read_text()) for name in forms}
    server = HubServer()
    server.repos |= {f"org/{name}-ONNX": files_of(folder) for name, folder in folders.items()}
    environment = hub_environment(server, tmp_path, home)

    def texts(names: dict[str, str]) -> dict[str, list[list[int]]]:
        prompts = json.dumps({name: expected[each]["prompts"] for each, name in names.items()})
        found = json.loads(said([sys.executable, "-c", TEXTS, prompts], environment))
        return {each: found[name] for each, name in names.items()}

    try:
        by_id = texts({name: f"org/{name}-ONNX" for name in forms})
        spoken = said(
            [
                sys.executable,
                "-c",
                "from genai.cli.main import main; main()",
                "run",
                "org/gpt2-ONNX",
                "t5 t6",
                "--max-new-tokens",
                "3",
            ],
            environment,
        )
    finally:
        server.close()
    rounded = {name: str(folder) for name, folder in folders.items() if forms[name]}
    assert by_id == {name: each["texts"] for name, each in expected.items()} | texts(rounded)
    assert spoken.strip()
