"""A file's tensors under Hugging Face names: which there are, and where each lies.

Experts lie stacked, and each gets a name of its own; none is read with the others:

    blk.3.ffn_gate_exps.weight     [E, I, K]    ─►  model.layers.3.mlp.experts.0.gate_proj.weight  [I, K]   … E - 1
    blk.3.ffn_gate_up_exps.weight  [E, 2·I, K]  ─►  …experts.0.gate_proj.weight (the first I rows), …up_proj.weight
    blk.3.ffn_gate_exps.bias       [E, I]       ─►  …experts.0.gate_proj.bias  [I]
    blk.3.ffn_gate.0.weight        [I, K]       ─►  …experts.0.gate_proj.weight  (Mixtral's first files)

So do the matrices that make a latent's heads:

    blk.3.attn_k_b.weight          [heads, latent, plain]  ─►  model.layers.3.self_attn.k_b_proj.0.weight  …

Blocks behind the model's own layers that predict further tokens (`nextn`, multi-token prediction) are left out:
decoding one token after the other does without them, as llama.cpp does.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

from genai.build.gguf import names
from genai.build.gguf.file import GgufFile, TensorInfo
from genai.build.gguf.metadata import ArchitectureMetadata
from genai.build.gguf.reranker import ANSWERS
from genai.build.gguf.tables import architectures
from genai.errors import UnsupportedModelError, WeightsError

_LOG = logging.getLogger(__name__)
_STACK = re.compile(r"blk\.(0|[1-9][0-9]{0,6})\.ffn_(gate|up|down|gate_up)_exps\.(weight|bias)")
_ALONE = re.compile(r"blk\.(0|[1-9][0-9]{0,6})\.ffn_(gate|up|down)\.(0|[1-9][0-9]{0,6})\.weight")
_HEADS = re.compile(r"blk\.(0|[1-9][0-9]{0,6})\.attn_([kv]_b)\.weight")
_BLOCK = re.compile(r"blk\.([0-9]{1,7})\.")
MAX_TENSORS = 1 << 18
"""Names of one file, each expert's included: four times what the largest models have; more would take gigabytes."""


def named_tensors(file: GgufFile, arch: str) -> dict[str, TensorInfo]:
    """Where each of the model's tensors lies, by its Hugging Face name, in the file's order.

    Raises: UnsupportedModelError for a tensor that the architecture does not have; WeightsError for stacks of another
    number of experts than the metadata say, and where two tensors are the same one of the model.
    """
    metadata = ArchitectureMetadata(file, arch)
    num_layers, left_out = metadata.num_layers, set()
    found: dict[str, TensorInfo] = {}
    for info in file.tensors.values():
        if (block := _BLOCK.match(info.name)) and int(block[1]) >= num_layers:
            left_out.add(int(block[1]))
            continue
        if info.name == ANSWERS:  # rows of the head, which `check_reranker` looks at
            continue
        for name, place in _named(info, metadata):
            if len(found) >= MAX_TENSORS:
                raise UnsupportedModelError(
                    f"{file.path} has more than {MAX_TENSORS:,} tensors, experts counted one by one"
                )
            if found.setdefault(name, place) is not place:
                raise WeightsError(f"{file.path}: {found[name].name!r} and {place.name!r} are both {name}")
    if left_out:
        _LOG.warning(
            "%s: block %s predicts further tokens and is left out", file.path, ", ".join(map(str, sorted(left_out)))
        )
    return found


def _named(info: TensorInfo, metadata: ArchitectureMetadata) -> Iterator[tuple[str, TensorInfo]]:
    has_experts = architectures()[metadata.arch].has_experts
    if has_experts and (stack := _STACK.fullmatch(info.name)):
        yield from _experts(info, stack, metadata)
        return
    if has_experts and (alone := _ALONE.fullmatch(info.name)):
        yield f"model.layers.{alone[1]}.mlp.experts.{alone[3]}.{alone[2]}_proj.weight", info
        return
    if architectures()[metadata.arch].has_latent and (stack := _HEADS.fullmatch(info.name)):
        yield from _heads(info, stack, metadata)
        return
    try:
        name = names.tensor_name(metadata.arch, info.name)
    except UnsupportedModelError as error:
        raise UnsupportedModelError(f"{metadata.path}: {error}") from None
    if name is not None:
        # The norm of a recurrence's groups has their number for a dimension.
        yield name, info.flat() if info.name.endswith(".ssm_norm.weight") else info


def _experts(
    info: TensorInfo, stack: re.Match[str], metadata: ArchitectureMetadata
) -> Iterator[tuple[str, TensorInfo]]:
    """Each expert's part of a stack."""
    layer, parts, kind = stack[1], stack[2].rsplit("_", 1), stack[3]
    num_experts = metadata.size("expert_count")
    wanted = 3 if kind == "weight" else 2
    if len(info.shape) != wanted or info.shape[0] != num_experts or info.shape[1] % len(parts):
        raise WeightsError(
            f"{metadata.path}: tensor {info.name!r} has shape {info.shape}, which is no stack of {num_experts} experts"
        )
    rows = info.shape[1] // len(parts)
    for expert in range(num_experts):
        whole = info.item(expert)
        for number, part in enumerate(parts):
            place = whole if len(parts) == 1 else whole.rows(number * rows, (number + 1) * rows)
            yield f"model.layers.{layer}.mlp.experts.{expert}.{part}_proj.{kind}", place


def _heads(info: TensorInfo, stack: re.Match[str], metadata: ArchitectureMetadata) -> Iterator[tuple[str, TensorInfo]]:
    """Each head's part of a stack."""
    if len(info.shape) != 3 or info.shape[0] != metadata.num_heads:
        raise WeightsError(
            f"{metadata.path}: tensor {info.name!r} has shape {info.shape}, which is no stack of {metadata.num_heads} "
            "heads"
        )
    for head in range(metadata.num_heads):
        yield f"model.layers.{stack[1]}.self_attn.{stack[2]}_proj.{head}.weight", info.item(head)
