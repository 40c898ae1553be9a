"""A checkpoint as a model package: traced and fused, then put onto the contract and verified by `genai.convert`."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from genai.build.open import source_digest
from genai.build.output import finished_folder
from genai.config import CONFIG_FILE, MODEL_FILE, ModelConfig
from genai.convert import ConversionReport, ConvertOptions, convert
from genai.convert.fusions.attention import PATTERN as ATTENTION
from genai.convert.options import FloatType
from genai.convert.package import write_report
from genai.errors import ConfigError
from genai.export.options import ExportOptions
from genai.export.plain import DEFAULT_OPTIONS, description, export_plain
from genai.progress import Progress, silent

EXPORTER = "genai-export-1"
"""Changes whenever the same checkpoint and options would give another graph."""

_PLAIN_CONVERSION = ConvertOptions()


def export(
    source: Path,
    output: Path,
    options: ExportOptions = DEFAULT_OPTIONS,
    conversion: ConvertOptions = _PLAIN_CONVERSION,
    progress: Progress = silent,
) -> ConversionReport:
    """Write a Hugging Face folder as a model package, by way of torch.export.

    output: new, empty, or a package, which is replaced; conversion: what else to do to the graph; its type is
    `options.dtype`. With sums in 32 bits the model is traced and verified in float32 before it is rounded; with the
    hardware's it is traced in its final type. Raises: what `export_plain` and `genai.convert.convert` raise.
    """
    if conversion.dtype is not None or conversion.hf_folder is not None:
        raise ConfigError("conversion: dtype is an option of the export, and hf_folder the source itself")
    if (options.dtype, options.accumulate) == ("bf16", "hardware"):
        raise ConfigError(
            "a bf16 model whose sums are the hardware's cannot be verified, as ONNX Runtime takes no bf16 arrays: "
            "accumulate in f32, or write the plain model"
        )
    traced, narrow_to = _steps(options)
    with finished_folder(output, CONFIG_FILE) as folder:
        exported = export_plain(source, folder / "plain", traced, progress)
        package = folder / "package"
        report = convert(exported.path, package, replace(conversion, dtype=narrow_to), progress)
        _describe(source, package, options)
        attention = () if report.fusions is None else report.fusions.of(ATTENTION)
        fusions = exported.fusions.with_sites(ATTENTION, attention)
        report = replace(report, source=str(source), output=str(output), fusions=fusions)
        write_report(report, package)
        shutil.rmtree(folder / "plain", ignore_errors=True)
        for file in list(package.iterdir()):
            file.rename(folder / file.name)
        package.rmdir()
    return report


def _steps(options: ExportOptions) -> tuple[ExportOptions, FloatType | None]:
    """What is traced, and what the conversion rounds it to."""
    if options.dtype == "f32" or options.accumulate == "hardware":
        return options, None
    return replace(options, dtype="f32"), options.dtype


def _describe(source: Path, package: Path, options: ExportOptions) -> None:
    """Say in the package's files where it came from and how it was made."""
    config = ModelConfig.read(package)
    made = description(source, options)
    made_options = {**config.provenance.options, **{key: value for key, value in made.items() if key != "source"}}
    provenance = replace(
        config.provenance,
        source=made["source"],
        sha256=source_digest(source),
        builder=EXPORTER,
        options=made_options,
    )
    replace(config, provenance=provenance).write(package)
    model = ir.load(package / MODEL_FILE)
    model.metadata_props.update(made)
    if options.accumulate == "hardware":
        for node in model.graph:
            node.attributes.pop("softmax_precision", None)
    ir.save(model, package / MODEL_FILE)  # the graph alone: its weights stay where they are
