"""Products and lookups of weights in few bits: MatMulNBits, GatherBlockQuantized."""

from __future__ import annotations

from genai.conformance.case import HALF, Case, Given, Kind, numbers, rows, tensor, weight

_BOTH = HALF[:2]
_BLOCKS = (16, 32, 64, 128, 256)
_POINTS = ("", ", zero points", ", float zero points")


def weight_cases() -> list[Case]:
    """All rows of both."""
    return [*_matmul(), *_gather()]


def _matmul() -> list[Case]:
    """Every number of bits, block and form of zero points; at each level of accuracy with blocks of 32."""
    made: list[Case] = []
    for bits in (2, 4, 8):
        for block in _BLOCKS:
            for points in _POINTS:
                types = HALF if (block, points) == (32, "") else _BOTH if block == 32 else ("float32",)
                made += _product(bits, block, points, types=types)
        for level in (1, 2, 3, 4):
            made += [row for points in _POINTS for row in _product(bits, 32, points, level=level)]
        made += _product(bits, 32, ", bias", types=_BOTH)
        made += _product(bits, 32, ", bias", level=4)
        made += _product(bits, 128, "", level=4)
        made += _product(bits, 32, ", one token", types=_BOTH)
        made += _product(bits, 32, ", one token", level=4)
        made += _product(bits, 32, ", g_idx")
        made += _product(bits, 32, ", K of 250")
    return made


def _product(bits: int, block: int, what: str, *, level: int = 0, types: tuple[str, ...] = ("float32",)) -> list[Case]:
    """N = 24, K = 256 but for one row, whose last block is not full."""
    depth = 250 if what == ", K of 250" else 256
    num_blocks = -(-depth // block)
    points = {
        ", zero points": Given(name="zero_points", shape=(24, -(-num_blocks * bits // 8)), dtype="uint8", kind="bits",
                               is_weight=True),
        ", float zero points": Given(name="zero_points", shape=(24, num_blocks), is_weight=True),
    }.get(what)  # fmt: skip
    groups = [float(place // block) for place in range(depth)]
    given = [
        tensor("A", 2, 1 if what == ", one token" else 3, depth),
        Given(name="B", shape=(24, num_blocks, block * bits // 8), dtype="uint8", kind="bits", is_weight=True),
        weight("scales", 24, num_blocks, kind="scale"),
        points,
        Given(name="g_idx", shape=(depth,), dtype="int32", kind="values", values=tuple(groups), is_weight=True)
        if what == ", g_idx" else None,
        weight("bias", 24, kind="normal") if what == ", bias" else None,
    ]  # fmt: skip
    return rows(
        "MatMulNBits", f"{bits} bits, blocks of {block}{what}{f', level {level}' if level else ''}", given,
        attributes={"bits": bits, "block_size": block, "K": depth, "N": 24, "accuracy_level": level},
        opsets=(24,), types=types, domain="com.microsoft", oracle="matmul_nbits",
        tolerance=2e-2 if level == 4 and what != ", float zero points" else 5e-3 if level == 2 else None,
    )  # fmt: skip


def _gather() -> list[Case]:
    indices = numbers("indices", 0, 5, 2, 6, 1, 0, shape=(2, 3))
    small = Given(name="indices", shape=(2, 3), dtype="int32", kind="values", values=(0, -1, 2, 6, 1, -7))
    made: list[Case] = []

    def lookup(what: str, dtype: str, bits: int, block: int, given: Given, *, has_points: bool = False) -> list[Case]:
        size = 64 * bits // 8 if dtype == "uint8" else 64
        kind: Kind = "bits" if dtype == "uint8" else "normal"
        data = Given(name="data", shape=(7, size), dtype=dtype, kind=kind, is_weight=True)
        wide = -(-(64 // block) * bits // 8) if dtype == "uint8" else 64 // block
        points = Given(name="zero_points", shape=(7, wide), dtype=dtype, kind=kind, is_weight=True)
        return rows(
            "GatherBlockQuantized", what, [data, given, weight("scales", 7, 64 // block, kind="scale"),
                                           points if has_points else None],
            attributes={"bits": bits, "block_size": block, "quantize_axis": 1, "gather_axis": 0}, opsets=(24,),
            types=HALF if what == "4 bits, blocks of 32" else _BOTH, domain="com.microsoft", oracle="gather_blocks",
        )  # fmt: skip

    for bits in (2, 4, 8):
        made += lookup(f"{bits} bits, blocks of 32", "uint8", bits, 32, indices)
        made += lookup(f"{bits} bits, blocks of 32, zero points", "uint8", bits, 32, indices, has_points=True)
    return [
        *made,
        *lookup("4 bits, blocks of 16", "uint8", 4, 16, indices),
        *lookup("4 bits, blocks of 32, indices of int32, some from the end", "uint8", 4, 32, small),
        *lookup("int4, blocks of 32", "int4", 4, 32, indices),
        *lookup("int4, blocks of 32, zero points", "int4", 4, 32, indices, has_points=True),
        *lookup("uint4, blocks of 32", "uint4", 4, 32, indices),
        *lookup("uint4, blocks of 32, zero points", "uint4", 4, 32, indices, has_points=True),
        *lookup("float8e4m3fn, blocks of 32", "float8e4m3fn", 8, 32, indices),
    ]
