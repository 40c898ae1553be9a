"""Three ways to add a token to a KV cache, on the same attention: the plot that shows why TensorScatter exists.

    concatenate     Attention with past_key/past_value: present = past ++ new, another buffer every step
    ScatterND       the cache's capacity is fixed, but the operator returns a new tensor: all of it is copied
    TensorScatter   the same, bound in place: only the new token is written

Eight layers with SmolLM2's heads, one new token a step, contexts from 64 to 4,096 tokens.

    python -m benchmarks.cache_updates [--rounds 15] [--batch 1] [--plot cache_updates.svg]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from benchmarks.measure import interleaved
from genai.contract import IR_VERSION, OPSET
from genai.runtime.host import default_threads
from genai.runtime.ort import import_onnxruntime

LAYERS, HEADS, KV_HEADS, HEAD_DIM = 8, 9, 3, 64
KV_SIZE = KV_HEADS * HEAD_DIM
CONTEXTS = (64, 128, 256, 512, 1024, 2048, 4096)
WAYS = ("concatenate", "ScatterND", "TensorScatter")
STEPS = 4


def node(kind: str, inputs: list[str], outputs: list[str], **attributes: object) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, outputs, **attributes)


def attention(inputs: list[str], outputs: list[str]) -> onnx.NodeProto:
    return node("Attention", inputs, outputs, is_causal=1, q_num_heads=HEADS, kv_num_heads=KV_HEADS)


def layer(way: str, number: int) -> list[onnx.NodeProto]:
    """One layer's update and attention; caches and their updates are named key.N, new_key.N and so on."""
    key, value, out = f"key.{number}", f"value.{number}", f"out.{number}"
    if way == "concatenate":
        return [attention(["query", "k", "v", "", key, value], [out, f"new_{key}", f"new_{value}"])]
    nodes = []
    for cache, new in ((key, "k"), (value, "v")):
        if way == "ScatterND":
            nodes.append(node("ScatterND", [cache, "indices", new], [f"new_{cache}"]))
        else:
            nodes.append(node("TensorScatter", [cache, new, "write"], [f"new_{cache}"], axis=1, mode="linear"))
    return [*nodes, attention(["query", f"new_{key}", f"new_{value}", "", "", "", "valid"], [out])]


def model(way: str) -> bytes:
    """A graph whose last output depends on every layer."""
    nodes = [each for number in range(LAYERS) for each in layer(way, number)]
    nodes.append(node("Sum", [f"out.{number}" for number in range(LAYERS)], ["out"]))
    real, whole = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
    cache_shape = ["B", KV_HEADS, "S", HEAD_DIM] if way == "concatenate" else ["B", "S", KV_SIZE]
    inputs = [
        helper.make_tensor_value_info("query", real, ["B", 1, HEADS * HEAD_DIM]),
        helper.make_tensor_value_info("k", real, ["B", 1, KV_SIZE]),
        helper.make_tensor_value_info("v", real, ["B", 1, KV_SIZE]),
    ]
    if way == "ScatterND":
        inputs.append(helper.make_tensor_value_info("indices", whole, ["B", 1, 2]))
    if way == "TensorScatter":
        inputs.append(helper.make_tensor_value_info("write", whole, ["B"]))
    if way != "concatenate":
        inputs.append(helper.make_tensor_value_info("valid", whole, ["B"]))
    caches = [f"{part}.{number}" for number in range(LAYERS) for part in ("key", "value")]
    inputs += [helper.make_tensor_value_info(name, real, cache_shape) for name in caches]
    outputs = [helper.make_tensor_value_info("out", real, ["B", 1, HEADS * HEAD_DIM])]
    outputs += [helper.make_tensor_value_info(f"new_{name}", real, None) for name in caches]
    graph = helper.make_graph(nodes, way, inputs, outputs)
    opset = helper.make_opsetid("", OPSET)
    return helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION).SerializeToString()  # type: ignore[no-any-return]


class Contest:
    """The three graphs at one context length and batch size."""

    def __init__(self, sessions: dict[str, object], context: int, batch: int) -> None:
        self._sessions = sessions
        self._context, self._batch = context, batch
        rng = np.random.default_rng(0)
        self._new = {name: rng.standard_normal((batch, 1, KV_SIZE), np.float32) for name in ("k", "v")}
        self._query = rng.standard_normal((batch, 1, HEADS * HEAD_DIM), np.float32)
        self._past = [rng.standard_normal((batch, context - 1, KV_SIZE), np.float32) for _ in range(2 * LAYERS)]
        self._runs: dict[str, Callable[[], np.ndarray]] = {way: getattr(self, f"_{way.lower()}")() for way in WAYS}

    def agree(self) -> float:
        """The largest difference between the three results."""
        results = [self._runs[way]() for way in WAYS]
        return max(float(np.abs(result - results[0]).max()) for result in results)

    def seconds(self, way: str) -> float:
        """One step."""
        run = self._runs[way]
        started = time.perf_counter()
        for _ in range(STEPS):
            run()
        return (time.perf_counter() - started) / STEPS

    def _concatenate(self) -> Callable[[], np.ndarray]:
        heads = (self._batch, self._context - 1, KV_HEADS, HEAD_DIM)
        past = [np.ascontiguousarray(each.reshape(heads).transpose(0, 2, 1, 3)) for each in self._past]
        return self._bound("concatenate", past, {}, in_place=False)

    def _scatternd(self) -> Callable[[], np.ndarray]:
        indices = np.array([[[row, self._context - 1]] for row in range(self._batch)], np.int64)
        valid = np.full(self._batch, self._context, np.int64)
        return self._bound("ScatterND", self._padded(), {"indices": indices, "valid": valid}, in_place=False)

    def _tensorscatter(self) -> Callable[[], np.ndarray]:
        write = np.full(self._batch, self._context - 1, np.int64)
        return self._bound("TensorScatter", self._padded(), {"write": write, "valid": write + 1}, in_place=True)

    def _padded(self) -> list[np.ndarray]:
        return [np.pad(each, ((0, 0), (0, 1), (0, 0))) for each in self._past]

    def _bound(
        self, way: str, caches: list[np.ndarray], further: dict[str, np.ndarray], *, in_place: bool
    ) -> Callable[[], np.ndarray]:
        """Bind everything once; ONNX Runtime allocates what cannot be updated in place, as a functional loop would."""
        session = self._sessions[way]
        binding = session.io_binding()  # type: ignore[attr-defined]
        out = np.zeros_like(self._query)
        kept = {"query": self._query, **self._new, **further}
        for name, array in kept.items():
            binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        names = [f"{part}.{number}" for number in range(LAYERS) for part in ("key", "value")]
        for name, cache in zip(names, caches, strict=True):
            binding.bind_input(name, "cpu", 0, cache.dtype, cache.shape, cache.ctypes.data)
            if in_place:
                binding.bind_output(f"new_{name}", "cpu", 0, cache.dtype, cache.shape, cache.ctypes.data)
            else:
                binding.bind_output(f"new_{name}", "cpu")
        binding.bind_output("out", "cpu", 0, out.dtype, out.shape, out.ctypes.data)

        def run() -> np.ndarray:
            assert kept is not caches, "what is bound stays alive"
            session.run_with_iobinding(binding)  # type: ignore[attr-defined]
            return out

        return run


def sessions_for(num_threads: int) -> dict[str, object]:
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.log_severity_level = 3
    return {way: ort.InferenceSession(model(way), options, providers=["CPUExecutionProvider"]) for way in WAYS}


def measured(batch: int, rounds: int, num_threads: int) -> dict[int, dict[str, float]]:
    """Median seconds a step by context and way; all interleaved."""
    sessions = sessions_for(num_threads)
    result = {}
    for context in CONTEXTS:
        contest = Contest(sessions, context, batch)
        assert contest.agree() < 1e-4, "the three ways compute the same"
        seconds = interleaved(WAYS, rounds, contest.seconds)
        result[context] = {way: statistics.median(values) for way, values in seconds.items()}
    return result


def markdown(result: dict[int, dict[str, float]]) -> str:
    lines = ["| context | " + " | ".join(f"{way}, ms" for way in WAYS) + " | concatenate / TensorScatter |"]
    lines.append("|---:" * (len(WAYS) + 2) + "|")
    for context, row in result.items():
        cells = " | ".join(f"{row[way] * 1e3:.2f}" for way in WAYS)
        lines.append(f"| {context} | {cells} | {row['concatenate'] / row['TensorScatter']:.2f} |")
    return "\n".join(lines)


def plot(result: dict[int, dict[str, float]], path: Path, batch: int) -> None:
    """Raises: ImportError without matplotlib."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for way, marker in zip(WAYS, "osD", strict=True):
        axes.plot(list(result), [row[way] * 1e3 for row in result.values()], marker=marker, label=way)
    axes.set(xlabel="context, tokens", ylabel="milliseconds a step", xscale="log", yscale="log")
    axes.set_xticks(CONTEXTS, [str(context) for context in CONTEXTS])
    axes.set_title(f"Adding one token to the caches of {LAYERS} layers, attention included (batch {batch})")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    result = measured(arguments.batch, arguments.rounds, arguments.threads)
    print(markdown(result))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2))
    if arguments.plot:
        plot(result, arguments.plot, arguments.batch)


if __name__ == "__main__":
    main()
