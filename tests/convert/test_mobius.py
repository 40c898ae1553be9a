"""`--builder mobius`: packages of architectures that are not built here, each compared with its checkpoint first."""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genai import models
from genai.build.architectures import supported
from genai.cli.main import exit_code
from genai.config import ModelConfig
from genai.convert import mobius
from genai.errors import ConfigError, ModelError, RuntimeUnavailableError, UnsupportedModelError
from tests.build import tiny
from tests.convert.sources.genai_folders import write_checkpoint

LAYERS = {"num_hidden_layers": 2}


@pytest.fixture(name="here")
def here_fixture(monkeypatch: pytest.MonkeyPatch) -> None:
    """mobius in this process, where it need not be imported anew."""
    main = pytest.importorskip("mobius.__main__").main

    def run(source: Path, output: Path) -> Path:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # the builder's own
            main(["build", "--config", str(source), "--dtype", "f32", str(output)])
        return output / "model.onnx"

    monkeypatch.setattr("genai.convert.mobius.run_mobius", run)


def checkpoint(model: Any, tmp_path: Path) -> Path:
    """The model as a Hugging Face folder."""
    return write_checkpoint(model, tmp_path / "checkpoint")


@pytest.mark.long
def test_an_architecture_that_is_not_built_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("mobius")
    assert "olmo" not in supported()
    model = tiny.make_model("olmo", **LAYERS)
    source, output = checkpoint(model, tmp_path), tmp_path / "package"
    assert exit_code(["build", str(source), "-o", str(output), "--builder", "mobius"]) == 0
    assert capsys.readouterr().out == f"{output}\n"
    config = ModelConfig.read(output)
    assert (config.model_type, config.max_position, config.eos_token_ids) == ("olmo", 256, (2,))
    prompts = [tiny.tokens(count, seed=count) for count in (5, 11, 23)]
    with tiny.loaded(output) as llm:
        results = llm.generate(prompts, max_new_tokens=8, ignore_eos=True, do_sample=False)
    assert [list(result.token_ids) for result in results] == [tiny.greedy(model, prompt, 8) for prompt in prompts]


@pytest.mark.usefixtures("here")
def test_precision_and_context(tmp_path: Path) -> None:
    model = tiny.make_model("stablelm", **LAYERS)
    output = tmp_path / "package"
    models.build(checkpoint(model, tmp_path), output, builder="mobius", precision="int8", device="cpu", max_seq_len=100)
    config = ModelConfig.read(output)
    assert (config.max_position, config.provenance.precision) == (100, "int8")
    tokens = tiny.tokens(20)
    (logits,) = tiny.Graph(output).add(tokens)
    expected = tiny.expected(model, tokens)
    assert np.abs(logits - expected).max() < 0.1 * np.abs(expected).max()


@pytest.mark.usefixtures("here")
def test_a_graph_that_is_not_the_checkpoint(tmp_path: Path) -> None:
    model = tiny.make_model("ernie4_5", **LAYERS)  # mobius 0.1.0 turns its queries and keys in another way
    with pytest.raises(ModelError, match="something else than the checkpoint"):
        models.build(checkpoint(model, tmp_path), tmp_path / "package", builder="mobius", device="cpu")
    assert not (tmp_path / "package").exists()


@pytest.mark.usefixtures("here")
def test_a_window_that_is_left_out(tmp_path: Path) -> None:
    model = tiny.make_model("starcoder2", sliding_window=50, **LAYERS)
    source = checkpoint(model, tmp_path)
    with pytest.raises(UnsupportedModelError, match=r"a window of 50 tokens.*max_seq_len=50"):
        models.build(source, tmp_path / "package", builder="mobius", device="cpu")
    models.build(source, tmp_path / "package", builder="mobius", device="cpu", max_seq_len=50)
    assert ModelConfig.read(tmp_path / "package").max_position == 50


def test_mobius_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho 'Traceback' >&2; echo 'KeyError: what it said' >&2; exit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr("genai.convert.mobius.sys.executable", str(program))
    with pytest.raises(UnsupportedModelError, match="mobius cannot build checkpoint: KeyError: what it said"):
        mobius.run_mobius(tmp_path / "checkpoint", tmp_path / "out")


@pytest.mark.parametrize(
    "said",
    [
        "Traceback\nKeyError: the reason\nLoading:  50%|#####     | 1/2 [00:00<00:00,  1.2it/s]\n",
        "Loading:  50%|#####     | 1/2\rLoading: 100%|##########| 2/2\rmobius.errors.KeyError: the reason",
        "KeyError: the reason\n[transformers] a warning that comes last\n",
        "KeyError: another\n\nDuring handling:\n\nKeyError: the reason\n  a note\n",
    ],
)
def test_the_reason_is_found_among_bars_and_notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    (tmp_path / "said").write_text(said)
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\ncat {tmp_path / 'said'} >&2; exit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr("genai.convert.mobius.sys.executable", str(program))
    with pytest.raises(UnsupportedModelError, match=r"mobius cannot build c: (mobius\.errors\.)?KeyError: the reason$"):
        mobius.run_mobius(tmp_path / "c", tmp_path / "out")


def test_mobius_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RuntimeUnavailableError, match=r"pip install '\.\[mobius\]'"):
        models.build(tmp_path, tmp_path / "package", builder="mobius", device="cpu")


def test_a_gguf_file_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("mobius")
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(UnsupportedModelError, match=r"model\.gguf: --builder mobius takes Hugging Face folders"):
        models.build(tmp_path / "model.gguf", tmp_path / "package", builder="mobius", device="cpu")


def test_an_unknown_builder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="builder='other': must be one of genai, mobius"):
        models.build(tmp_path, tmp_path / "package", builder="other")  # type: ignore[arg-type]
    assert exit_code(["build", "x", "-o", "y", "--builder", "other"]) == 2
    assert "'other' is not one of 'genai', 'mobius'" in capsys.readouterr().err
