"""What `genai_config.json` would say, where a graph of onnxruntime's attention operators lies without one.

So do the models that transformers.js runs: `onnx/model*.onnx` beside `config.json`. Names of caches are read off the
graph, heads off the operators, everything else off `config.json`.
"""

from __future__ import annotations

import re

import onnx_ir as ir

from genai.build.checkpoint_config import CONFIG_FILE as HF_CONFIG
from genai.build.checkpoint_config import read_json_object
from genai.convert.emit import Heads
from genai.convert.package import read_facts
from genai.convert.recurrent import find_recurrences
from genai.convert.sources.onnxruntime_genai.attention import OPERATORS
from genai.convert.sources.onnxruntime_genai.config import GenaiConfig, TensorNames
from genai.convert.untrusted.reading import OnnxFile
from genai.convert.values import size_of
from genai.errors import UnsupportedModelError

_NUMBER = re.compile(r"\d+")


def has_operators(model: ir.Model) -> bool:
    """Whether a graph attends by onnxruntime's own operators."""
    return any(node.op_type in OPERATORS for node in model.graph)


def config_of_graph(file: OnnxFile, model: ir.Model, max_seq_len: int | None) -> GenaiConfig:
    """The configuration of a graph that has none. Raises: UnsupportedModelError, ModelError for a missing length."""
    graph = model.graph
    states = {value for each in find_recurrences(graph) for value in (each.past, each.present)}
    pasts = [
        value for value in graph.inputs if value.shape is not None and len(value.shape) == 4 and value not in states
    ]
    node = next(node for node in graph if node.op_type in OPERATORS)
    if not pasts:
        raise UnsupportedModelError(f"{file.path.name} has {node.op_type} nodes but no past keys and values as inputs")
    names = [value.name or "" for value in graph.inputs if value not in pasts and value not in states]
    past_key, past_value = _patterns([value.name or "" for value in pasts], "inputs")
    presents = [value.name or "" for value in graph.outputs if _NUMBER.search(value.name or "") and value not in states]
    present_key, present_value = _patterns(presents, "outputs")
    heads = _heads(file, node, pasts[0])
    return GenaiConfig(
        graph=file.path,
        facts=read_facts(file.folder, heads, max_seq_len),
        inputs=tuple(names),
        names=TensorNames(
            position_ids="position_ids" if "position_ids" in names else None,
            past_key=past_key,
            past_value=past_value,
            present_key=present_key,
            present_value=present_value,
        ),
        num_layers=1 + max(int(_NUMBER.findall(value.name or "")[0]) for value in pasts),
    )


def _patterns(names: list[str], what: str) -> tuple[str, str]:
    """How keys and values are called, `%d` for the layer, of names with one number each."""
    patterns = sorted({_NUMBER.sub("%d", name, count=1) for name in names if len(_NUMBER.findall(name)) == 1})
    keys, values = ([name for name in patterns if _is_of(part, name)] for part in _PARTS)
    if len(keys) != 1 or len(values) != 1 or len(patterns) != 2:
        raise UnsupportedModelError(
            f"the graph's {what} {', '.join(names[:4])} are not called as caches are (past_key_values.0.key, "
            "present.0.value): which are keys and which are values is not known"
        )
    return keys[0], values[0]


_PARTS = ("key", "value")


def _is_of(part: str, pattern: str) -> bool:
    """Whether a pattern is that of keys or values; `past_key_values` before the layer is the name of both."""
    head, _, tail = pattern.partition("%d")
    return part in tail if any(name in tail for name in _PARTS) else part in head.replace("key_values", "")


def _heads(file: OnnxFile, node: ir.Node, past: ir.Value) -> Heads:
    config = read_json_object(file.folder / HF_CONFIG) if (file.folder / HF_CONFIG).is_file() else {}
    num_heads = node.attributes.get_int("num_heads", 0)
    num_kv_heads = node.attributes.get_int("kv_num_heads", 0) or size_of(past, 1) or num_heads
    head_dim, hidden = size_of(past, 3) or config.get("head_dim"), config.get("hidden_size")
    if head_dim is None and isinstance(hidden, int) and num_heads > 0:
        head_dim = hidden // num_heads
    if num_heads < 1 or not isinstance(head_dim, int) or head_dim < 1:
        raise UnsupportedModelError(
            f"{node.name} has {num_heads} heads of {head_dim or 'unknown'} elements: give config.json with head_dim "
            "beside it"
        )
    return Heads(num_heads=num_heads, num_kv_heads=num_kv_heads, head_dim=head_dim)
