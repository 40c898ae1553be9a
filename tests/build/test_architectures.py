"""Heads that are tied, and what no checkpoint that transformers can run would show; families are in tests/families."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file, save_file

from genai.build.package import build_package
from genai.errors import UnsupportedModelError
from tests.build import tiny
from tests.families import oracle
from tests.families.cases.gemma_gpt_oss import GEMMA3

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("precision", ["f32", "int8"])
@pytest.mark.parametrize("kind", ["another head", "the same twice", "the head's name only"])
def test_heads_are_tied_as_transformers_ties_them(tmp_path: Path, kind: str, precision: str) -> None:
    """The configuration says tied, whatever the checkpoint holds."""
    folder = tiny.save(tiny.make_model("llama", tie_word_embeddings=True), tmp_path / "checkpoint")
    tensors = load_file(folder / "model.safetensors")
    embedding = tensors["model.embed_tokens.weight"]
    if kind == "another head":
        tensors["lm_head.weight"] = np.ascontiguousarray(embedding[::-1])
    else:
        tensors["lm_head.weight"] = embedding.copy()
    if kind == "the head's name only":
        del tensors["model.embed_tokens.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    model = tiny.load(folder)
    head = model.get_output_embeddings().weight.detach().numpy()
    assert np.array_equal(head, embedding) == (kind != "another head"), "transformers does what this test is about"
    package = build_package(folder, tmp_path / "package", precision=precision)
    prompt = tiny.tokens(20)
    wanted = tiny.expected(model, prompt)
    with tiny.loaded(package) as llm:
        error = llm.logits(prompt) - wanted
    assert error.std() < wanted.std() * (1e-5 if precision == "f32" else 0.1)
    names = [weight.name for weight in onnx.load(package / "model.onnx", load_external_data=False).graph.initializer]
    assert ("lm_head" in " ".join(names) and "embed_tokens" in " ".join(names)) == (kind == "another head")


def test_gemma3_caps_scores_where_its_configuration_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers reads `attn_logit_softcapping` but does not hand it to its own attention function: we do it here."""
    from transformers.models.gemma3 import modeling_gemma3

    capped = functools.partial(modeling_gemma3.eager_attention_forward, softcap=2.0)
    monkeypatch.setattr(modeling_gemma3, "eager_attention_forward", capped)
    model = tiny.make_model("gemma3_text", **GEMMA3, attn_logit_softcapping=2.0)
    prompts = [tiny.tokens(40), tiny.tokens(9, seed=1)]
    oracle.check(tiny.build(model, tmp_path), prompts, [tiny.expected(model, prompt) for prompt in prompts])


def test_several_experts_that_read_different_inputs_are_refused(tmp_path: Path) -> None:
    options = {"num_local_experts": 4, "head_dim": 16, "intermediate_size_mlp": 80}
    source = tiny.save(tiny.make_model("llama4_text", **options), tmp_path / "checkpoint", num_experts_per_tok=2)
    with pytest.raises(UnsupportedModelError, match="Llama 4 with 2 experts for each token: each would read something"):
        build_package(source, tmp_path / "package", precision="f32")
