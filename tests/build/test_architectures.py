"""Every architecture against transformers, from the same folder: whole, in chunks, step by step, in ragged batches."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file, save_file

from genai.build import architectures
from genai.build.package import build_package
from genai.errors import UnsupportedModelError
from tests.build import tiny
from tests.build.gguf import test_names as converted

torch = pytest.importorskip("torch")

TOLERANCE = 1e-4
NUM_DECODED = 6


@dataclass(frozen=True, kw_only=True)
class Case:
    """options: of the configuration; changes: to `config.json`; lengths: of the prompts."""

    model_type: str
    options: dict[str, Any] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)
    lengths: tuple[int, ...] = (40, 9, 23)
    max_seq_len: int | None = None


def rope(kind: str = "default", theta: float = 1000.0, **options: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": theta, **options}}


def legacy(theta: float = 1000.0, **scaling: Any) -> dict[str, Any]:
    """The keys that transformers wrote before version 5."""
    return {"rope_parameters": ..., "rope_theta": theta, "rope_scaling": scaling or None}


LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
YARN = {"factor": 4.0, "original_max_position_embeddings": 32}
LONG = {"long_factor": [1.0 + i for i in range(6)], "short_factor": [1.0 + i / 8 for i in range(6)]}
PHI = {"partial_rotary_factor": 0.75, "original_max_position_embeddings": 32}
WINDOWED = {"use_sliding_window": True, "sliding_window": 6}
GEMMA = {
    "head_dim": 32,
    "num_hidden_layers": 7,
    "sliding_window": 5,
    "query_pre_attn_scalar": 24,
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 100_000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
    },
}
GRANITE = {
    "attention_multiplier": 0.4,
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.6,
    "logits_scaling": 0.5,
}

CASES: dict[str, Case] = {
    "llama": Case(model_type="llama"),
    "llama tied": Case(model_type="llama", options={"tie_word_embeddings": True}),
    "llama biases": Case(model_type="llama", options={"attention_bias": True, "mlp_bias": True}),
    "llama head size": Case(model_type="llama", options={"head_dim": 24}),
    "llama odd sizes": Case(model_type="llama", options={"hidden_size": 60, "head_dim": 10, "intermediate_size": 77}),
    "llama one key head": Case(model_type="llama", options={"num_key_value_heads": 1}),
    "llama all key heads": Case(model_type="llama", options={"num_key_value_heads": 4}),
    "llama base": Case(model_type="llama", options=rope(theta=77.0)),
    "llama old base": Case(model_type="llama", options=rope(theta=77.0), changes=legacy(77.0)),
    "llama linear": Case(model_type="llama", options=rope("linear", factor=4.0)),
    "llama old linear": Case(model_type="llama", changes=legacy(type="linear", factor=4.0)),
    "llama llama3": Case(model_type="llama", options=rope("llama3", **LLAMA3)),
    "llama old llama3": Case(model_type="llama", changes=legacy(rope_type="llama3", **LLAMA3)),
    "llama yarn": Case(model_type="llama", options=rope("yarn", **YARN)),
    "llama old yarn": Case(model_type="llama", changes=legacy(type="yarn", **YARN)),
    "mistral": Case(model_type="mistral", options={"sliding_window": 7}),
    "mistral no window": Case(model_type="mistral", options={"sliding_window": None}),
    "mistral head size": Case(model_type="mistral", options={"sliding_window": 16, "head_dim": 32}),
    "mistral wide window": Case(model_type="mistral", options={"sliding_window": 256}),
    "qwen2": Case(model_type="qwen2"),
    "qwen2 tied": Case(model_type="qwen2", options={"tie_word_embeddings": True}),
    "qwen2 windows": Case(model_type="qwen2", options=WINDOWED | {"max_window_layers": 1}),
    "qwen2 old windows": Case(
        model_type="qwen2", options=WINDOWED | {"max_window_layers": 2}, changes={"layer_types": ...}
    ),
    "qwen2 unused window": Case(model_type="qwen2", changes={"sliding_window": 6, "use_sliding_window": False}),
    "qwen3": Case(model_type="qwen3", options={"head_dim": 32}),
    "qwen3 tied": Case(model_type="qwen3", options={"head_dim": 16, "tie_word_embeddings": True}),
    "qwen3 default head size": Case(model_type="qwen3", changes={"head_dim": ...}),
    "qwen3 windows": Case(
        model_type="qwen3",
        options=WINDOWED | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    ),
    "qwen3 biases": Case(model_type="qwen3", options={"attention_bias": True}),
    "gemma3": Case(model_type="gemma3_text", options=GEMMA),
    "gemma3 untied": Case(model_type="gemma3_text", options=GEMMA | {"tie_word_embeddings": False}),
    "gemma3 softcap": Case(model_type="gemma3_text", options=GEMMA | {"final_logit_softcapping": 5.0}),
    "gemma3 old": Case(
        model_type="gemma3_text",
        options=GEMMA,
        changes={
            "rope_parameters": ..., "layer_types": ..., "sliding_window_pattern": 3, "rope_theta": 100_000.0,
            "rope_local_base_freq": 500.0, "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
    ),
    "gemma3 defaults": Case(
        model_type="gemma3_text",
        options={"head_dim": 16, "query_pre_attn_scalar": 256, "sliding_window": 9},
        changes={"rope_parameters": ..., "layer_types": ..., "tie_word_embeddings": ..., "query_pre_attn_scalar": ...},
    ),
    "phi3": Case(model_type="phi3"),
    "phi3 window": Case(model_type="phi3", options={"sliding_window": 8}),
    "phi3 partial": Case(model_type="phi3", options=PHI | rope("default", partial_rotary_factor=0.5)),
    "phi3 long": Case(model_type="phi3", options=PHI | rope("longrope", **LONG), lengths=(40, 39, 45)),
    "phi3 short": Case(
        model_type="phi3", options=PHI | rope("longrope", **LONG), lengths=(32, 9, 23), max_seq_len=32
    ),
    "phi3 old": Case(
        model_type="phi3",
        changes=PHI | legacy(type="longrope", **LONG),
        lengths=(40, 39, 45),
    ),
    "phi3 oldest": Case(
        model_type="phi3",
        changes=PHI | legacy(type="su", original_max_position_embeddings=32, **LONG),
        lengths=(40, 39, 45),
    ),
    "smollm3": Case(model_type="smollm3", options={"num_hidden_layers": 5}),
    "smollm3 layers": Case(model_type="smollm3", options={"no_rope_layers": [0, 1, 0]}),
    "smollm3 windows": Case(model_type="smollm3", options=WINDOWED | {"no_rope_layers": [1, 0, 1]}),
    "smollm3 old": Case(
        model_type="smollm3",
        options=WINDOWED | {"no_rope_layer_interval": 2},
        changes={
            "layer_types": ..., "no_rope_layers": ..., "tie_word_embeddings": ..., "rope_parameters": ...,
        },
    ),
    "smollm3 untied": Case(model_type="smollm3", options={"tie_word_embeddings": False, "attention_bias": True}),
    "olmo2": Case(model_type="olmo2"),
    "olmo2 biases": Case(model_type="olmo2", options={"attention_bias": True, "tie_word_embeddings": True}),
    "olmo2 default epsilon": Case(model_type="olmo2", changes={"rms_norm_eps": ...}),
    "granite": Case(model_type="granite", options=GRANITE),
    "granite biases": Case(
        model_type="granite",
        options=GRANITE | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    ),
    "granite defaults": Case(
        model_type="granite", changes=dict.fromkeys(GRANITE, ...)
    ),
}  # fmt: skip


@pytest.fixture(name="case")
def case_fixture(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.mark.parametrize("case", CASES, indirect=True)
def test_follows_transformers(tmp_path: Path, case: Case) -> None:
    folder = tiny.save(tiny.make_model(case.model_type, **case.options), tmp_path / "checkpoint", **case.changes)
    package = build_package(folder, tmp_path / "package", precision="f32", max_seq_len=case.max_seq_len)
    check(package, tiny.load(folder), [tiny.tokens(length, seed) for seed, length in enumerate(case.lengths)])


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


def check(package: Path, model: Any, prompts: Sequence[list[int]]) -> None:
    """Alone in chunks, in a ragged batch step by step, and through the runtime."""
    logits = [tiny.expected(model, prompt) for prompt in prompts]
    assert logits[0].std() > 0.3, "logits too much alike to tell a right model from a wrong one"
    alone = tiny.Graph(package)
    close(np.concatenate([alone.add(chunk)[0] for chunk in tiny.chunks(prompts[0], 7)]), logits[0])
    batch = tiny.Graph(package, len(prompts))
    parts = [batch.add(*(prompt[:-NUM_DECODED] for prompt in prompts))]
    parts += [batch.add(*([prompt[step]] for prompt in prompts)) for step in range(-NUM_DECODED, 0)]
    for index, wanted in enumerate(logits):
        close(np.concatenate([part[index] for part in parts]), wanted)
    with tiny.loaded(package) as llm:
        close(llm.logits(prompts[0]), logits[0])


def close(actual: np.ndarray, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(actual, wanted, atol=TOLERANCE, rtol=0)


def test_prompts_of_different_lengths_continue_as_each_would_alone(tmp_path: Path) -> None:
    model = tiny.make_model("gemma3_text", **GEMMA)
    package = tiny.build(model, tmp_path)
    prompts = [tiny.tokens(length, seed) for seed, length in enumerate((19, 5, 11))]
    with tiny.loaded(package, prefill_chunk=4) as llm:
        results = llm.generate(prompts, max_new_tokens=10, ignore_eos=True)
    assert [result.token_ids for result in results] == [tiny.greedy(model, prompt, 10) for prompt in prompts]


def test_gemma3_caps_scores_where_its_configuration_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers reads `attn_logit_softcapping` but does not hand it to its own attention function: we do it here."""
    from transformers.models.gemma3 import modeling_gemma3

    capped = functools.partial(modeling_gemma3.eager_attention_forward, softcap=2.0)
    monkeypatch.setattr(modeling_gemma3, "eager_attention_forward", capped)
    model = tiny.make_model("gemma3_text", **GEMMA, attn_logit_softcapping=2.0)
    check(tiny.build(model, tmp_path), model, [tiny.tokens(40), tiny.tokens(9, seed=1)])


@pytest.mark.parametrize("name", [name for name, (kind, _) in converted.CASES.items() if kind != "olmo3"])
def test_gguf_files_give_the_same_model(tmp_path: Path, name: str) -> None:
    model_type, options = converted.CASES[name]
    model = converted.make_model(model_type, options)
    arch = converted.ARCHS.get(model_type, model_type)
    file = converted.write_gguf(model, arch, tmp_path / "m.gguf", write_vocabulary)
    package = build_package(file, tmp_path / "package", precision="f32")
    vocab_size = model.config.vocab_size
    prompts = [[3 + token % (vocab_size - 3) for token in tiny.tokens(length)] for length in (70, 66)]
    check(package, model, prompts)


def test_gguf_files_may_have_some_of_the_biases(tmp_path: Path) -> None:
    """As llama.cpp reads them: what is not there is zero."""
    model = converted.make_model("llama", {"attention_bias": True})
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.bias.zero_()

    def without_output_bias(writer: Any) -> None:
        write_vocabulary(writer)
        add = writer.add_tensor
        writer.add_tensor = lambda name, tensor: None if "attn_output.bias" in name else add(name, tensor)

    file = converted.write_gguf(model, "llama", tmp_path / "m.gguf", without_output_bias)
    prompts = [[3 + token % 77 for token in tiny.tokens(length)] for length in (20, 8)]
    check(build_package(file, tmp_path / "package", precision="f32"), model, prompts)


def write_vocabulary(writer: Any) -> None:
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<unk>", "<s>", "</s>", *(f"t{i}" for i in range(3, converted.SIZES["vocab_size"]))])
    writer.add_token_scores([0.0] * converted.SIZES["vocab_size"])
    writer.add_token_types([2, 3, 3, *[1] * (converted.SIZES["vocab_size"] - 3)])


NEWCOMER = '''
"""A family of one file."""

from genai.build.architectures import llama


def decoder_spec(config):
    return llama.decoder_spec(config)
'''


def test_a_family_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tiny.save(tiny.make_model("llama"), tmp_path / "checkpoint", model_type="newcomer")
    with pytest.raises(UnsupportedModelError, match="model type 'newcomer' is not supported"):
        build_package(source, tmp_path / "package", precision="f32")
    (tmp_path / "newcomer.py").write_text(NEWCOMER)
    monkeypatch.setattr(architectures, "__path__", [*architectures.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "genai.build.architectures.newcomer", raising=False)
    package = build_package(source, tmp_path / "package", precision="f32")
    expected = tiny.build(tiny.make_model("llama"), tmp_path / "llama")
    prompt = [5, 17, 200, 3]
    np.testing.assert_array_equal(tiny.Graph(package).add(prompt)[0], tiny.Graph(expected).add(prompt)[0])
