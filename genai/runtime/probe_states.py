"""Known-answer check of what states stand on, on the provider that will run it: a short convolution and recurrences.

Two rows, of which one is padded, and then sits a run out: its states must stay as they are, bit for bit, and all of
them share their memory with what they become. Results of one and of several tokens are compared with NumPy.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from genai import contract
from genai.config import EngineConfig
from genai.contract import State
from genai.errors import GraphRunError, ModelError, RuntimeUnavailableError
from genai.runtime.ort import import_onnxruntime
from genai.runtime.probe import KNOWN_GOOD
from genai.runtime.providers import provider_for
from genai.runtime.session import Session

_ROWS, _HEADS, _KEY_DIM, _VALUE_DIM, _KERNEL, _CHANNELS = 2, 4, 16, 16, 3, 8
_TOLERANCE = 1e-4
_STATES = {
    "conv": (_KERNEL - 1, _CHANNELS),
    "gated_delta": (_HEADS, _KEY_DIM, _VALUE_DIM),
    "gated": (_HEADS, _KEY_DIM, _VALUE_DIM),
}
_RULES = ("gated_delta", "gated")
_SIZES = {
    "x": (_CHANNELS,),
    "q": (2 * _KEY_DIM,),  # neighbours share a query head
    "k": (_HEADS * _KEY_DIM,),
    "v": (_HEADS * _VALUE_DIM,),
    "decay": (_HEADS,),
    "rate": (_HEADS,),
}
_TAIL = "tail"

Floats = npt.NDArray[np.float32]


def check_states(config: EngineConfig, states: tuple[State, ...]) -> None:
    """Look at what a graph with recurrent states needs. Raises: RuntimeUnavailableError if it is missing or wrong."""
    if not any(state.name == contract.recurrent_state(state.layer) for state in states):
        return
    try:
        error = max(_largest_error(config, num_tokens) for num_tokens in (1, 3))
    except (GraphRunError, ModelError) as reason:
        raise RuntimeUnavailableError(f"{_diagnosis(config)}: {reason}") from reason
    if not error <= _TOLERANCE:
        raise RuntimeUnavailableError(f"{_diagnosis(config)}: results are off by {error:.3g}")


def _diagnosis(config: EngineConfig) -> str:
    return (
        f"onnxruntime {import_onnxruntime().__version__} cannot run recurrent states on {provider_for(config).name}: "
        f"LinearAttention is missing or wrong; onnxruntime {KNOWN_GOOD} is known to work, packages in f32 do without"
    )


def _largest_error(config: EngineConfig, num_tokens: int) -> float:
    """Two runs over the same states; the second row is padded in one, if there is room, and sits the other out."""
    session, rng = Session(_graph(), config), np.random.default_rng(num_tokens)
    states = {name: rng.standard_normal((_ROWS, *shape), np.float32) for name, shape in _STATES.items()}
    buffers = {name: session.provider.allocate(state.nbytes) for name, state in states.items()}
    outputs = {name: np.zeros((_ROWS, num_tokens, width), np.float32) for name, width in _WIDTHS.items()}
    binding, errors = session.binding(), []
    for name, state in states.items():
        buffers[name].write(0, state.reshape(-1).view(np.uint8))
        binding.bind_input(name, "float32", state.shape, buffers[name].pointer)
        binding.bind_output(contract.updated(name), "float32", state.shape, buffers[name].pointer)
    for name, output in outputs.items():
        binding.bind_host_output(name, output)
    for counts in ((num_tokens, min(num_tokens, 2)), (num_tokens, 0)):
        tokens = _tokens(rng, num_tokens, counts)
        for name, array in (tokens | {_TAIL: _tail(counts)}).items():
            binding.bind_host_input(name, array)
        session.run(binding)
        found = {
            name: buffers[name].read(0, state.nbytes).view(np.float32).reshape(state.shape).copy()
            for name, state in states.items()
        }
        errors.append(_error(outputs, states, found, tokens, counts))
        states = found
    return max(errors)


def _error(
    outputs: Mapping[str, Floats], before: Mapping[str, Floats], after: Mapping[str, Floats],
    tokens: Mapping[str, Floats], counts: tuple[int, ...],
) -> float:  # fmt: skip
    """The largest of a run's; infinite if a row that sat it out has other states."""
    wanted = _expected(before, tokens, counts)
    errors = [np.abs(state - wanted[contract.updated(name)]).max() for name, state in after.items()]
    for row, count in enumerate(counts):
        errors += [np.abs(x[row, :count] - wanted[name][row, :count]).max(initial=0) for name, x in outputs.items()]
        if not count and any(not np.array_equal(state[row], before[name][row]) for name, state in after.items()):
            return float("inf")
    return float(np.max(errors))


def _tail(counts: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Which of the convolution's inputs become its state."""
    return np.array(counts, np.int64)[:, None, None] + np.arange(_KERNEL - 1)[:, None]


def _tokens(rng: np.random.Generator, num_tokens: int, counts: tuple[int, ...]) -> dict[str, Floats]:
    """A step's inputs; padding neither fades nor adds."""
    tokens = {name: rng.standard_normal((_ROWS, num_tokens, *size), np.float32) for name, size in _SIZES.items()}
    tokens["decay"] = -np.abs(tokens["decay"])
    tokens["rate"] = np.abs(np.tanh(tokens["rate"]))
    for row, count in enumerate(counts):
        for name in ("decay", "rate", "v"):
            tokens[name][row, count:] = 0
    return tokens


def _weights() -> Floats:
    """Of the convolution: one for each input and channel."""
    return np.random.default_rng(7).standard_normal((_KERNEL, _CHANNELS), np.float32)


_WIDTHS = {"mixed": _CHANNELS, "gated_delta.out": _HEADS * _VALUE_DIM, "gated.out": _HEADS * _VALUE_DIM}


def _graph() -> bytes:
    """The convolution as products of shifted inputs, and a recurrence by either rule."""
    dims = {"from": [0], "one": [1], "two": [2], "before_last": [-2], "last": [-1]}
    constants = [onnx.numpy_helper.from_array(np.array(value, np.int64), name) for name, value in dims.items()]
    constants += [onnx.numpy_helper.from_array(row, f"w.{place}") for place, row in enumerate(_weights())]
    nodes = [
        helper.make_node("Concat", ["conv", "x"], ["inputs"], axis=1),
        helper.make_node("GatherND", ["inputs", _TAIL], [contract.updated("conv")], batch_dims=1),
        helper.make_node("Slice", ["inputs", "from", "before_last", "one"], ["x.0"]),
        helper.make_node("Slice", ["inputs", "one", "last", "one"], ["x.1"]),
        *(helper.make_node("Mul", [x, f"w.{place}"], [f"y.{place}"]) for place, x in enumerate(("x.0", "x.1", "x"))),
        helper.make_node("Sum", ["y.0", "y.1", "y.2"], ["mixed"]),
    ]
    nodes += [
        helper.make_node(
            "LinearAttention", ["q", "k", "v", rule, "decay", *(["rate"] if rule == "gated_delta" else [])],
            [f"{rule}.out", contract.updated(rule)], domain="com.microsoft", update_rule=rule, scale=0.5,
            q_num_heads=2, kv_num_heads=_HEADS,
        )
        for rule in _RULES
    ]  # fmt: skip
    floats: dict[str, list[str | int]] = {name: ["B", "T", *size] for name, size in _SIZES.items()}
    floats |= {name: ["B", *shape] for name, shape in _STATES.items()}
    inputs = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in floats.items()]
    inputs.append(helper.make_tensor_value_info(_TAIL, onnx.TensorProto.INT64, ["B", _KERNEL - 1, 1]))
    made: dict[str, list[str | int]] = {name: ["B", "T", width] for name, width in _WIDTHS.items()}
    made |= {contract.updated(name): ["B", *shape] for name, shape in _STATES.items()}
    outputs = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in made.items()]
    opsets = [helper.make_opsetid("", contract.OPSET), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph(nodes, "probe", inputs, outputs, initializer=constants)
    model: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=contract.IR_VERSION).SerializeToString()
    return model


def _expected(states: Mapping[str, Floats], tokens: Mapping[str, Floats], counts: tuple[int, ...]) -> dict[str, Floats]:
    """The same in NumPy, token by token."""
    num_tokens = tokens["x"].shape[1]
    inputs, weights = np.concatenate([states["conv"], tokens["x"]], axis=1), _weights()
    found = {
        "mixed": np.sum([inputs[:, at : at + num_tokens] * weights[at] for at in range(_KERNEL)], axis=0),
        contract.updated("conv"): np.stack(
            [inputs[row, count : count + _KERNEL - 1] for row, count in enumerate(counts)]
        ),
    }
    q = tokens["q"].reshape(_ROWS, num_tokens, 2, _KEY_DIM).repeat(2, axis=2)
    k, v = (tokens[name].reshape(_ROWS, num_tokens, _HEADS, -1) for name in "kv")
    for rule in _RULES:
        state, results = states[rule], []
        for at in range(num_tokens):
            state = state * np.exp(tokens["decay"][:, at, :, None, None])
            added = v[:, at]
            if rule == "gated_delta":
                added = (added - np.einsum("bhk,bhkv->bhv", k[:, at], state)) * tokens["rate"][:, at, :, None]
            state = state + k[:, at, :, :, None] * added[:, :, None]
            results.append(0.5 * np.einsum("bhk,bhkv->bhv", q[:, at], state))
        found[f"{rule}.out"] = np.stack(results, axis=1).reshape(_ROWS, num_tokens, -1)
        found[contract.updated(rule)] = state
    return found
