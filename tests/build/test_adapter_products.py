"""What adapters add to products, against NumPy: rows with different ones and none, alone and together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from genai import contract
from genai.build.adapter_products import AdapterProducts, Fused
from genai.build.graph import ExternalData, GraphBuilder
from genai.build.precision import Plan
from genai.config import EngineConfig, Precision
from genai.contract import AdapterRoom, TensorType
from genai.runtime.adapter_matrices import fit
from genai.runtime.session import Session

FloatArray = np.ndarray
INPUTS, RANK = 40, 4
SIZES = {"q": 24, "k": 8, "v": 16}
USE = {0: ("one", 1.0), 3: ("one", 0.5), 4: ("two", -2.0)}  # of five rows
RNG = np.random.default_rng(7)
MATRICES = {
    name: {
        part: (RNG.standard_normal((INPUTS, rank), np.float32), RNG.standard_normal((rank, SIZES[part]), np.float32))
        for part in parts
    }
    for name, rank, parts in (("one", 3, "qv"), ("two", RANK, "qkv"))
}
X = RNG.standard_normal((5, 3, INPUTS), np.float32)
X[0, 1] = 0
BASE = {name: RNG.standard_normal((5, 3, size), np.float32) for name, size in {"qk": 32, "v": 16}.items()}


class Graph:
    """The products q and k, fused, and v, of which only what adapters add is computed."""

    def __init__(self, folder: Path, precision: Precision) -> None:
        with ExternalData(folder / "model.onnx.data") as data:
            graph = GraphBuilder(data)
            products = AdapterProducts(graph, Plan.of(precision, "cpu"), RANK)
            fused = [Fused("qk", {"q": 24, "k": 8}), Fused("v", {"v": 16})]
            for name, value in products.adapted("x", fused, INPUTS).items():
                graph.op_into(f"{name}+", "Identity", value)
            self.room: AdapterRoom = products.room
            free = {"x": INPUTS, "qk": 32, "v": 16}
            model = graph.model(
                [*(_rows(name, size) for name, size in free.items()), *contract.adapter_inputs(self.room)],
                [_rows(f"{name}+", size) for name, size in SIZES.items()],
                {},
            )
        self._session = Session(model.SerializeToString(), EngineConfig(device="cpu", num_threads=2))

    def __call__(self, rows: slice, use: Mapping[int, tuple[str, float]]) -> dict[str, FloatArray]:
        """The parts of some rows, told which of them use which adapters."""
        names = [*dict.fromkeys(name for name, _ in use.values())]
        members = [[row for row, (name, _) in use.items() if name == each] for each in names]
        most = max(map(len, members), default=0)
        feeds = {name: value[rows] for name, value in {"x": X, **BASE}.items()}
        scales = feeds[contract.ADAPTER_SCALES] = np.zeros((len(feeds["x"]), 1, 1), np.float32)
        places = feeds[contract.ADAPTER_PLACES] = np.zeros((len(feeds["x"]), 2), np.int64)
        feeds[contract.ADAPTER_ROWS] = np.array(
            [each + [0] * (most - len(each)) for each in members], np.int64
        ).reshape(len(names), most)  # fmt: skip
        for place, each in enumerate(members):
            for index, row in enumerate(each):
                places[row], scales[row] = (place, index), use[row][1]
        fitted = [fit(self.room, name, b"", MATRICES[name]).data for name in names]
        for stack in contract.adapter_stacks(self.room) if names else ():  # empty ones are the graph's defaults
            held = [each[stack.name].view(stack.dtype).reshape(stack.shape[1:]) for each in fitted]
            feeds[stack.name] = np.array(held, stack.dtype).reshape(len(names), *stack.shape[1:])
        return self._session.call(feeds)


def _rows(name: str, size: int) -> TensorType:
    return TensorType(name=name, dtype="float32", shape=("B", "T", size))


def expected() -> dict[str, FloatArray]:
    """What NumPy makes of it."""
    parts = {"q": BASE["qk"][..., :24].copy(), "k": BASE["qk"][..., 24:].copy(), "v": BASE["v"].copy()}
    for row, (name, scale) in USE.items():
        for part, (first, second) in MATRICES[name].items():
            parts[part][row] += scale * (X[row] @ first @ second)
    return parts


@pytest.mark.parametrize(("precision", "tolerance"), [("f32", 1e-5), ("int8", 0.02)])
def test_rows_get_what_their_adapters_add(precision: Precision, tolerance: float, tmp_path: Path) -> None:
    found = Graph(tmp_path, precision)(slice(None), USE)
    for name, wanted in expected().items():
        assert np.abs(found[f"{name}+"] - wanted).max() < tolerance * np.abs(wanted).max()
        for row in {*range(5)} - USE.keys():
            np.testing.assert_array_equal(found[f"{name}+"][row], wanted[row])


@pytest.mark.parametrize("precision", ["f32", "int8"])
def test_where_no_row_uses_any_the_base_goes_on(precision: Precision, tmp_path: Path) -> None:
    found = Graph(tmp_path, precision)(slice(None), {})
    np.testing.assert_array_equal(np.concatenate([found["q+"], found["k+"]], axis=-1), BASE["qk"])
    np.testing.assert_array_equal(found["v+"], BASE["v"])


def test_bytes_add_the_same_bits_alone_and_beside_others(tmp_path: Path) -> None:
    graph = Graph(tmp_path, "int8")
    together = graph(slice(None), USE)
    for row, use in USE.items():
        for name, alone in graph(slice(row, row + 1), {0: use}).items():
            np.testing.assert_array_equal(alone[0], together[name][row])
