"""Keys and values of different sizes in foreign graphs: the reference evaluator's logits, alone and in a batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from genai.config import ModelConfig
from genai.convert import ConvertOptions, convert
from genai.inspect import inspect
from tests.build import tiny
from tests.convert import value_sizes
from tests.convert.recurrent import HEADS, KV_HEADS, SIZE, VALUE_SIZE
from tests.convert.test_recurrent import write


@pytest.fixture(name="package")
def package_fixture(tmp_path: Path) -> Path:
    report = convert(write(value_sizes.decoder(), tmp_path / "source"), tmp_path / "package")
    assert report.agreement.is_exact
    assert all(site.matched for site in report.fusions.sites)
    return tmp_path / "package"


def test_logits_and_texts_are_the_reference_evaluators(package: Path) -> None:
    evaluator, prompts = ReferenceEvaluator(value_sizes.decoder()), [tiny.tokens(15), tiny.tokens(6)[::-1]]

    def reference(tokens: list[int]) -> np.ndarray:
        (logits,) = evaluator.run(["logits"], {"input_ids": np.array([tokens])} | value_sizes.empty())
        result: np.ndarray = logits[0]
        return result

    wanted = [list(prompt) for prompt in prompts]
    for _ in range(8):
        for text in wanted:
            text.append(int(reference(text)[-1].argmax()))
    with tiny.loaded(package) as llm:
        for prompt in prompts:
            np.testing.assert_allclose(llm.logits(prompt), reference(prompt), atol=1e-5, rtol=0)  # measured: 7e-7
        results = llm.generate(prompts, max_new_tokens=8, ignore_eos=True)
    found = [prompt + list(result.token_ids) for prompt, result in zip(prompts, results, strict=True)]
    assert found == wanted


def test_what_the_package_says(package: Path) -> None:
    widths = {
        value.name: value.type.tensor_type.shape.dim[2].dim_value
        for value in onnx.load(package / "model.onnx").graph.input
        if "cache" in value.name
    }
    assert widths == {
        "key_cache.0": KV_HEADS * SIZE,
        "value_cache.0": KV_HEADS * VALUE_SIZE,
        "key_cache.1": HEADS * SIZE,
        "value_cache.1": HEADS * VALUE_SIZE,
    }
    assert inspect(package).cache_bytes_per_token == 4 * sum(widths.values())
    assert ModelConfig.read(package).head_dim == SIZE


def test_sixteen_bits(tmp_path: Path) -> None:
    source = write(value_sizes.decoder(), tmp_path / "source")
    report = convert(source, tmp_path / "package", ConvertOptions(dtype="f16"))
    assert report.rounded is not None
    assert report.rounded.mean_kl < 1e-3
