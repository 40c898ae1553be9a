"""The examples, run as a user runs them, with scripted input."""

from __future__ import annotations

import importlib.util
import io
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from genai.errors import ConfigError
from genai.llm.llm import LLM
from genai.pipelines import Device, DeviceFactory, GenerationInput, GenerationResult, Message, Streamer
from genai.pipelines.backends import native, onnxruntime_genai
from tests.pipelines.alphabet import write_alphabet
from tests.tiny_package import tiny_package

SAMPLE = Path(__file__).parent.parent / "examples" / "chat_sample.py"
ALPHABET = "".join(map(chr, range(ord("a"), ord("z") + 1)))
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def sample() -> ModuleType:
    spec = importlib.util.spec_from_file_location("chat_sample", SAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(sample: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str, typed: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        code = sample.main(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[Message]]:
    """The conversations that pipelines are called with."""
    conversations: list[list[Message]] = []
    for kind in (native.NativePipeline, onnxruntime_genai.OnnxRuntimeGenaiPipeline):

        def call(
            self: object,
            source: GenerationInput,
            streamer: Streamer | None = None,
            *,
            run: Callable[..., GenerationResult] = kind.__call__,
        ) -> GenerationResult:
            conversations.append(list(source.messages or ()))
            return run(self, source, streamer)

        monkeypatch.setattr(kind, "__call__", call)
    return conversations


def test_chat_sample_native(run: Run, asked: list[list[Message]], tmp_path: Path) -> None:
    folder = tiny_package(tmp_path / "tiny", max_position=700)
    code, out, err = run("native", str(folder), typed="Hi\nAnd now?\nquit()\nnever asked\n")
    answer = str(asked[1][1]["content"])
    assert (code, err) == (0, "")
    first, second, rest = out.split("\n\n----------\nQuestion:\n")
    assert first == f"Successfully created 'native' backend.\nQuestion:\n{answer}"
    assert rest == ""
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": answer}]
    assert asked == [said[:1], [*said, {"role": "user", "content": "And now?"}]]
    options = {"do_sample": True, "temperature": 0.7, "top_k": 40, "rng_seed": 42, "max_new_tokens": 256}
    with LLM(folder) as llm:
        assert llm.generate(asked[1], **options).text == second


@pytest.mark.skipif(importlib.util.find_spec("onnxruntime_genai") is None, reason="onnxruntime-genai is not installed")
def test_chat_sample_onnxruntime_genai(run: Run, asked: list[list[Message]], tmp_path: Path) -> None:
    folder = write_alphabet(tmp_path)
    code, out, err = run("onnxruntime-genai", str(folder), "CPU", typed="Hi\nAnd now?\n")
    first, second, rest = out.split("\n\n----------\nQuestion:\n")
    assert (code, err, rest) == (0, "", "")
    assert first.startswith("Successfully created 'onnxruntime-genai' backend.\nQuestion:\na")
    answer = first.rpartition("\n")[2]
    assert {*answer, *second} <= {*ALPHABET}
    assert asked[1][1] == {"role": "assistant", "content": answer}


def test_the_end_of_the_input_leaves(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("native", str(tiny_package(tmp_path / "tiny", max_position=50)))
    assert (code, out.splitlines()[-1]) == (0, "Question:")


def test_errors_are_told(run: Run, sample: ModuleType, tmp_path: Path) -> None:
    assert run("native") == (1, "", "Usage: chat_sample.py BACKEND MODEL_DIR [DEVICE]\n")
    code, _, err = run("nobody", "folder")
    assert (code, err.splitlines()[0]) == (1, "Error: Unregistered GenAI framework: nobody")
    code, _, err = run("native", "folder", "TPU")
    assert (code, err.startswith("Error: native has no TPU; it has ")) == (1, True)
    with pytest.raises(ConfigError, match="has no NPU"):
        sample.chosen_devices("native", "NPU")


def test_the_device_asked_for_is_chosen(sample: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    devices = [Device("GPU", {"n": 0}), Device("CPU"), Device("NPU")]
    monkeypatch.setattr(DeviceFactory, "enumerate", lambda self, name: devices)
    assert sample.chosen_devices("any") == [Device("CPU")]
    assert sample.chosen_devices("any", "GPU") == [Device("GPU", {"n": 0})]
