"""Known-answer check of the two operators that decoding stands on, on the provider that will run them.

Older ONNX Runtimes aligned `is_causal` with `nonpad_kv_seqlen` to the wrong corner and gave wrong numbers without an
error, so a version check is not enough: two rows of different length are written and attended over, with one and with
several queries, and compared with NumPy. Then the inputs change and the same binding runs again, as it does when
decoding: a device has to be shown what has changed.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from genai import contract
from genai.config import EngineConfig
from genai.errors import GraphRunError, ModelError, RuntimeUnavailableError
from genai.runtime.ort import Array, import_onnxruntime
from genai.runtime.providers import provider_for
from genai.runtime.session import Session

KNOWN_GOOD = "1.31.1"
_CAPACITY, _HEADS, _HEAD_DIM = 8, 2, 16
_WIDTH = _HEADS * _HEAD_DIM
_TOLERANCE = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}

FloatArray = npt.NDArray[np.float32]


def check_kernels(config: EngineConfig, cache_dtype: str) -> None:
    """Raises: RuntimeUnavailableError if a kernel is missing or computes something else."""
    for num_tokens in (1, 3):
        try:
            error = _largest_error(config, cache_dtype, num_tokens)
        except (GraphRunError, ModelError) as reason:
            raise RuntimeUnavailableError(f"{_diagnosis(config, cache_dtype)}: {reason}") from reason
        if not error <= _TOLERANCE[cache_dtype]:
            raise RuntimeUnavailableError(
                f"{_diagnosis(config, cache_dtype)}: results for {num_tokens} new tokens are off by {error:.3g}"
            )


def _diagnosis(config: EngineConfig, cache_dtype: str) -> str:
    version, provider = import_onnxruntime().__version__, provider_for(config)
    advice = provider.advice(cache_dtype) or f"onnxruntime {KNOWN_GOOD} is known to work"
    return (
        f"onnxruntime {version} cannot decode on {provider.name}: TensorScatter with Attention in {cache_dtype} is "
        f"missing or wrong; {advice}"
    )


def _largest_error(config: EngineConfig, cache_dtype: str, num_tokens: int) -> float:
    session = Session(_attention_graph(cache_dtype), config)
    arrays, output = _arrays(num_tokens, seed=0, valid=(0, 4)), np.zeros((2, num_tokens, _WIDTH), np.float32)
    binding = session.binding()
    for name, array in arrays.items():
        binding.bind_host_input(name, array)
    binding.bind_host_output("output", output)
    session.run(binding)
    errors = [np.abs(output - _expected(arrays)).max()]
    for name, array in _arrays(num_tokens, seed=1, valid=(3, 1)).items():
        arrays[name][...] = array
    binding.send(arrays)
    session.run(binding)
    errors.append(np.abs(output - _expected(arrays)).max())
    return float(np.max(errors))


def _arrays(num_tokens: int, seed: int, valid: tuple[int, int]) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    lengths = {"query": num_tokens, "keys": _CAPACITY, "values": _CAPACITY}
    lengths |= {"new_keys": num_tokens, "new_values": num_tokens}
    return {
        **{name: rng.standard_normal((2, length, _WIDTH), np.float32) for name, length in lengths.items()},
        contract.WRITE_INDICES: np.array(valid, np.int64),
        contract.NONPAD_KV_SEQLEN: np.array(valid, np.int64) + num_tokens,
    }


def _attention_graph(cache_dtype: str) -> bytes:
    """Scatter and attend in the cache's type, with float32 inputs and output."""
    floats = ["query", "keys", "values", "new_keys", "new_values"]
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
        for name in ("keys", "values")
    ]
    nodes.append(
        helper.make_node(
            "Attention",
            ["query.cast", "updated.keys", "updated.values", "", "", "", contract.NONPAD_KV_SEQLEN],
            ["attended"],
            is_causal=1,
            q_num_heads=_HEADS,
            kv_num_heads=_HEADS,
        )
    )
    nodes.append(helper.make_node("Cast", ["attended"], ["output"], to=onnx.TensorProto.FLOAT))
    inputs = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["B", f"{name}.length", _WIDTH]) for name in floats
    ]
    inputs += [helper.make_tensor_value_info(name, onnx.TensorProto.INT64, ["B"]) for name in integers]
    output = helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, ["B", "T", _WIDTH])
    graph = helper.make_graph(nodes, "probe", inputs, [output])
    opset = helper.make_opsetid("", contract.OPSET)
    model: bytes = helper.make_model(graph, opset_imports=[opset], ir_version=contract.IR_VERSION).SerializeToString()
    return model


def _expected(arrays: dict[str, Array]) -> FloatArray:
    """The same in NumPy: query i of a row sees the keys up to its own, bottom-right aligned."""
    query = np.asarray(arrays["query"], np.float32)
    result = np.zeros(query.shape, np.float32)
    for row, start in enumerate(np.asarray(arrays[contract.WRITE_INDICES], np.int64)):
        end = start + query.shape[1]
        keys, values = (
            np.concatenate([arrays[name][row, :start], arrays[f"new_{name}"][row]]) for name in ("keys", "values")
        )
        for head in range(_HEADS):
            part = slice(head * _HEAD_DIM, (head + 1) * _HEAD_DIM)
            scores = query[row][:, part] @ keys[:, part].T / np.sqrt(_HEAD_DIM)
            scores[np.arange(end) > start + np.arange(query.shape[1])[:, None]] = -np.inf
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            result[row][:, part] = weights / weights.sum(axis=1, keepdims=True) @ values[:, part]
    return result
