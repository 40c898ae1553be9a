"""`genai models`, `pull` and `build`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from genai import models
from genai.config import CONTRACT_VERSION, ModelConfig, Provenance
from genai.progress import Progress
from tests.cli.conftest import Genai


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "home" / "packages" / "mine-int8-abc123"
    folder.mkdir(parents=True)
    ModelConfig(
        contract_version=CONTRACT_VERSION,
        model_type="llama",
        num_layers=1,
        hidden_size=8,
        vocab_size=16,
        num_heads=1,
        num_kv_heads=1,
        head_dim=8,
        max_position=64,
        cache_dtype="float32",
        eos_token_ids=(2,),
        provenance=Provenance(source="x", sha256="0", precision="int8", builder="test"),
    ).write(folder)
    return folder


def test_list(run_genai: Genai, package: Path) -> None:
    lines = run_genai("models").out.splitlines()
    assert lines[0].split() == ["MODEL", "WEIGHTS", "PACKAGES", "LICENCE", "DESCRIPTION"]
    assert lines[1].startswith("smollm2-135m-instruct  not pulled  none")
    assert lines[3].split() == ["mine", "int8", f"{package.joinpath('genai.json').stat().st_size}", "B"]


def test_list_as_json(run_genai: Genai, package: Path) -> None:
    found = {model["name"]: model for model in json.loads(run_genai("models", "--json").out)}
    assert found["gemma-3-270m"]["weights"] is None
    assert found["mine"]["packages"][0]["path"] == str(package)


def test_remove(run_genai: Genai, package: Path) -> None:
    assert run_genai("models", "--remove", "mine").out.startswith("removed ")
    assert not package.exists()


def test_pull_prints_the_path(run_genai: Genai, monkeypatch: pytest.MonkeyPatch) -> None:
    def pull(name: str, *, precision: str, progress: Progress) -> Path:
        progress("part", 1, 2)
        return Path("/weights") / name / precision

    monkeypatch.setattr(models, "pull", pull)
    outcome = run_genai("pull", "toy", "-p", "f16")
    assert (outcome.code, outcome.out, outcome.err) == (0, "/weights/toy/f16\n", "")


def test_build_hands_its_options_on(run_genai: Genai, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, object] = {}

    def build(source: str, output: Path, *, progress: Progress, **options: object) -> Path:
        seen.update(options, source=source)
        return output

    monkeypatch.setattr(models, "build", build)
    options = ("-p", "int4", "--device", "cuda", "--max-seq-len", "64", "--builder", "mobius")
    outcome = run_genai("build", "w.gguf", "-o", "out", *options)
    assert outcome.out == "out\n"
    expected = {"precision": "int4", "device": "cuda", "max_seq_len": 64, "builder": "mobius"}
    adapters = {"lora_slots": 0, "max_rank": 16, "merge_lora": None}
    assert seen == expected | adapters | {"source": "w.gguf"}
