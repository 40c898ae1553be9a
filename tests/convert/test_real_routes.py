"""SmolLM2's weights through other projects' builders and back: transformers' texts, and those of our own builder."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.hf_folder import write_hf_folder
from genai.config import EngineConfig
from genai.convert import ConvertOptions, convert
from genai.llm.llm import LLM
from tests.convert.sources.genai_folders import genai_folder, static_cache_package

pytestmark = pytest.mark.slow

PROMPTS = ("The three primary colours are", "Once upon a time there was a small", "def fibonacci(n):\n    ")


@pytest.fixture(scope="module")
def checkpoint(smollm2_gguf: Path) -> Iterator[Path]:
    """SmolLM2 as a Hugging Face folder in float32; half a gigabyte, so it does not outlive the tests."""
    with tempfile.TemporaryDirectory() as place:
        yield write_hf_folder(smollm2_gguf, Path(place) / "hf")


@pytest.fixture(scope="module")
def wanted(smollm2_f32: Path) -> list[list[int]]:
    """What our own builder's package says."""
    return texts(smollm2_f32)


def through_genai(checkpoint: Path, place: Path) -> Path:
    pytest.importorskip("onnxruntime_genai")
    convert(genai_folder(checkpoint, place / "folder"), place / "package")
    return place / "package"


def through_static_cache(checkpoint: Path, place: Path) -> Path:
    pytest.importorskip("mobius")
    folder = static_cache_package(checkpoint, place / "folder", capacity=256)
    convert(folder, place / "package", ConvertOptions(hf_folder=checkpoint))
    return place / "package"


def through_layout(checkpoint: Path, place: Path) -> Path:
    """As transformers.js has models: the builder's graph in `onnx`, links to the configuration beside it."""
    pytest.importorskip("onnxruntime_genai")
    folder, layout = genai_folder(checkpoint, place / "folder"), place / "layout"
    (layout / "onnx").mkdir(parents=True)
    for name in ("model.onnx", "model.onnx.data"):
        (folder / name).rename(layout / "onnx" / name)
    for file in checkpoint.glob("*.json"):
        (layout / file.name).symlink_to(file)
    report = convert(layout, place / "package")
    assert report.kind == "past and present caches, attention operators of ONNX Runtime"
    return place / "package"


def test_our_own_texts_are_those_of_transformers(checkpoint: Path, wanted: list[list[int]]) -> None:
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    for prompt, text in zip(PROMPTS, wanted, strict=True):
        given = tokenizer(prompt, return_tensors="pt")
        made = model.generate(**given, max_new_tokens=len(text), min_new_tokens=len(text), do_sample=False)
        assert made[0, given.input_ids.shape[1] :].tolist() == text


@pytest.mark.parametrize("route", [through_genai, through_static_cache, through_layout])
def test_texts(checkpoint: Path, wanted: list[list[int]], route: Callable[[Path, Path], Path]) -> None:
    with tempfile.TemporaryDirectory() as place:
        assert texts(route(checkpoint, Path(place))) == wanted


def texts(package: Path) -> list[list[int]]:
    """The most probable continuations of the prompts, as one ragged batch."""
    with LLM(package, EngineConfig(device="cpu", max_batch=len(PROMPTS), max_seq_len=128)) as llm:
        results = llm.generate(list(PROMPTS), max_new_tokens=40, do_sample=False, ignore_eos=True)
    return [list(result.token_ids) for result in results]
