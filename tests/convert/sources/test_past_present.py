"""Models with past and present caches: exports of optimum-onnx and of torch's exporter, whole, in steps, in a batch."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import genai
from genai.config import EngineConfig, ModelConfig
from genai.convert import ConvertOptions, convert, probing
from genai.convert.sources.past_present import rewrite as past_present
from genai.errors import ConfigError, ModelError, ModelNotFoundError, TokenizerError, UnsupportedModelError
from genai.llm.llm import LLM
from tests.build import tiny

DATA = Path(__file__).parents[1] / "data" / "optimum"
TOLERANCE = 1e-3
WINDOWS = {"mistral": 7, "gemma3": 5, "gemma2": 5}
EXPORTS = ("llama", "llama_opset14", "qwen3", "mistral", "phi3", "gemma3", "gemma2", "gpt2", "opt")


@pytest.fixture(name="export")
def export_fixture(tmp_path: Path) -> Callable[[str], Path]:
    """A copy of an export with a tokenizer, as optimum leaves it where the checkpoint has one."""

    def copied(name: str) -> Path:
        folder = tmp_path / name
        shutil.copytree(DATA / name, folder)
        tiny.write_tokenizer(folder)
        return folder

    return copied


@pytest.mark.parametrize("name", EXPORTS)
def test_optimum_exports(export: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    """Logits as transformers gave them, texts as optimum did, in a ragged batch."""
    report = convert(export(name), tmp_path / "package")
    assert report.kind == "past and present caches, decomposed attention"
    assert report.agreement.is_good
    assert report.agreement.is_exact
    assert all(site.matched for site in report.fusions.sites)
    package = tmp_path / "package"
    assert ModelConfig.read(package).sliding_window == WINDOWS.get(name)
    wanted = json.loads((DATA / name / "expected.json").read_text())
    logits = list(np.load(DATA / name / "expected.npz").values())
    with tiny.loaded(package) as llm:
        for prompt, expected in zip(wanted["prompts"], logits, strict=True):
            np.testing.assert_allclose(llm.logits(prompt), expected, atol=TOLERANCE, rtol=0)
        results = llm.generate(wanted["prompts"], max_new_tokens=12, ignore_eos=True)
    assert [list(result.token_ids) for result in results] == wanted["texts"]


@pytest.mark.parametrize(
    ("name", "window", "has"), [("mistral", 12, "7"), ("mistral", 5, "7"), ("llama", 9, "none"), ("gemma3", 9, "5")]
)
def test_windows_are_held_against_the_configuration(
    export: Callable[[str], Path], tmp_path: Path, name: str, window: int, has: str
) -> None:
    folder = export(name)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"sliding_window": window}))
    shortest = window if has == "none" else min(window, int(has))
    with pytest.raises(
        UnsupportedModelError, match=f"window of {window} .* graph has {has}: .*max_seq_len={shortest} "
    ):
        convert(folder, tmp_path / "package")
    if shortest > 6:  # less is too short to compare on
        assert convert(folder, tmp_path / "package", ConvertOptions(max_seq_len=shortest)).agreement.is_good


@pytest.mark.parametrize(
    "changes", [{"sliding_window": 8}, {"sliding_window": None}, {"sliding_window": 99, "use_sliding_window": False}]
)
def test_windows_that_are_the_configurations_or_nobodys(
    export: Callable[[str], Path], tmp_path: Path, changes: dict[str, object]
) -> None:
    """Versions of transformers differ by one."""
    folder = export("mistral")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    assert convert(folder, tmp_path / "package").agreement.is_good
    assert ModelConfig.read(tmp_path / "package").sliding_window == 7


def test_windows_beyond_the_usual_length_are_found(
    export: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The configuration says how far to look."""
    monkeypatch.setattr(past_present, "LONGEST", 4)
    convert(export("mistral"), tmp_path / "package")
    assert ModelConfig.read(tmp_path / "package").sliding_window == 7


def test_bookkeeping_reads_no_weights(
    export: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sizes are taken from the inputs: the embedding, which may have gigabytes, is not run to know its shape."""
    monkeypatch.setattr(probing, "_MAX_WEIGHT_BYTES", 2000)
    assert convert(export("gemma3"), tmp_path / "package").agreement.is_good


def test_position_biases_are_refused(export: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="attention"):
        convert(export("bloom"), tmp_path / "package")
    assert not (tmp_path / "package").exists()


@pytest.fixture(name="traced", scope="module")
def traced_fixture(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A Qwen 3 through torch's own exporter, with Attention operators and Concat caches."""
    torch = pytest.importorskip("torch")
    from transformers import DynamicCache

    model = tiny.make_model("qwen3", num_hidden_layers=2, head_dim=24)
    model.config._attn_implementation = "sdpa"

    class Wrapper(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any, past_key_values: Any) -> Any:
            cache = DynamicCache(config=model.config)
            for layer, (keys, values) in enumerate(past_key_values):
                cache.update(keys, values, layer)
            result = self.model(input_ids=input_ids, attention_mask=attention_mask, cache=cache)
            return result.logits, [(layer.keys, layer.values) for layer in result.cache.layers]

    past = [(torch.randn(2, 2, 4, 24), torch.randn(2, 2, 4, 24)) for _ in range(2)]
    inputs = (torch.randint(3, 90, (2, 3)), torch.ones(2, 7, dtype=torch.int64), past)
    free = torch.export.Dim.DYNAMIC
    names = [f"past_key_values.{layer}.{part}" for layer in range(2) for part in ("key", "value")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own deprecations
        program = torch.onnx.export(
            Wrapper().eval(), inputs, dynamo=True, opset_version=23, verbose=False,
            input_names=["input_ids", "attention_mask", *names],
            output_names=["logits", *(name.replace("past_key_values", "present") for name in names)],
            dynamic_shapes={
                "input_ids": {0: free, 1: free},
                "attention_mask": {0: free, 1: free},
                "past_key_values": [({0: free, 2: free}, {0: free, 2: free})] * 2,
            },
        )  # fmt: skip
    folder = tiny.save(model, tmp_path_factory.mktemp("traced"))
    program.save(folder / "model.onnx")
    return folder, model


def follows(package: Path, model: Any) -> None:
    prompts = [tiny.tokens(length, seed) for seed, length in enumerate((30, 7, 15))]
    with tiny.loaded(package) as llm:
        np.testing.assert_allclose(llm.logits(prompts[0]), tiny.expected(model, prompts[0]), atol=TOLERANCE, rtol=0)
        results = llm.generate(prompts, max_new_tokens=8, ignore_eos=True)
    assert [result.token_ids for result in results] == [tiny.greedy(model, prompt, 8) for prompt in prompts]


@pytest.mark.long
def test_torch_exports(traced: tuple[Path, Any], tmp_path: Path) -> None:
    """Positions that the graph computed from the past's length become an input."""
    folder, model = traced
    report = convert(folder, tmp_path / "package")
    assert report.kind == "past and present caches, Attention operators"
    follows(tmp_path / "package", model)
    operators = [node.op_type for node in onnx.load(tmp_path / "package" / "model.onnx").graph.node]
    assert operators.count("TensorScatter") == 4
    assert operators.count("Attention") == 2
    assert "Expand" not in operators, "repeated heads or an expanded mask"


@pytest.mark.parametrize("is_flat", [False, True], ids=["4-D", "3-D"])
def test_attention_with_its_own_past(traced: tuple[Path, Any], tmp_path: Path, is_flat: bool) -> None:
    """`Attention` that joins past and new keys itself, on [B, H, T, D] and on [B, T, H * D]."""
    folder, model = traced
    source = tmp_path / "source"
    shutil.copytree(folder, source)
    ir.save(with_own_past(ir.load(folder / "model.onnx"), is_flat), source / "model.onnx")
    convert(source, tmp_path / "package")
    follows(tmp_path / "package", model)


def with_own_past(model: ir.Model, is_flat: bool) -> ir.Model:
    """Every Concat and the repetition of heads moved into its Attention."""
    graph = model.graph
    pasts = {value.name: value for value in graph.inputs}
    presents = {value.name: value for value in graph.outputs}
    for layer, node in enumerate([node for node in graph if node.op_type == "Attention"]):
        names = [f"{layer}.{part}" for part in ("key", "value")]
        news = [presents[f"present.{name}"].producer().inputs[1] for name in names]
        past = [pasts[f"past_key_values.{name}"] for name in names]
        operands, attributes = [node.inputs[0], *news], {"scale": node.attributes.get_float("scale")}
        if is_flat:
            operands = [flattened(graph, value, heads * 24) for value, heads in zip(operands, (4, 2, 2), strict=True)]
            attributes |= {"q_num_heads": 4, "kv_num_heads": 2}
        new = ir.node("Attention", [*operands, node.inputs[3], *past], attributes, num_outputs=3)
        graph.append(new)
        result = new.outputs[0]
        if is_flat:
            shape = ir.node("Reshape", [result, constant(graph, [0, 0, 4, 24])])
            turned = ir.node("Transpose", [shape.outputs[0]], {"perm": [0, 2, 1, 3]})
            graph.extend([shape, turned])
            result = turned.outputs[0]
        node.outputs[0].replace_all_uses_with(result)
        for name, output in zip(names, new.outputs[1:], strict=True):
            old = presents[f"present.{name}"]
            output.type, output.shape = old.type, old.shape
            old.name, output.name = f"old.{name}", f"present.{name}"
            graph.outputs[list(graph.outputs).index(old)] = output
    graph.sort()
    ir.passes.common.RemoveUnusedNodesPass()(model)
    return model


def flattened(graph: ir.Graph, value: ir.Value, size: int) -> ir.Value:
    turned = ir.node("Transpose", [value], {"perm": [0, 2, 1, 3]})
    flat = ir.node("Reshape", [turned.outputs[0], constant(graph, [0, 0, size])])
    graph.extend([turned, flat])
    return flat.outputs[0]


def constant(graph: ir.Graph, numbers: list[int]) -> ir.Value:
    return stored(graph, f"numbers{len(graph.initializers)}", np.array(numbers, np.int64))


def stored(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def test_rounding_is_reported(export: Callable[[str], Path], tmp_path: Path) -> None:
    report = convert(export("llama"), tmp_path / "package", ConvertOptions(quantize="int8"))
    assert report.agreement.is_exact
    assert len(report.quantized) == 15
    assert 0 < max(weight.error for weight in report.quantized) < 0.02
    assert report.rounded is not None
    assert 0 < report.rounded.mean_kl < 0.02
    config = ModelConfig.read(tmp_path / "package")
    assert config.provenance.precision == "int8"
    assert json.loads((tmp_path / "package" / "conversion.json").read_text())["rounded"]["is_good"]


@pytest.mark.parametrize("quantize", [None, "int8"])
def test_weights_that_were_rounded_before(
    export: Callable[[str], Path], tmp_path: Path, quantize: Literal["int8"] | None
) -> None:
    """Behind DequantizeLinear: the same numbers in the form that has fast kernels, or rounded to blocks."""
    folder = export("llama")
    ir.save(with_dequantized_weights(ir.load(folder / "model.onnx")), folder / "model.onnx")
    report = convert(folder, tmp_path / "package", ConvertOptions(quantize=quantize))
    assert report.agreement.is_exact
    operators = [node.op_type for node in onnx.load(tmp_path / "package" / "model.onnx").graph.node]
    assert operators.count("MatMulNBits") == 15
    assert len(report.quantized) == (15 if quantize else 0)
    assert "DequantizeLinear" not in operators
    assert report.rounded is not None
    assert report.rounded.mean_kl < 0.02


def with_dequantized_weights(model: ir.Model) -> ir.Model:
    """Every product's weight as int8 with a scale for each column."""
    graph = model.graph
    for node in [node for node in graph if node.op_type == "MatMul"]:
        weight = node.inputs[1]
        if weight.const_value is None:
            continue
        array = weight.const_value.numpy()
        scale = np.abs(array).max(0) / 127
        rounded = np.rint(array / scale).astype(np.int8)
        parts = [stored(graph, f"{weight.name}.{kind}", part) for kind, part in (("q", rounded), ("scale", scale))]
        dequantized = ir.node("DequantizeLinear", parts, {"axis": 1})
        node.prepend(dequantized)
        node.replace_input_with(1, dequantized.outputs[0])
    return model


def test_sixteen_bits(export: Callable[[str], Path], tmp_path: Path) -> None:
    report = convert(export("gemma3"), tmp_path / "package", ConvertOptions(dtype="f16"))
    assert report.rounded is not None
    assert 1e-7 < report.rounded.mean_kl < 1e-3
    assert ModelConfig.read(tmp_path / "package").cache_dtype == "float16"
    graph = onnx.load(tmp_path / "package" / "model.onnx", load_external_data=False).graph
    wide = [tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT]
    assert all(np.prod(tensor.dims) < 64 for tensor in wide), "weights are still in 32 bits"
    precision = [
        a.i
        for node in graph.node
        if node.op_type == "Attention"
        for a in node.attribute
        if a.name == "softmax_precision"
    ]
    assert precision == [onnx.TensorProto.FLOAT] * 2


def test_sixteen_bits_without_kernels_here(export: Callable[[str], Path], tmp_path: Path) -> None:
    report = convert(export("llama"), tmp_path / "package", ConvertOptions(dtype="bf16"))
    assert ModelConfig.read(tmp_path / "package").cache_dtype == "bfloat16"
    if report.rounded is None:
        assert any("no kernels" in note for note in report.notes)


def test_caches_written_by_scatter_nd(export: Callable[[str], Path], tmp_path: Path) -> None:
    convert(export("llama"), tmp_path / "plain")
    folder = tmp_path / "llama"
    convert(folder, tmp_path / "lowered", ConvertOptions(scatter_nd=True))
    graph = onnx.load(tmp_path / "lowered" / "model.onnx").graph
    assert not [node for node in graph.node if node.op_type == "TensorScatter"]
    with loaded(tmp_path / "plain") as plain, loaded(tmp_path / "lowered") as lowered:
        prompts = [tiny.tokens(length, seed) for seed, length in enumerate((20, 5))]
        prompts = [[3 + token % 45 for token in prompt] for prompt in prompts]
        wanted, got = (llm.generate(prompts, max_new_tokens=10, ignore_eos=True) for llm in (plain, lowered))
        assert [result.token_ids for result in got] == [result.token_ids for result in wanted]


def loaded(package: Path) -> LLM:
    return LLM(package, EngineConfig(device="cpu", num_threads=1, kv_cache_bytes=4_000_000))


def test_what_is_missing_is_said(export: Callable[[str], Path], tmp_path: Path) -> None:
    folder = export("llama")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(TokenizerError, match="tokenizer"):
        convert(folder, tmp_path / "package")
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match="max_seq_len"):
        convert(folder, tmp_path / "package")
    with pytest.raises(ModelNotFoundError, match=r"no model\.onnx"):
        convert(tmp_path, tmp_path / "package")
    with pytest.raises(ConfigError, match="quantize"):
        ConvertOptions(quantize="int2")
    assert not (tmp_path / "package").exists()


def test_a_wrong_conversion_is_not_written(
    export: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the rewriting gets wrong, the comparison finds."""
    from genai.convert.sources.past_present.scores import Sampler

    monkeypatch.setattr(Sampler, "number", lambda *_: 2.0)
    with pytest.raises(ModelError, match="does not agree"):
        convert(export("llama"), tmp_path / "package")
    assert not (tmp_path / "package").exists()


def test_a_package_is_loaded_by_name(export: Callable[[str], Path], tmp_path: Path) -> None:
    folder = export("qwen3")
    (folder / "generation_config.json").write_text(
        '{"do_sample": true, "temperature": 0.6, "transformers_version": "4"}'
    )
    convert(folder, tmp_path / "package", ConvertOptions(max_seq_len=40))
    assert ModelConfig.read(tmp_path / "package").generation == {"do_sample": True, "temperature": 0.6}
    with genai.load(tmp_path / "package", device="cpu") as llm:
        assert llm.max_seq_len == 40
        assert llm.generate([5, 6, 7], max_new_tokens=3, ignore_eos=True).usage.completion_tokens == 3
    with pytest.raises(UnsupportedModelError, match="a package already"):
        convert(tmp_path / "package", tmp_path / "again")
