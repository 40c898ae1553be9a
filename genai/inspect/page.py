"""A report as one page: nothing in it comes from elsewhere, it runs no scripts, and names from a model stay text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genai.inspect.blocks import short_size
from genai.inspect.rendering import rendered
from genai.inspect.report import GraphReport
from genai.inspect.svg import picture

if TYPE_CHECKING:
    from genai.convert.fusions.report import FusionReport

_BATCHES = (1, 4, 8, 16, 32)
_LONGEST = 32_768
"""The longest row that is told of where the model does not say how long it may be."""


def page(report: GraphReport, *, batch: int = 1, length: int = 2048, fusions: FusionReport | None = None) -> str:
    """The page. batch, length: the cache that is looked at; fusions: None if they were not looked for."""
    counted = [(count, kind, domain) for domain, kinds in report.operators.items() for kind, count in kinds.items()]
    longest = report.config.max_position if report.config else max(_LONGEST, length)
    return rendered(
        "page.html",
        name=report.path.parent.name if report.config else report.path.name,
        report=report,
        facts=_facts(report),
        picture=picture,
        operators=sorted(counted, key=lambda each: (-each[0], each[1])),
        batch=batch,
        batches={rows: f"{rows} row{'s' if rows > 1 else ''}" for rows in sorted({batch, *_BATCHES})},
        capacities=sorted({length, longest, *(1 << power for power in range(8, 18) if 1 << power < longest)}),
        fusions=fusions,
    )


def _facts(report: GraphReport) -> dict[str, str]:
    opsets = ", ".join(f"{domain} {version}" for domain, version in report.opsets.items())
    facts = {"Weights": short_size(report.num_weight_bytes), "Opsets": f"{opsets}; IR {report.ir_version}"}
    if (per_token := report.cache_bytes_per_token) is not None:
        facts["Cache, a token"] = f"{per_token:,} B"
    if per_row := report.state_bytes_per_row:
        facts["States, a row"] = f"{per_row:,} B"
    if report.experts is not None:
        facts["Experts"] = report.experts.summary
    if config := report.config:
        facts |= {
            "Model": f"{config.model_type}, {config.num_layers} layers of {config.hidden_size}",
            "Heads": f"{config.num_heads}, {config.num_kv_heads} of keys and values, size {config.head_dim}",
            "Vocabulary": f"{config.vocab_size:,}",
            "Longest sequence": f"{config.max_position:,} tokens",
            **({"Embeddings": config.embedding.summary} if config.embedding else {}),
            "Built from": f"{config.provenance.source}, {config.provenance.precision}",
        }
    return facts
