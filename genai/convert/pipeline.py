"""From somebody's ONNX model to a model package.

    find and read ─► recognise and rewrite ─► (quantize, 16 bits, ScatterND) ─► write ─► verify ─► done

The package's folder appears when it is whole and its graph agreed with the original on sample tokens.
"""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from genai.build.output import finished_folder
from genai.build.quantize import Bits
from genai.config import CONFIG_FILE, ModelConfig, Provenance
from genai.convert.files import in_precision
from genai.convert.options import CONVERTER, ConvertOptions, Quantization
from genai.convert.package import (
    model_config,
    precision_of,
    source_digest,
    vocab_size,
    with_row_start,
    write_graph,
    write_report,
    write_row_start,
)
from genai.convert.passes.faster import make_faster
from genai.convert.passes.narrow import narrow
from genai.convert.passes.quantize import QuantizedWeight, quantize_products
from genai.convert.passes.scatter import lower_scatter
from genai.convert.recognise import find_model, rewrite
from genai.convert.report import ConversionReport
from genai.convert.rewritten import Rewritten
from genai.convert.untrusted.limits import bounded_memory
from genai.convert.untrusted.reading import OnnxFile, read_onnx
from genai.convert.verify import WITHOUT_ROUNDING, Agreement, Expected, compare, sample_prompts
from genai.errors import ConfigError, ModelError, RuntimeUnavailableError
from genai.progress import Progress, silent
from genai.runtime.providers import available_providers, provider_class
from genai.tokenizer.files import TokenizerFiles
from genai.tokenizer.hf_tokenizer import tokenizer_from_hf

_DTYPES = {"f16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}
_BITS: dict[Quantization, Bits] = {"int4": 4, "int8": 8}
_STEPS = 5


def convert(
    source: str | Path,
    output: str | Path,
    options: ConvertOptions | None = None,
    progress: Progress = silent,
    *,
    device: str = "auto",
) -> ConversionReport:
    """Convert an ONNX decoder that somebody exported into a model package.

    source: an .onnx file, or a folder with one and its configuration; output: new, empty, or a package, which is
    replaced; device: what it is for, as in `EngineConfig`. The original and the package run on the
    same tokens first; if they do not agree, nothing is written.
    Raises: ModelNotFoundError, UnsupportedModelError that says what was found and what is missing, WeightsError,
    ModelError if the two disagree, TokenizerError, ConfigError for a file that is not in the precision asked for.
    """
    progress("reading", 0, _STEPS)
    options = options or ConvertOptions()
    file = find_model(Path(source).expanduser(), options.precision, options.file)
    asked, options = options.precision, _settled(options, file.path, device)
    if options.hf_folder is not None:
        file = dataclasses.replace(file, folder=options.hf_folder)
    built, num_nodes = _rewritten(file, options, progress)
    with finished_folder(Path(output), CONFIG_FILE) as folder:
        written = _written(built, options, folder, progress)
        if asked not in (None, "auto", found_precision := precision_of(built.model)):
            raise ConfigError(
                f"{file.path.name} comes in {found_precision}, not in {asked}, nothing was written: name another file, "
                "or give no precision"
            )
        built.tokenizer.save(folder)
        report = ConversionReport(
            source=str(file.path),
            kind=built.found.kind,
            output=str(output),
            num_layers=built.config().num_layers,
            operators=(num_nodes, len(built.model.graph)),
            agreement=written.agreement,
            rounded=written.rounded,
            fusions=built.found.fusions,
            quantized=written.quantized,
            notes=(*built.found.notes, *written.notes, *_notes(options, written.rounded)),
        )
        write_report(report, folder)
    return report


def _settled(options: ConvertOptions, file: Path, device: str) -> ConvertOptions:
    """The options with what a precision means for a file of this name on a device."""
    if options.precision is None:
        return options
    provider = available_providers()[0] if device == "auto" else provider_class(device)
    return in_precision(options, options.precision, file.name, provider.activations)


def _rewritten(file: OnnxFile, options: ConvertOptions, progress: Progress) -> tuple[_Built, int]:
    """A file's model on the contract, and how many nodes it had."""
    model = read_onnx(file.path)
    num_nodes = len(model.graph)
    digest = source_digest(file.path, model)
    progress("recognising", 1, _STEPS)
    with bounded_memory(_num_bytes(model)):
        found = rewrite(file, model, options.max_seq_len, is_wide=options.dtype is not None)
    provenance = Provenance(
        source=file.folder.resolve().name,
        sha256=digest,
        precision="",
        builder=CONVERTER,
        options={"kind": found.kind, **options.as_data()},
    )
    built = _Built(model=model, found=found, tokenizer=tokenizer_from_hf(file.folder), provenance=provenance)
    return built, num_nodes


def _notes(options: ConvertOptions, rounded: Agreement | None) -> list[str]:
    if options.has_passes and rounded is None:
        return [f"{options.dtype}: no kernels for it here; the model was verified before it was rounded, not after"]
    return []


@dataclass(frozen=True, slots=True, kw_only=True)
class _Built:
    """A model on the contract, and what its package says of it."""

    model: ir.Model
    found: Rewritten
    tokenizer: TokenizerFiles
    provenance: Provenance

    def config(self) -> ModelConfig:
        """The package's `genai.json`."""
        provenance = dataclasses.replace(self.provenance, precision=precision_of(self.model))
        config = model_config(self.model, self.found.facts, self.tokenizer, provenance)
        return with_row_start(config, self.found.row_start)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Written:
    """What writing showed: agreement on the contract, and after the passes that round; see `ConversionReport`."""

    agreement: Agreement
    rounded: Agreement | None = None
    quantized: tuple[QuantizedWeight, ...] = ()
    notes: tuple[str, ...] = ()


def _written(built: _Built, options: ConvertOptions, folder: Path, progress: Progress) -> _Written:
    """Write and verify. Raises: ModelError where original and package do not agree."""
    facts, model = built.found.facts, built.model
    progress("running the original", 2, _STEPS)
    prompts = sample_prompts(vocab_size(model), facts.sliding_window, facts.max_position, built.tokenizer.tokenizer)
    with bounded_memory(_num_bytes(model)) if available_providers()[0].has_small_map else nullcontext():
        expected = Expected.of(built.found.original(), prompts)
    if options.scatter_nd:
        lower_scatter(model)
    progress("verifying", 3, _STEPS)
    _save(built, folder)
    is_exact = built.found.is_exact and precision_of(model) == "f32"
    agreement = compare(expected, folder, built.config(), is_exact=is_exact, session_options=WITHOUT_ROUNDING)
    if not agreement.is_good:
        raise ModelError(f"the converted model does not agree with the original, nothing was written: {agreement}")
    progress("rounding", 4, _STEPS)
    quantized = quantize_products(model, _BITS[options.quantize]) if options.quantize else []
    faster = make_faster(model)
    if options.dtype in _DTYPES:
        narrow(model, _DTYPES[options.dtype])
    if not options.has_passes and not faster:
        return _Written(agreement=agreement)
    _save(built, folder)
    rounded = _compare_rounded(expected, folder, built.config())
    if rounded is not None and not options.quantize and not rounded.is_good:
        what = f"in {options.dtype}" if options.dtype else f"with {' and '.join(faster)}"
        raise ModelError(f"the model loses too much {what}, nothing was written: {rounded}")
    return _Written(agreement=agreement, rounded=rounded, quantized=tuple(quantized), notes=tuple(faster))


def _compare_rounded(expected: Expected, folder: Path, config: ModelConfig) -> Agreement | None:
    """The package after rounding; None where this machine has no kernels for its type."""
    try:
        return compare(expected, folder, config, is_exact=False)
    except RuntimeUnavailableError:
        return None


def _save(built: _Built, folder: Path) -> None:
    write_graph(built.model, folder)
    config, row_start = built.config(), built.found.row_start
    config.write(folder)
    write_row_start(built.model, config.cache_dtype, row_start, folder)


def _num_bytes(model: ir.Model) -> int:
    tensors = [value.const_value for value in model.graph.initializers.values()]
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)
