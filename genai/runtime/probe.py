"""Known-answer check of the two operators that decoding stands on, on the provider that will run them.

Older ONNX Runtimes aligned `is_causal` with `nonpad_kv_seqlen` to the wrong corner and gave wrong numbers without an
error, so a version check is not enough: two rows of different length are written and attended over, with one and with
several queries, and compared with NumPy. Then the inputs change and the same binding runs again, as it does when
decoding: a device has to be shown what has changed. Packages whose layers' keys and values are of different sizes, or
whose keys are given as values, too, have that looked at as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from genai import contract
from genai.config import EngineConfig
from genai.contract import Cache
from genai.errors import GraphRunError, ModelError, RuntimeUnavailableError
from genai.runtime.ort import Array, import_onnxruntime
from genai.runtime.providers import provider_for
from genai.runtime.session import Session

KNOWN_GOOD = "1.31.1"
_CAPACITY, _HEADS = 8, 2
_TOLERANCE = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """What attends: two heads of queries. value_dim: None if the keys are the values, too."""

    what: str
    num_kv_heads: int
    key_dim: int
    value_dim: int | None

    @property
    def widths(self) -> dict[str, int]:
        """The caches, and what a token takes in them."""
        widths = {"keys": self.num_kv_heads * self.key_dim}
        return widths if self.value_dim is None else widths | {"values": self.num_kv_heads * self.value_dim}

    @property
    def num_outputs(self) -> int:
        """Elements of a token's result."""
        return _HEADS * (self.value_dim or self.key_dim)


_PLAIN = _Layer(what="", num_kv_heads=2, key_dim=16, value_dim=16)
_APART = _Layer(what=" of keys and values of different sizes", num_kv_heads=2, key_dim=24, value_dim=16)
_KEYS_ONLY = _Layer(what=" of keys that are given as values, too,", num_kv_heads=1, key_dim=24, value_dim=None)


def check_kernels(config: EngineConfig, cache_dtype: str) -> None:
    """Raises: RuntimeUnavailableError if a kernel is missing or computes something else."""
    _check(config, cache_dtype, _PLAIN)


def check_layers(config: EngineConfig, cache_dtype: str, caches: Iterable[Cache]) -> None:
    """The same for what a graph with these caches does beyond that. Raises: RuntimeUnavailableError."""
    widths: dict[int, list[int]] = {}
    for cache in caches:
        widths.setdefault(cache.layer, []).append(cache.width)
    if any(len(layer) == 2 and layer[0] != layer[1] for layer in widths.values()):
        _check(config, cache_dtype, _APART)
    if any(len(layer) == 1 for layer in widths.values()):
        _check(config, cache_dtype, _KEYS_ONLY)


def _check(config: EngineConfig, cache_dtype: str, layer: _Layer) -> None:
    for num_tokens in (1, 3):
        try:
            error = _largest_error(config, cache_dtype, layer, num_tokens)
        except (GraphRunError, ModelError) as reason:
            raise RuntimeUnavailableError(f"{_diagnosis(config, cache_dtype, layer)}: {reason}") from reason
        if not error <= _TOLERANCE[cache_dtype]:
            raise RuntimeUnavailableError(
                f"{_diagnosis(config, cache_dtype, layer)}: results for {num_tokens} new tokens are off by {error:.3g}"
            )


def _diagnosis(config: EngineConfig, cache_dtype: str, layer: _Layer) -> str:
    version, provider = import_onnxruntime().__version__, provider_for(config)
    advice = provider.advice(cache_dtype) or f"onnxruntime {KNOWN_GOOD} is known to work"
    return (
        f"onnxruntime {version} cannot decode on {provider.name}: TensorScatter with Attention{layer.what} in "
        f"{cache_dtype} is missing or wrong; {advice}"
    )


def _largest_error(config: EngineConfig, cache_dtype: str, layer: _Layer, num_tokens: int) -> float:
    session = Session(_attention_graph(cache_dtype, layer), config)
    arrays = _arrays(layer, num_tokens, seed=0, valid=(0, 4))
    output = np.zeros((2, num_tokens, layer.num_outputs), np.float32)
    binding = session.binding()
    for name, array in arrays.items():
        binding.bind_host_input(name, array)
    binding.bind_host_output("output", output)
    session.run(binding)
    errors = [np.abs(output - _expected(layer, arrays)).max()]
    for name, array in _arrays(layer, num_tokens, seed=1, valid=(3, 1)).items():
        arrays[name][...] = array
    binding.send(arrays)
    session.run(binding)
    errors.append(np.abs(output - _expected(layer, arrays)).max())
    return float(np.max(errors))


def _arrays(layer: _Layer, num_tokens: int, seed: int, valid: tuple[int, int]) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    sizes = {"query": (num_tokens, _HEADS * layer.key_dim)}
    sizes |= {name: (_CAPACITY, width) for name, width in layer.widths.items()}
    sizes |= {f"new_{name}": (num_tokens, width) for name, width in layer.widths.items()}
    return {
        **{name: rng.standard_normal((2, *size), np.float32) for name, size in sizes.items()},
        contract.WRITE_INDICES: np.array(valid, np.int64),
        contract.NONPAD_KV_SEQLEN: np.array(valid, np.int64) + num_tokens,
    }


def _attention_graph(cache_dtype: str, layer: _Layer) -> bytes:
    """Scatter and attend in the cache's type, with float32 inputs and output."""
    floats = {"query": _HEADS * layer.key_dim, **layer.widths}
    floats |= {f"new_{name}": width for name, width in layer.widths.items()}
    integers = [contract.WRITE_INDICES, contract.NONPAD_KV_SEQLEN]
    to = getattr(onnx.TensorProto, cache_dtype.upper().replace("FLOAT32", "FLOAT"))
    nodes = [helper.make_node("Cast", [name], [f"{name}.cast"], to=to) for name in floats]
    nodes += [
        helper.make_node(
            "TensorScatter",
            [f"{name}.cast", f"new_{name}.cast", contract.WRITE_INDICES],
            [f"updated.{name}"],
            axis=1,
            mode="linear",
        )
        for name in layer.widths
    ]
    keys, values = "updated.keys", "updated.keys" if layer.value_dim is None else "updated.values"
    nodes.append(
        helper.make_node(
            "Attention",
            ["query.cast", keys, values, "", "", "", contract.NONPAD_KV_SEQLEN],
            ["attended"],
            is_causal=1,
            q_num_heads=_HEADS,
            kv_num_heads=layer.num_kv_heads,
        )
    )
    nodes.append(helper.make_node("Cast", ["attended"], ["output"], to=onnx.TensorProto.FLOAT))
    inputs = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["B", f"{name}.length", width])
        for name, width in floats.items()
    ]
    inputs += [helper.make_tensor_value_info(name, onnx.TensorProto.INT64, ["B"]) for name in integers]
    output = helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, ["B", "T", layer.num_outputs])
    graph = helper.make_graph(nodes, "probe", inputs, [output])
    opset = helper.make_opsetid("", contract.OPSET)
    model: bytes = helper.make_model(graph, opset_imports=[opset], ir_version=contract.IR_VERSION).SerializeToString()
    return model


def _expected(layer: _Layer, arrays: dict[str, Array]) -> FloatArray:
    """The same in NumPy: query i of a row sees the keys up to its own, bottom-right aligned."""
    query, per_head = np.asarray(arrays["query"], np.float32), (2, -1, _HEADS, layer.key_dim)
    num_tokens = query.shape[1]
    result = np.zeros((2, num_tokens, _HEADS, layer.num_outputs // _HEADS), np.float32)
    for row, start in enumerate(np.asarray(arrays[contract.WRITE_INDICES], np.int64)):
        end = start + num_tokens
        held = [
            np.concatenate([arrays[name][row, :start], arrays[f"new_{name}"][row]]).reshape(end, layer.num_kv_heads, -1)
            for name in layer.widths
        ]
        for head in range(_HEADS):
            keys, values = (each[:, head * layer.num_kv_heads // _HEADS] for each in (held[0], held[-1]))
            scores = query.reshape(per_head)[row, :, head] @ keys.T / np.sqrt(layer.key_dim)
            scores[np.arange(end) > start + np.arange(num_tokens)[:, None]] = -np.inf
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            result[row, :, head] = weights / weights.sum(axis=1, keepdims=True) @ values
    return result.reshape(2, num_tokens, layer.num_outputs)
