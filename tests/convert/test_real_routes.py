"""SmolLM2's weights through other projects' builders and back: the texts of our own builder."""

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


@pytest.mark.parametrize("route", [through_genai, through_static_cache])
def test_texts(checkpoint: Path, wanted: list[list[int]], route: Callable[[Path, Path], Path]) -> None:
    with tempfile.TemporaryDirectory() as place:
        assert texts(route(checkpoint, Path(place))) == wanted


def texts(package: Path) -> list[list[int]]:
    """The most probable continuations of the prompts, as one ragged batch."""
    with LLM(package, EngineConfig(device="cpu", max_batch=len(PROMPTS), max_seq_len=128)) as llm:
        results = llm.generate(list(PROMPTS), max_new_tokens=40, do_sample=False, ignore_eos=True)
    return [list(result.token_ids) for result in results]
