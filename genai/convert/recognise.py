"""Which kind of model a file holds, and putting it onto the contract."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from genai.build.graph import CONTRIB
from genai.config import CONFIG_FILE, Precision
from genai.convert.fusions import fuse
from genai.convert.fusions.attention import PATTERN
from genai.convert.fusions.match import site_at
from genai.convert.normalize import normalize
from genai.convert.package import configured_window, read_facts
from genai.convert.plain.read import make_plain
from genai.convert.rewritten import ModelFacts, Rewritten
from genai.convert.sources import static_cache
from genai.convert.sources.onnxruntime_genai import rewrite as onnxruntime_genai
from genai.convert.sources.onnxruntime_genai.config import read_genai_config
from genai.convert.sources.onnxruntime_genai.inferred import config_of_graph, has_operators
from genai.convert.sources.past_present import rewrite as past_present
from genai.convert.sources.past_present.interface import PastPresentModel
from genai.convert.untrusted.reading import OnnxFile, find_onnx
from genai.errors import UnsupportedModelError
from genai.runtime.session import Session

_INSTEAD = (
    "take the checkpoint that it was made from: genai run ORGANISATION/NAME, or, for architectures that are not built "
    "here, genai export ORGANISATION/NAME OUT"
)

_PACKED = ("GatedDeltaNet", "GatedDeltaNetStateReplay", "Mamba2Verify", "SparsePagedAttention")
"""Operators that are parts of an engine: tokens of all its texts lie one behind the other. More begin as these do:"""
_PACKED_BEGINNINGS = ("Packed", "Varlen")


def find_model(source: Path, precision: Precision | None = None, asked: str | None = None) -> OnnxFile:
    """The graph that a path means, as its configuration names it where it has one.

    precision, asked: choose one of several files, see `genai.convert.files`.
    Raises: ModelNotFoundError, ModelError for a configuration that is damaged.
    """
    if (source / CONFIG_FILE).is_file():
        raise UnsupportedModelError(f"{source} is a package already; convert what it was made of")
    if asked is None and onnxruntime_genai.is_genai_folder(source):
        return OnnxFile(path=read_genai_config(source).graph, folder=source)
    return find_onnx(source, precision, asked)


def rewrite(file: OnnxFile, model: ir.Model, max_seq_len: int | None, *, is_wide: bool = False) -> Rewritten:
    """Recognise a model and put it onto the contract, in place.

    is_wide: in float32, whatever it was. Raises: UnsupportedModelError that says what was found; ModelError for a
    configuration that is damaged.
    """
    _check_packed(file, model)
    plain = make_plain(file.path, model, is_wide=is_wide)
    found = _rewritten(file, model, plain.original, max_seq_len)
    _check_window(found.facts, configured_window(file.folder))
    return replace(found, notes=(*plain.notes, *found.notes), is_exact=plain.is_exact)


def _check_window(facts: ModelFacts, window: int | None) -> None:
    """Whether layers see as far back as the configuration says.

    Exporters have left windows out, and a mask may hide keys in a way that was not seen. One token more or less is how
    versions of transformers differ. Raises: UnsupportedModelError.
    """
    if window is None or window >= facts.max_position:
        return
    found = facts.chunk if facts.sliding_window is None else facts.sliding_window
    if found is None or abs(found - window) > 1:
        raise UnsupportedModelError(
            f"config.json says a window of {window} tokens, the graph has {found or 'none'}: give "
            f"max_seq_len={min(window, found or window)} or less, where both are the same"
        )


def _rewritten(file: OnnxFile, model: ir.Model, load: Callable[[], Session], max_seq_len: int | None) -> Rewritten:
    if static_cache.is_static_cache(model):
        return static_cache.convert_static_cache(model, load, file.folder, max_seq_len)
    for folder in (file.folder, file.path.parent):  # the tokenizer's folder may be another one
        if onnxruntime_genai.is_genai_folder(folder):
            normalize(model)
            return onnxruntime_genai.convert_genai(model, read_genai_config(folder), load, max_seq_len)
    _check_operators(file, model)
    if has_operators(model):
        normalize(model)
        config = config_of_graph(file, model, max_seq_len)
        found = onnxruntime_genai.convert_genai(model, config, load, max_seq_len)
        return replace(found, kind="past and present caches, attention operators of ONNX Runtime")
    operators = Counter(node.op_type for node in model.graph)
    if operators["If"]:
        raise UnsupportedModelError(
            f"{file.path.name} has {operators['If']} If nodes, which choose by something else than whether there is a "
            f"past: that cannot be converted; {_INSTEAD}"
        )
    return _past_present(file, model, load, max_seq_len)


def _check_operators(file: OnnxFile, model: ir.Model) -> None:
    """Refuse graphs that are no decoder of tokens. Raises: UnsupportedModelError."""
    operators, inputs = Counter(node.op_type for node in model.graph), {value.name for value in model.graph.inputs}
    if loops := operators["Loop"] + operators["Scan"]:
        raise UnsupportedModelError(f"{file.path.name} has {loops} Loop or Scan nodes: no decoder needs them")
    if operators["PagedAttention"]:
        raise UnsupportedModelError(f"{file.path.name} keeps a paged cache (PagedAttention): not supported; {_INSTEAD}")
    if "inputs_embeds" in inputs and "input_ids" not in inputs:
        raise UnsupportedModelError(
            f"{file.path.name} reads inputs_embeds, embeddings that another graph computes (embed_tokens.onnx): models "
            f"in several graphs cannot be converted; {_INSTEAD}"
        )


def _check_packed(file: OnnxFile, model: ir.Model) -> None:
    """Refuse graphs without rows. Raises: UnsupportedModelError."""
    operators = Counter(node.op_type for node in model.graph if node.domain == CONTRIB)
    for name, count in operators.items():
        if name in _PACKED or name.startswith(_PACKED_BEGINNINGS):
            raise UnsupportedModelError(
                f"{file.path.name} has {count} {name} nodes, to which the tokens of all texts come as one, without "
                f"rows: not supported; {_INSTEAD}"
            )


def _past_present(file: OnnxFile, model: ir.Model, load: Callable[[], Session], max_seq_len: int | None) -> Rewritten:
    past_present.prepare(model)
    fusions = fuse(model)
    pristine = model.clone()
    window = configured_window(file.folder) or 0
    decoder = past_present.understand(model, longest=max(past_present.LONGEST, window + 1))
    interface = decoder.interface
    heads = [layer.heads for layer in decoder.layers]
    facts = read_facts(file.folder, heads[0], max_seq_len)
    windows = [layer.window for layer in heads if layer.window is not None]
    chunks = [layer.chunk for layer in heads if layer.chunk is not None]
    is_decomposed = any(layer.site.raw is not None for layer in decoder.layers)
    sites = [replace(site_at(PATTERN, layer.site.node), is_present=layer.site.raw is None) for layer in decoder.layers]
    past_present.rewrite(model, decoder, pristine)
    return Rewritten(
        kind="past and present caches, "
        + ("decomposed attention" if is_decomposed else "Attention operators")
        + (", recurrent layers" if decoder.recurrences else ""),
        facts=replace(facts, sliding_window=min(windows, default=None), chunk=min(chunks, default=None)),
        original=lambda: PastPresentModel(interface, load()),
        notes=(f"masks were looked at up to {decoder.longest:,} past tokens",),
        fusions=fusions.with_sites(PATTERN, sites),
    )
