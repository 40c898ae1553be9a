"""Rotary embedding from a model's own tables of cosines and sines.

position_ids [B, T] ─► Gather(cos table), Gather(sin table)     once for each step and pair of tables
                          │ [B, T, R / 2]
queries, keys ────────► RotaryEmbedding ─► …                    in each layer
"""

from __future__ import annotations

import onnx_ir as ir

from genai.convert.nodes import Nodes
from genai.convert.values import scalar, size_of
from genai.errors import UnsupportedModelError

CONTRIB = "com.microsoft"
_MAX_ROWS = 2**31


class RotaryTables:
    """Rotary embedding of queries and keys; each table's rows are taken once and shared by all layers.

    position_ids: [B, T]; max_position: the context that the model is converted for. Tables for short and for long texts
    (LongRoPE) are not switched as a text grows, since cached keys keep their angles: the context decides.
    num_rows: positions that the tables have; min_capacity: how long the original's buffers must be for the same choice.
    """

    def __init__(self, nodes: Nodes, position_ids: ir.Value, max_position: int) -> None:
        self._nodes = nodes
        self._position_ids = position_ids
        self._max_position = max_position
        self._rows: dict[tuple[ir.Value, ir.DataType | None], ir.Value] = {}
        self._chosen: dict[ir.Value, ir.Value] = {}
        self.num_rows = _MAX_ROWS
        self.min_capacity = 0
        self.notes: list[str] = []

    def rotated(
        self, x: ir.Value, tables: tuple[ir.Value, ir.Value], *, num_heads: int, head_dim: int, interleaved: bool
    ) -> ir.Value:
        """Queries or keys [B, T, num_heads * head_dim] (or [B, num_heads, T, head_dim]) turned by their positions.

        tables: cosines and sines, [positions, R / 2] each; R elements of each head are turned.
        """
        cos, sin = (self._table(table) for table in tables)
        size = 2 * (size_of(cos, 1) or 0)
        if not 0 < size <= head_dim:
            raise UnsupportedModelError(f"the rotary table {cos.name!r} has shape {cos.shape}, for heads of {head_dim}")
        return self._nodes.typed(
            "RotaryEmbedding", x, self._taken(cos, x.dtype), self._taken(sin, x.dtype), num_heads=num_heads,
            interleaved=int(interleaved), rotary_embedding_dim=size if size != head_dim else None,
            dtype=x.dtype, shape=x.shape,
        )  # fmt: skip

    def _taken(self, table: ir.Value, dtype: ir.DataType | None) -> ir.Value:
        """A table's rows at the step's positions, in the type of what they turn."""
        if (table, dtype) not in self._rows:
            rows = self._nodes.typed("Gather", table, self._position_ids, axis=0, dtype=table.dtype)
            self._rows[table, dtype] = rows if dtype is None else self._nodes.cast(rows, dtype)
        return self._rows[table, dtype]

    def _table(self, value: ir.Value) -> ir.Value:
        """The table itself: an initializer, or the one that the context chooses of two."""
        if value not in self._chosen:
            node = value.producer()
            self._chosen[value] = self._of_branch(node, value) if node is not None and node.op_type == "If" else value
            self.num_rows = min(self.num_rows, size_of(self._chosen[value], 0) or _MAX_ROWS)
        return self._chosen[value]

    def _of_branch(self, node: ir.Node, value: ir.Value) -> ir.Value:
        """The table of the branch that is taken for texts as long as the context."""
        limit = _switching_length(node)
        is_long = self._max_position > limit
        branch = node.attributes["then_branch" if is_long else "else_branch"].as_graph()
        tensor = ir.convenience.get_const_tensor(branch.outputs[node.outputs.index(value)])
        if tensor is None:
            raise UnsupportedModelError(f"the rotary table {value.name!r} is computed while the model runs")
        self.min_capacity = limit + 1 if is_long else 0
        kept, other = ("long", "short") if is_long else ("short", "long")
        note = f"rotary tables: those for {kept} texts, for the context of {self._max_position:,}"
        if note not in self.notes:
            self.notes.append(note)
            self.notes.append(f"rotary tables for {other} texts (switched at {limit:,} tokens) are left behind")
        return self._nodes.constant(tensor.numpy(), tensor.dtype.numpy())


def _switching_length(node: ir.Node) -> int:
    """The number of tokens above which an If takes the tables for long texts."""
    condition = node.inputs[0].producer() if node.inputs[0] is not None else None
    limit = scalar(condition.inputs[1]) if condition is not None and condition.op_type == "Greater" else None
    if limit is None or not {"then_branch", "else_branch"} <= node.attributes.keys():
        raise UnsupportedModelError(f"the rotary tables are chosen by {node.name!r} in a way that is not known")
    return int(limit)
