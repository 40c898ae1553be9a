"""onnxruntime-genai folders, made by its own model builder, on the contract: the same numbers, the same texts."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from genai.config import ModelConfig
from genai.convert import ConversionReport, ConvertOptions, convert
from genai.convert.normalize import normalize
from genai.convert.sources.onnxruntime_genai.config import read_genai_config
from genai.convert.sources.onnxruntime_genai.rewrite import convert_genai
from genai.convert.untrusted.reading import read_onnx
from genai.errors import ModelError, UnsupportedModelError
from tests.build import tiny
from tests.convert.sources.genai_folders import change_config, genai_folder, genai_text, write_checkpoint

pytest.importorskip("onnxruntime_genai")

LAYERS = {"num_hidden_layers": 2}
GEMMA = LAYERS | {
    "head_dim": 16,
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention"],
    "query_pre_attn_scalar": 16,
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": LAYERS,
    "mistral": LAYERS | {"sliding_window": None},
    "qwen2": LAYERS,
    "qwen3": LAYERS | {"head_dim": 16},
    "phi": LAYERS | {"hidden_size": 128},
    "phi3": LAYERS,
    "gemma2": GEMMA,
    "gemma3_text": GEMMA,
    "qwen3_5_text": tiny.HYBRID
    | {
        "tie_word_embeddings": False,
        "rope_parameters": tiny.HYBRID["rope_parameters"] | {"mrope_section": [2, 1, 1], "mrope_interleaved": True},
    },
    "lfm2": {"num_hidden_layers": 4, "layer_types": ["conv", "full_attention"] * 2, "conv_L_cache": 3},
}
"""Biases, norms of heads, part of each head turned, windows beside full layers, capped scores, recurrent layers."""
CHANGES: dict[str, dict[str, Any]] = {
    "phi3": {"original_max_position_embeddings": 256},
    "qwen3_5_text": {"architectures": ["Qwen3_5ForConditionalGeneration"]},
}
QUANTIZED = {
    "int4": ("int4", "cpu", ()),
    "int4 with offsets, blocks of 16, embedding shared": (
        "int4",
        "cpu",
        (
            "is_symmetric=false",
            "block_size=16",
            "algo_config=rtn",
            "shared_embeddings=true",
            "op_types_to_quantize=MatMul/Gather",
        ),
    ),
    "int8": ("int8", "cpu", ("algo_config=k_quant",)),
    "q, k, v apart": ("int4", "cpu", ("fuse_qkv=false",)),
    "f16": ("fp16", "cuda", ()),
    "f16, rotary apart": ("fp16", "dml", ()),
    "f16, MultiHeadAttention": ("fp16", "cpu", ()),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """A checkpoint, its folder by the builder, and the package made of that."""

    model: Any
    folder: Path
    package: Path
    report: ConversionReport


Make = Callable[[str], Converted]
OF_OTHERS = {"num_heads", "kv_num_heads", "sliding_window_cache"}
"""Attributes whose values the inputs' sizes give, or another attribute: ONNX Runtime refuses them alone."""


def operator_attributes(name: str) -> dict[str, type]:
    """The attributes that the installed ONNX Runtime knows of one of its operators, and what they are."""
    from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

    schema = next(each for each in get_all_operator_schema() if (each.domain, each.name) == ("com.microsoft", name))
    types = {"INT": int, "FLOAT": float, "STRING": str}
    return {key: types[each.type.name] for key, each in schema.attributes.items()}


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Builds and converts each architecture once."""
    made: dict[str, Converted] = {}

    def make(name: str) -> Converted:
        if name not in made:
            place = tmp_path_factory.mktemp(name)
            model = tiny.make_model(name, **ARCHITECTURES[name])
            checkpoint = write_checkpoint(model, place / "checkpoint", **CHANGES.get(name, {}))
            folder = genai_folder(checkpoint, place / "folder")
            report = convert(folder, place / "package")
            made[name] = Converted(model=model, folder=folder, package=place / "package", report=report)
        return made[name]

    return make


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama checkpoint with its embedding as its head."""
    model = tiny.make_model("llama", tie_word_embeddings=True, **LAYERS)
    return write_checkpoint(model, tmp_path_factory.mktemp("llama") / "checkpoint")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_logits_are_those_of_transformers(converted: Make, name: str) -> None:
    case = converted(name)
    first, second = tiny.tokens(30), tiny.tokens(19, seed=1)
    graph = tiny.Graph(case.package, num_rows=2)
    parts = [
        graph.add(first[:9], second[:17]),
        graph.add(first[9:10], second[17:18]),
        graph.add(first[10:], second[18:]),
    ]
    for row, tokens in enumerate((first, second)):
        got = np.concatenate([part[row] for part in parts])
        np.testing.assert_allclose(got, tiny.expected(case.model, tokens), atol=1e-3)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_texts_are_those_of_the_original_tool(converted: Make, name: str) -> None:
    case = converted(name)
    prompts = [tiny.tokens(count, seed=count) for count in (5, 11, 23)]
    wanted = [genai_text(case.folder, prompt, 16) for prompt in prompts]
    with tiny.loaded(case.package) as llm:
        results = llm.generate(prompts, max_new_tokens=16, ignore_eos=True, do_sample=False)
    assert [list(result.token_ids) for result in results] == wanted


def test_what_the_package_says(converted: Make) -> None:
    case = converted("gemma3_text")
    config = ModelConfig.read(case.package)
    assert (config.model_type, config.num_layers, config.sliding_window) == ("gemma3_text", 2, 8)
    assert (config.num_heads, config.num_kv_heads, config.head_dim, config.max_position) == (4, 2, 16, 256)
    assert (config.eos_token_ids, config.bos_token_id, config.pad_token_id) == ((2,), 1, 0)
    assert config.generation["do_sample"] is False
    assert case.report.kind == "onnxruntime-genai folder"
    assert case.report.notes == ()


def test_a_tokenizer_that_lies_elsewhere(converted: Make, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(converted("llama").folder, tmp_path / "folder"))
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    (folder / "tokenizer.json").rename(tokenizer / "tokenizer.json")
    report = convert(folder, tmp_path / "package", ConvertOptions(hf_folder=tokenizer))
    assert report.kind == "onnxruntime-genai folder"


def test_rotary_rows_are_taken_once(converted: Make) -> None:
    kinds = operators(converted("llama").package)
    assert kinds["Gather"] == 3  # the embedding, cosines, sines
    assert kinds["RotaryEmbedding"] == 4
    assert kinds["Cast"] == 0


@pytest.mark.parametrize("name", QUANTIZED)
def test_rounded_weights_stay_as_they_are(llama: Path, tmp_path: Path, name: str) -> None:
    precision, provider, options = QUANTIZED[name]
    folder = genai_folder(llama, tmp_path / "folder", precision, provider, options)
    report = convert(folder, tmp_path / "package")
    assert report.agreement is not None
    assert report.agreement.mean_kl < 1e-3
    before, after = operators(folder), operators(tmp_path / "package")
    for kind in ("MatMulNBits", "GatherBlockQuantized", "SkipSimplifiedLayerNormalization", "MatMul"):
        assert before[kind] == after[kind]
    assert ModelConfig.read(tmp_path / "package").cache_dtype == ("float16" if precision == "fp16" else "float32")


def test_a_head_for_the_last_position_only(llama: Path, tmp_path: Path) -> None:
    options = ["prune_lm_head=true", "include_hidden_states=true"]
    folder = genai_folder(llama, tmp_path / "folder", options=options)
    report = convert(folder, tmp_path / "package")
    assert report.notes == ("the output hidden_states is left behind",)
    tokens = tiny.tokens(12)
    (logits,) = tiny.Graph(tmp_path / "package").add(tokens)
    np.testing.assert_allclose(logits, tiny.expected(tiny.load(llama), tokens), atol=1e-3)


@pytest.mark.parametrize(("context", "kept"), [(100, "short"), (None, "long")])
def test_longrope_takes_the_tables_of_its_context(tmp_path: Path, context: int | None, kept: str) -> None:
    factors = {"short": [1 + 0.1 * i for i in range(8)], "long": [2 + 0.3 * i for i in range(8)]}
    scaling = {"rope_type": "longrope", "short_factor": factors["short"], "long_factor": factors["long"]}
    model = tiny.make_model("phi3", **LAYERS)
    changes = {"rope_parameters": ..., "rope_scaling": scaling | {"type": "longrope"}, "rope_theta": 10000.0}
    checkpoint = write_checkpoint(model, tmp_path / "hf", original_max_position_embeddings=128, **changes)
    folder = genai_folder(checkpoint, tmp_path / "folder")
    report = convert(folder, tmp_path / "package", ConvertOptions(max_seq_len=context))
    assert report.notes[0] == f"rotary tables: those for {kept} texts, for the context of {context or 256}"
    tokens = tiny.tokens(90 if kept == "short" else 180)
    (logits,) = tiny.Graph(tmp_path / "package", capacity=192).add(tokens)
    np.testing.assert_allclose(logits, tiny.expected(tiny.load(checkpoint), tokens), atol=1e-3)


def test_norms_inside_the_operator(tmp_path: Path) -> None:
    model = tiny.make_model("qwen3", head_dim=16, **LAYERS)
    folder = genai_folder(write_checkpoint(model, tmp_path / "hf"), tmp_path / "folder", "fp16", "cuda")
    with pytest.raises(UnsupportedModelError, match="fuse_qk_norm_gqa=false"):
        convert(folder, tmp_path / "package")  # nothing here runs the original
    config = read_genai_config(folder)
    graph = read_onnx(config.graph)
    normalize(graph)
    convert_genai(graph, config, lambda: pytest.fail("nothing here runs the original"))
    ir.save(graph, tmp_path / "model.onnx", external_data="model.onnx.data")
    tokens = tiny.tokens(20)
    (logits,) = tiny.Graph(tmp_path).add(tokens)
    np.testing.assert_allclose(logits, tiny.expected(model, tokens), atol=0.05)


@pytest.mark.parametrize(
    ("target", "option", "said"),
    [
        (("fp16", "cuda"), "use_paged_attention=true", "block_table"),
        (("fp32", "cpu"), "exclude_lm_head=true", "without a head"),
        (("fp32", "cpu"), "exclude_embeds=true", "inputs_embeds"),
    ],
)
def test_refused_by_name(llama: Path, tmp_path: Path, target: tuple[str, str], option: str, said: str) -> None:
    folder = genai_folder(llama, tmp_path / "folder", *target, [option])
    with pytest.raises(UnsupportedModelError, match=said):
        convert(folder, tmp_path / "package")
    assert not (tmp_path / "package").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"qk_output": 1}, "qk_output=1"),
        ({"k_quant_type": "PER_TENSOR"}, "k_quant_type=PER_TENSOR"),
        ({"sparse": 1}, "attribute sparse"),
        ({"num_heads": 5}, "elements"),
    ],
)
def test_an_attention_that_does_more(converted: Make, tmp_path: Path, change: dict[str, Any], said: str) -> None:
    folder = Path(shutil.copytree(converted("llama").folder, tmp_path / "folder"))
    edit(folder, lambda node: node.attribute.extend([onnx.helper.make_attribute(*item) for item in change.items()]))
    with pytest.raises(UnsupportedModelError, match=said):
        convert(folder, tmp_path / "package")


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(operator_attributes("GroupQueryAttention").keys() - OF_OTHERS))
def test_every_attribute_is_honoured_or_refused(converted: Make, tmp_path: Path, name: str) -> None:
    """Whatever the runtime's operator takes: what is converted agrees with it, and what is not is named."""
    values = {str: ("PER_TENSOR",), int: (1, 3), float: (0.25, 3.0)}[operator_attributes("GroupQueryAttention")[name]]
    for number, value in enumerate(values):
        folder = Path(shutil.copytree(converted("llama").folder, tmp_path / f"folder{number}"))
        edit(folder, lambda node, value=value: node.attribute.append(onnx.helper.make_attribute(name, value)))
        try:
            report = convert(folder, tmp_path / f"package{number}")
        except UnsupportedModelError as error:
            assert name in str(error)  # noqa: PT017
        else:
            assert report.agreement.is_exact


@pytest.mark.parametrize(
    ("index", "said"), [(10, "attention_bias"), (11, "sinks .* that are no 4 fixed numbers"), (12, "quantized cache")]
)
def test_an_attention_with_more_inputs(converted: Make, tmp_path: Path, index: int, said: str) -> None:
    folder = Path(shutil.copytree(converted("llama").folder, tmp_path / "folder"))

    def give(node: onnx.NodeProto) -> None:
        node.input.extend([""] * (index + 1 - len(node.input)))
        node.input[index] = "cos_cache"

    edit(folder, give)
    with pytest.raises(UnsupportedModelError, match=said):
        convert(folder, tmp_path / "package")


def test_a_mask_less_attention_that_sees_the_future(llama: Path, tmp_path: Path) -> None:
    folder = genai_folder(llama, tmp_path / "folder", "fp16", "cpu")

    def unmask(node: onnx.NodeProto) -> None:
        node.input[5] = ""

    edit(folder, unmask, "MultiHeadAttention")
    with pytest.raises(UnsupportedModelError, match="sees tokens of the future"):
        convert(folder, tmp_path / "package")


def test_another_attention(converted: Make, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(converted("llama").folder, tmp_path / "folder"))
    edit(folder, lambda node: setattr(node, "op_type", "SparseAttention"))
    with pytest.raises(UnsupportedModelError, match=r"layer 0.*SparseAttention.*GroupQueryAttention"):
        convert(folder, tmp_path / "package")


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"model__decoder__num_hidden_layers": 5}, UnsupportedModelError, "layer 2 of 5"),
        ({"model__decoder__head_size": 8}, UnsupportedModelError, "64 are expected"),
        ({"model__decoder__inputs__input_ids": "ids"}, UnsupportedModelError, "'ids'"),
        ({"model__decoder__outputs__logits": "scores"}, UnsupportedModelError, "'scores'"),
        ({"model__decoder__outputs__present_key_names": "next.%d"}, UnsupportedModelError, "'next.0'"),
        ({"model__decoder__filename": "other.onnx"}, ModelError, "other.onnx"),
        ({"model__decoder__filename": "../folder/model.onnx"}, ModelError, "leads out"),
    ],
)
def test_a_configuration_of_another_graph(
    converted: Make, tmp_path: Path, change: dict[str, Any], error: type[ModelError], said: str
) -> None:
    folder = Path(shutil.copytree(converted("llama").folder, tmp_path / "folder"))
    change_config(folder, **change)
    with pytest.raises(error, match=said):
        convert(folder, tmp_path / "package")


def operators(folder: Path) -> Counter[str]:
    """How often each operator stands in a folder's graph."""
    return Counter(node.op_type for node in onnx.load(folder / "model.onnx", load_external_data=False).graph.node)


def edit(folder: Path, change: Callable[[onnx.NodeProto], object], kind: str = "GroupQueryAttention") -> None:
    """Change the nodes of one kind in a folder's graph; what an attribute says anew counts."""
    path = folder / "model.onnx"
    model = onnx.load(path, load_external_data=False)
    for node in model.graph.node:
        if node.op_type == kind:
            change(node)
            latest = {attribute.name: attribute for attribute in node.attribute}
            kept = [onnx.AttributeProto.FromString(attribute.SerializeToString()) for attribute in latest.values()]
            del node.attribute[:]
            node.attribute.extend(kept)
    onnx.save(model, path)
