"""The proofs and the fidelity table, on a tiny random model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import fidelity, in_place
from benchmarks.hf_folder import write_hf_folder
from genai.build.open import open_source
from tests.build import tiny


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build(tiny.make_model("llama"), tmp_path_factory.mktemp("tiny"))


def test_limits_are_compared(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_place, "LIMITS", (128, 256))
    cell = in_place.limits_compared(package, rounds=2, threads=1)
    assert [len(rounds) for rounds in cell.rounds.values()] == [2, 2]
    assert all(len(seconds) == in_place.STEPS_A_ROUND for rounds in cell.rounds.values() for seconds in rounds)
    text = in_place.as_markdown(cell, [(0, 10**8), (50, 10**8 + 2 * 10**6)])
    assert "| max_seq_len=256 |" in text
    assert "Growth +2.0 MB over 50 steps." in text
    data = in_place.as_json(cell, [(0, 1), (50, 2)])
    assert data["memory"] == [[0, 1], [50, 2]]
    assert isinstance(data["ratio"], float)


def test_memory_is_sampled_over_steps(package: Path) -> None:
    samples = in_place.memory_over_steps(package, 60, threads=1)
    assert [step for step, _ in samples] == list(range(0, 61, 3))
    assert samples[-1][1] - samples[0][1] < 20e6


def test_fidelity_of_each_precision(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def logits(model: str, precision: str, tokens: list[int]) -> np.ndarray:
        offset = {"f32": 0.0, "auto": 0.0, "int4": 1.0}[precision]
        values = np.zeros((len(tokens), 5), np.float32)
        values[:, 1] += offset
        return values

    monkeypatch.setattr(fidelity, "logits", logits)
    monkeypatch.setattr(fidelity.models, "package", lambda model, **options: package)
    rows = fidelity.measured("tiny", ["auto", "int4"])
    assert [row["mean_kl"] for row in rows] == [0, pytest.approx(0.0953, abs=1e-3)]
    assert "| tiny auto | 0.0000 | 100.0% |" in fidelity.as_markdown(rows)


@pytest.mark.slow
def test_hf_folder_holds_the_same_weights(smollm2_gguf: Path, tmp_path: Path) -> None:
    folder = write_hf_folder(smollm2_gguf, tmp_path / "hf")
    name = "model.layers.3.self_attn.q_proj.weight"
    with open_source(smollm2_gguf) as gguf, open_source(folder) as written:
        assert set(gguf.names()) == set(written.names())
        np.testing.assert_array_equal(gguf.read(name), written.read(name))
        assert written.config["architectures"] == ["LlamaForCausalLM"]
    assert (folder / "tokenizer.json").is_file()
