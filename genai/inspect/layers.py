"""Which layer a node belongs to.

Exporters name layers each in their way. A node's layer is the number that its name speaks of, or its weights' names,
its caches', or what exporters note beside it. A node whose name is a path without a number stands outside; one whose
name says nothing belongs where its inputs come from:

    names tell       /model/layers.3/attn/MatMul    model.layers.3.mlp.up_proj.weight    past_key_values.3.key
    outside          /model/norm/Mul                head/MatMul
    inputs tell      node_add_7(…layers.3…)         a layer's last residual
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import onnx

_LAYER = re.compile(
    r"(?:^|[^a-z])(?:layers?|blocks?|h|key_cache|value_cache|cache|past|present|(?:past_|present_)?(?:key_values?|keys?|values?))"
    r"[._/](\d{1,5})(?!\d)"
)


def layer_of(name: str) -> int | None:
    """The number of the layer that a name speaks of."""
    found = _LAYER.search(name)
    return int(found[1]) if found else None


def layers_of(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> list[int | None]:
    """Each node's layer, None for what stands outside of the layers."""
    telling = {tensor.name for tensor in graph.initializer} | {value.name for value in graph.input}
    outputs = {value.name for value in graph.output}
    of_value: dict[str, int] = {}
    found: list[int | None] = []
    for node in nodes:
        texts = [node.name, *(name for name in node.input if name in telling)]
        texts += [*(name for name in node.output if name in outputs), *(entry.value for entry in node.metadata_props)]
        layer = next((number for text in texts if (number := layer_of(text)) is not None), None)
        if layer is None and "/" not in node.name:
            layer = max((of_value[name] for name in node.input if name in of_value), default=None)
        found.append(layer)
        if layer is not None:
            of_value |= dict.fromkeys(node.output, layer)
    return found
