"""Places of adapters in memory: what is in use lies together, and moves with all that it holds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from genai import contract
from genai.config import EngineConfig
from genai.contract import AdaptedProduct, AdapterRoom
from genai.errors import AdapterError
from genai.runtime.adapter_matrices import fit
from genai.runtime.adapters import AdapterMemory, LoadedAdapter, ScaledAdapter
from genai.runtime.providers import provider_for

GROUPS = ((AdaptedProduct("p", 3, 5),), (AdaptedProduct("q", 2, 2),))
ROOM = AdapterRoom(groups=GROUPS, rank=2, dtype="float32")
NOBODY: set[LoadedAdapter | None] = set()


def memory(num_places: int = 4) -> AdapterMemory:
    return AdapterMemory(ROOM, num_places, provider_for(EngineConfig(device="cpu")))


def loaded(held: AdapterMemory, name: str, value: float) -> LoadedAdapter:
    matrices = {"p": (np.full((3, 1), value, np.float32), np.full((1, 5), value, np.float32))}
    return held.load(held.fitted(name, name.encode(), matrices), NOBODY)


def first_matrix(held: AdapterMemory, adapter: LoadedAdapter, product: str = "p") -> np.ndarray:
    assert adapter.place is not None
    name = contract.lora_a([product])
    size = 24 if product == "p" else 16
    return held._buffers[name].read(adapter.place * size, size).view(np.float32)


def test_what_comes_into_use_lies_beside_what_is() -> None:
    held = memory()
    a, b, c, d = (loaded(held, name, value) for value, name in enumerate("abcd", start=1))
    held.use(7, ScaledAdapter(d))
    held.use(3, ScaledAdapter(b))
    assert (d.place, b.place) == (0, 1)
    assert {each.name for each in held.loaded} == set("abcd")
    assert len({a.place, b.place, c.place, d.place}) == 4
    for value, each in enumerate((a, b, c, d), start=1):
        np.testing.assert_array_equal(first_matrix(held, each), [value, 0, value, 0, value, 0])
        np.testing.assert_array_equal(first_matrix(held, each, "q"), [0, 0, 0, 0])
    use = held.use_of([3, 5, 7])
    assert (use.first, use.members) == (0, ((2,), (0,)))
    held.use(7, None)
    held.use(8, ScaledAdapter(c))  # into the place that is free among those in use
    assert (c.place, b.place) == (0, 1)
    assert held.use_of([5]).members == ()


def test_the_graph_is_told_who_uses_what() -> None:
    held = memory()
    a, b = loaded(held, "a", 1), loaded(held, "b", 2)
    held.use(1, ScaledAdapter(a))
    held.use(2, ScaledAdapter(b, -2.0))
    held.use(3, ScaledAdapter(a, 0.5))
    held.use(4, None)
    use = held.use_of([4, 3, 2, 1])
    assert use.shape == (2, 2)
    rows, places, scales = np.full((2, 2), 9), np.full((4, 2), 9), np.full((4, 1, 1), 9, np.float32)
    use.fill(rows, places, scales)
    np.testing.assert_array_equal(rows, [[1, 3], [2, 0]])
    np.testing.assert_array_equal(places, [[0, 0], [0, 0], [1, 0], [0, 1]])
    np.testing.assert_array_equal(scales[:, 0, 0], [0, 0.5, -2, 1])


def test_a_place_is_free_when_nobody_uses_what_has_left() -> None:
    held = memory(2)
    a, b = loaded(held, "a", 1), loaded(held, "b", 2)
    a.is_leaving = True
    with pytest.raises(AdapterError, match=r"2 are loaded \(a until its texts end, b\)"):
        held.load(held.fitted("c", b"c", {}), {a, None})
    c = held.load(held.fitted("c", b"c", {}), {b})
    assert (a.place, c.place) == (None, 0)
    np.testing.assert_array_equal(first_matrix(held, c), np.zeros(6))


def test_numbers_that_the_type_cannot_hold_are_refused() -> None:
    for dtype, number in (("float16", 1e6), ("uint8", 3e38), ("uint8", np.inf), ("float32", np.nan)):
        held = AdapterMemory(replace(ROOM, dtype=dtype), 1, provider_for(EngineConfig(device="cpu")))
        with pytest.raises(AdapterError, match=f"its numbers for p are too large for {dtype}"):
            held.fitted("a", b"a", {"p": (np.full((3, 1), number, np.float32), np.full((1, 5), 1e10, np.float32))})


def test_bytes_are_the_matrices_to_a_byte_of_their_columns() -> None:
    """Smaller ranks, products that are not changed, and columns and rows of zeros included."""
    group = tuple(AdaptedProduct(name, 40, size) for name, size in (("q", 24), ("k", 8), ("v", 8)))
    room, rng = AdapterRoom(groups=(group,), rank=4, dtype="uint8"), np.random.default_rng(1)
    first, second = rng.standard_normal((40, 3), np.float32), rng.standard_normal((3, 24), np.float32)
    first[:, 1], second[:, 5] = first[:, 1] * 1e-6, 0
    value = (rng.standard_normal((40, 2), np.float32), rng.standard_normal((2, 8), np.float32))
    data = fit(room, "a", b"a", {"q": (first, second), "v": value}).data
    assert data.keys() == {each.name for each in contract.adapter_stacks(room)}
    a = data["lora_a.q+k+v"].reshape(40, 3, 4).astype(np.float32) - 128
    for index, (name, size, wanted) in enumerate(
        (("q", 24, first @ second), ("k", 8, 0), ("v", 8, value[0] @ value[1]))
    ):
        b = (data[f"lora_b.{name}"].reshape(4, size).astype(np.float32) - 128) * data[f"lora_scales.{name}"].view("f4")
        np.testing.assert_allclose(a[:, index] @ b, np.broadcast_to(wanted, (40, size)), atol=0.05)
