"""Every case against transformers in f32, from safetensors and from GGUF: whole, in chunks, ragged, one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from genai.build import architectures
from genai.build.gguf import names
from genai.build.package import build_package
from genai.config import ModelConfig
from tests.build import tiny
from tests.families import gguf_writer, oracle
from tests.families.cases import CASES, INSIDE, MODEL_TYPES
from tests.families.made import Made, Source

ROOT = Path(__file__).parents[2]
SOURCES = [(name, "safetensors") for name in CASES] + [(name, "gguf") for name, case in CASES.items() if case.gguf]


@pytest.mark.parametrize(("name", "source"), sorted(SOURCES), ids=[f"{name}-{kind}" for name, kind in sorted(SOURCES)])
def test_logits_are_transformers(made: Made, name: str, source: Source) -> None:
    case = CASES[name]
    checkpoint = made.checkpoint(case)
    package = made.package(case, source)
    oracle.check(package, checkpoint.prompts, checkpoint.logits)
    assert ModelConfig.read(package).model_type == (case.tower.text if case.tower else case.model_type)


@pytest.mark.parametrize("name", CASES)
def test_no_number_of_a_checkpoint_is_as_it_began(made: Made, name: str) -> None:
    """A part that is forgotten changes nothing as long as it is all zeros or ones."""
    for tensor_name, tensor in load_file(made.checkpoint(CASES[name]).folder / "model.safetensors").items():
        is_drawn = len(np.unique(tensor)) > 1 if tensor.size > 1 else tensor.item() not in (0, 1)
        assert is_drawn, tensor_name


def test_every_family_has_a_case() -> None:
    assert set(architectures.supported()) <= MODEL_TYPES.keys() | INSIDE, (
        "a case belongs into a file of tests/families/cases"
    )
    assert set(names.SUPPORTED) == {case.gguf.arch for case in CASES.values() if case.gguf}


def test_real_files_are_compared_where_cases_say_so() -> None:
    for path in filter(None, (case.real for case in CASES.values())):
        text = (ROOT / path).read_text(encoding="utf-8")
        assert "pytest.mark.slow" in text, path
        assert "follow_transformers" in text or "follows_transformers" in text, path


def test_files_may_have_some_of_the_biases(tmp_path: Path) -> None:
    """As llama.cpp reads them: what is not there is zero."""
    case = CASES["llama biases"]
    assert case.gguf is not None
    model = tiny.make_model(case.model_type, **case.options)
    for layer in model.model.layers:
        layer.self_attn.o_proj.bias.data.zero_()
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items() if "o_proj.bias" not in name}

    def change(writer: Any) -> None:
        gguf_writer.write_vocabulary(writer, tiny.VOCAB_SIZE)

    file = gguf_writer.write(case.gguf, tensors, model.config, tmp_path / "m.gguf", change)
    prompts = [tiny.tokens(20), tiny.tokens(9)]
    package = build_package(file, tmp_path / "package", precision="f32")
    oracle.check(package, prompts, [tiny.expected(model, prompt) for prompt in prompts])
