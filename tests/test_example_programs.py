"""The example programs of a page each, run as a user runs them."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

import pytest
from fastapi.testclient import TestClient

from genai.build.package import build_package
from genai.llm.llm import LLM
from tests.clients.environments import installed
from tests.llm.reading_models import embedding_checkpoint, embedding_model, reranker
from tests.pipelines.alphabet import write_alphabet
from tests.tiny_package import tiny_package

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
OPENVINO = ROOT / "benchmarks" / "peers" / "openvino-genai" / "requirements.txt"
TEXTS = {
    "bees.txt": "Bees gather nectar from flowers and turn it into honey.\n\nA hive has one queen.",
    "rivers.txt": "The Rhine rises in the Alps and flows to the North Sea.\n\nIt passes Basel and Cologne.",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in TEXTS.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def run(name: str, *arguments: str | Path, typed: str = "", python: str = sys.executable) -> tuple[str, str]:
    """What an example writes, to its output and to standard error."""
    done = subprocess.run(
        [python, EXAMPLES / f"{name}.py", *map(str, arguments)],
        input=typed,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[name] = loaded  # where pydantic looks for the types of a class's fields
    spec.loader.exec_module(loaded)
    return loaded


@pytest.mark.slow
def test_agent(folder: Path, smollm2_auto: Path) -> None:
    out, err = run("agent", smollm2_auto, folder, "Where does the Rhine rise?")
    called = [line.removeprefix("→ ").partition("(") for line in err.splitlines() if line.startswith("→ ")]
    assert called
    for name, _, arguments in called:
        assert name in {"read_file", "count_words"}
        assert json.loads(arguments.removesuffix(")"))["name"] in TEXTS
    assert out.strip()


def test_an_agent_is_told_what_went_wrong(folder: Path) -> None:
    files = module("agent").Files(folder)
    assert files.run("count_words", '{"name": "bees.txt"}') == str(len(TEXTS["bees.txt"].split()))
    assert files.run("read_file", '{"name": "none.txt"}').startswith("FileNotFoundError")
    assert files.run("read_file", "{").startswith("JSONDecodeError")
    assert files.run("delete", "{}").startswith("KeyError")


@pytest.mark.slow
def test_extract(folder: Path, smollm2_auto: Path) -> None:
    out, err = run("extract", smollm2_auto, folder)
    records = [json.loads(line) for line in out.splitlines()]
    assert [record.pop("file") for record in records] == sorted(TEXTS)
    for record in records:
        module("extract").Record.model_validate(record)
    assert "2/2" in err, "the progress bar"


@pytest.mark.slow
def test_batch(tmp_path: Path, smollm2_auto: Path) -> None:
    lines = ["I love this phone.", "The food was awful.", "A wonderful film!"]
    (tmp_path / "reviews.txt").write_text("\n\n".join(lines))
    classes = ["positive", "negative"]
    out, err = run("batch", smollm2_auto, tmp_path / "reviews.txt", *classes)
    records = [json.loads(line) for line in out.splitlines()]
    assert [record["text"] for record in records] == lines
    with LLM(smollm2_auto) as llm:
        for record, prompt in zip(records, module("batch").prompts(lines, classes), strict=True):
            assert llm.generate(prompt, choices=classes, max_new_tokens=32).text == record["class"]
    assert err.startswith("3 requests, ")


@pytest.mark.slow
def test_semantic_search(tmp_path: Path) -> None:
    made = embedding_checkpoint(tmp_path / "hf", embedding_model())
    embedder = build_package(made, tmp_path / "embedder", precision="f32")
    judge = reranker(tmp_path / "judge")[1]
    lines = tmp_path / "lines.txt"
    lines.write_text("bees and honey\n\nthe Rhine\nrivers\n")
    found, _ = run("semantic_search", embedder, lines, "the Rhine")
    likeness = [float(line.split()[0]) for line in found.splitlines()]
    assert len(likeness) == 3
    assert likeness == sorted(likeness, reverse=True)
    ranked, _ = run("semantic_search", embedder, lines, "the Rhine", judge)
    assert sorted(line.split(maxsplit=1)[1] for line in ranked.splitlines()) == [
        "bees and honey",
        "rivers",
        "the Rhine",
    ]


def test_retrieval_chat(folder: Path, smollm2_auto: Path) -> None:
    out, err = run(
        "retrieval_chat", smollm2_auto, folder, typed="Who lives in a hive?\nAnd where does the Rhine rise?\nquit()\n"
    )
    assert "  [bees.txt] A hive has one queen." in err.splitlines()
    assert "  [rivers.txt] The Rhine rises in the Alps and flows to the North Sea." in err.splitlines()
    assert len(out.splitlines()) >= 2


def test_paragraphs_are_found_by_their_rare_words(folder: Path) -> None:
    paragraphs = module("retrieval_chat").Paragraphs(folder)
    assert len(paragraphs.texts) == 4
    for text in paragraphs.texts:
        assert paragraphs.nearest(text)[0] == text, "nothing is more like it than itself"
    assert paragraphs.nearest("Cologne!") == ["[rivers.txt] It passes Basel and Cologne."]
    assert paragraphs.nearest("quantum") == []


def test_fastapi_app(tmp_path: Path) -> None:
    folder = tiny_package(tmp_path / "tiny", max_position=300)
    with TestClient(module("fastapi_app").create_app(str(folder))) as client:
        said = client.post("/tell", json={"about": "bees", "max_tokens": 30, "seed": 5})
        assert client.post("/tell", json={"about": "bees" * 100}).status_code == 413
        assert client.post("/tell", json={"about": ""}).status_code == 422
    with LLM(folder) as llm:
        asked = [{"role": "user", "content": "Tell me about bees."}]
        assert llm.generate(asked, max_new_tokens=30, temperature=0.7, seed=5).text == said.text


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("onnxruntime_genai") is None, reason="onnxruntime-genai is not installed")
def test_three_backends(tmp_path: Path, smollm2_auto: Path, smollm2_gguf: Path) -> None:
    """OpenVINO's packages come from an environment of their own; what is not there comes from this one."""
    place = installed(OPENVINO)
    (own,) = place.glob("lib/python*/site-packages")
    (own / "this.pth").write_text(sysconfig.get_path("purelib"))
    models = [
        f"native={smollm2_auto}",
        f"onnxruntime-genai={write_alphabet(tmp_path)}",
        f"openvino-genai={smollm2_gguf}",
    ]
    prompt = "The three primary colours are"
    out, _ = run("three_backends", prompt, *models, python=str(place / "bin" / "python"))
    native, alphabet, openvino = (part.split("\n", 1) for part in out.strip().split("\n\n", 2))
    with LLM(smollm2_auto) as llm:
        assert native[1] == prompt + llm.generate(prompt, max_new_tokens=24, temperature=0).text
    assert native[0].startswith("native (")
    assert alphabet[0].startswith("onnxruntime-genai (")
    assert alphabet[1] == f"{prompt}fghijklmnopqrstuvwxyz"
    assert openvino[0].startswith("openvino-genai (")
    assert openvino[1].startswith(prompt)
    assert len(openvino[1]) > len(prompt) + 10


def test_a_backend_that_cannot_is_told_apart(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = tiny_package(tmp_path / "tiny")
    assert module("three_backends").main(["ab", "nobody=folder", f"native={folder}"]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("nobody: Unregistered GenAI framework: nobody")
    assert captured.out.startswith("native (")
