"""Which kind of model a file holds, and putting it onto the contract."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from genai.config import CONFIG_FILE, EngineConfig
from genai.convert.flex import loaded, write_out
from genai.convert.fusions import fuse
from genai.convert.fusions.attention import PATTERN
from genai.convert.fusions.match import site_at
from genai.convert.normalize import normalize
from genai.convert.package import configured_window, read_facts
from genai.convert.rewritten import ModelFacts, Rewritten
from genai.convert.sources import static_cache
from genai.convert.sources.onnxruntime_genai import rewrite as onnxruntime_genai
from genai.convert.sources.onnxruntime_genai.config import read_genai_config
from genai.convert.sources.past_present import rewrite as past_present
from genai.convert.sources.past_present.interface import PastPresentModel
from genai.convert.untrusted.reading import OnnxFile, find_onnx
from genai.errors import UnsupportedModelError
from genai.runtime.session import Session

_INSTEAD = (
    "take the checkpoint that it was made from: genai run ORGANISATION/NAME, or, for architectures that are not built "
    "here, genai export ORGANISATION/NAME OUT"
)


def find_model(source: Path) -> OnnxFile:
    """The graph that a path means, as its configuration names it where it has one.

    Raises: ModelNotFoundError, ModelError for a configuration that is damaged.
    """
    if (source / CONFIG_FILE).is_file():
        raise UnsupportedModelError(f"{source} is a package already; convert what it was made of")
    if onnxruntime_genai.is_genai_folder(source):
        return OnnxFile(path=read_genai_config(source).graph, folder=source)
    return find_onnx(source)


def rewrite(file: OnnxFile, model: ir.Model, max_seq_len: int | None) -> Rewritten:
    """Recognise a model and put it onto the contract, in place.

    Raises: UnsupportedModelError that says what was found; ModelError for a configuration that is damaged.
    """
    found = _rewritten(file, model, max_seq_len)
    _check_window(found.facts, configured_window(file.folder))
    return found


def _check_window(facts: ModelFacts, window: int | None) -> None:
    """Whether layers see as far back as the configuration says.

    Exporters have left windows out, and a mask may hide keys in a way that was not seen. One token more or less is how
    versions of transformers differ. Raises: UnsupportedModelError.
    """
    if window is None or window >= facts.max_position:
        return
    if facts.sliding_window is None or abs(facts.sliding_window - window) > 1:
        raise UnsupportedModelError(
            f"config.json says a window of {window} tokens, the graph has {facts.sliding_window or 'none'}: give "
            f"max_seq_len={min(window, facts.sliding_window or window)} or less, where both are the same"
        )


def _rewritten(file: OnnxFile, model: ir.Model, max_seq_len: int | None) -> Rewritten:
    has_flex = write_out(model) > 0
    operators = Counter(node.op_type for node in model.graph)
    if loops := operators["Loop"] + operators["Scan"]:
        raise UnsupportedModelError(f"{file.path.name} has {loops} Loop or Scan nodes: no decoder needs them")
    if static_cache.is_static_cache(model):
        return static_cache.convert_static_cache(model, file.path, file.folder, max_seq_len)
    for folder in (file.folder, file.path.parent):  # the tokenizer's folder may be another one
        if onnxruntime_genai.is_genai_folder(folder):
            normalize(model)
            return onnxruntime_genai.convert_genai(model, read_genai_config(folder), max_seq_len)
    if operators["If"]:
        raise UnsupportedModelError(
            f"{file.path.name} has {operators['If']} If nodes: a merged decoder has two graphs in one, which cannot be "
            f"converted; {_INSTEAD}"
        )
    for name in ("GroupQueryAttention", "MultiHeadAttention", "PagedAttention"):
        if operators[name]:
            raise UnsupportedModelError(
                f"{file.path.name} has {operators[name]} {name} nodes, as models for onnxruntime-genai and "
                f"transformers.js have, but no genai_config.json lies beside it to say what they mean; {_INSTEAD}"
            )
    written_out = model.clone() if has_flex else None
    return _past_present(file, model, max_seq_len, written_out)


def _past_present(file: OnnxFile, model: ir.Model, max_seq_len: int | None, written_out: ir.Model | None) -> Rewritten:
    """written_out: the model as it was, where the runtime has no kernels for that; None to load the file."""
    past_present.prepare(model)
    fusions = fuse(model)
    pristine = model.clone()
    window = configured_window(file.folder) or 0
    decoder = past_present.understand(model, longest=max(past_present.LONGEST, window + 1))
    interface = decoder.interface
    heads = [layer.heads for layer in decoder.layers]
    facts = read_facts(file.folder, heads[0], max_seq_len)
    windows = [layer.window for layer in heads if layer.window is not None]
    is_decomposed = any(layer.site.raw is not None for layer in decoder.layers)
    sites = [replace(site_at(PATTERN, layer.site.node), is_present=layer.site.raw is None) for layer in decoder.layers]
    past_present.rewrite(model, decoder, pristine)
    return Rewritten(
        kind="past and present caches, " + ("decomposed attention" if is_decomposed else "Attention operators"),
        facts=replace(facts, sliding_window=min(windows, default=None)),
        original=lambda: PastPresentModel(
            interface, Session(file.path, EngineConfig()) if written_out is None else loaded(written_out)
        ),
        notes=(f"masks were looked at up to {decoder.longest:,} past tokens",),
        fusions=fusions.with_sites(PATTERN, sites),
    )
