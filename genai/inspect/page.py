"""A report as one page: nothing in it comes from elsewhere, it runs no scripts, and names from a model stay text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from genai.inspect.blocks import Block, short_size
from genai.inspect.report import GraphReport
from genai.inspect.style import STYLE
from genai.inspect.svg import clean, picture

if TYPE_CHECKING:
    from genai.convert.fusions.report import FusionReport, Site

_BATCHES = (1, 4, 8, 16, 32)
_LONGEST = 32_768
"""The longest row that is told of where the model does not say how long it may be."""
_MAX_REASONS = 20
_LOOPS = {
    "in place": "what one step writes, the next one reads: bound to the same memory, nothing is copied",
    "copied": "what one step returns, the next one is given",
}
_ROLES = {"cache": "cache", "attention": "attention", "product": "products", "norm": "norms"}


def page(report: GraphReport, *, batch: int = 1, length: int = 2048, fusions: FusionReport | None = None) -> str:
    """The page. batch, length: the cache that is looked at; fusions: None if they were not looked for."""
    name = clean(report.path.parent.name if report.config else report.path.name, 100)
    sections = [
        _facts(report),
        _section("Contract", _contract(report)),
        _section("Layers", "".join(map(_figure, report.blocks))),
        _section("Operators", _operators(report)),
        _section("Weights", _weights(report)),
        _section("Memory", _memory(report, batch, length)),
        _section("Fusions", _fusions(fusions)),
    ]
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        "<meta name=color-scheme content='light dark'>"
        f"<title>{name}</title><style>{STYLE}</style><h1>{name}</h1>{''.join(sections)}</html>\n"
    )


def _section(title: str, content: str) -> str:
    return f"<section><h2>{title}</h2>{content}</section>"


def _facts(report: GraphReport) -> str:
    opsets = ", ".join(f"{domain} {version}" for domain, version in report.opsets.items())
    facts = {"Weights": short_size(report.num_weight_bytes), "Opsets": f"{opsets}; IR {report.ir_version}"}
    if (per_token := report.cache_bytes_per_token) is not None:
        facts["Cache, a token"] = f"{per_token:,} B"
    if config := report.config:
        facts |= {
            "Model": f"{config.model_type}, {config.num_layers} layers of {config.hidden_size}",
            "Heads": f"{config.num_heads}, {config.num_kv_heads} of keys and values, size {config.head_dim}",
            "Vocabulary": f"{config.vocab_size:,}",
            "Longest sequence": f"{config.max_position:,} tokens",
            "Built from": f"{config.provenance.source}, {config.provenance.precision}",
        }
    items = (f"<div><dt>{name}</dt><dd>{clean(value, 200)}</dd></div>" for name, value in facts.items())
    return f"<dl class=facts>{''.join(items)}</dl>"


def _contract(report: GraphReport) -> str:
    if not report.differences:
        return "<p class=good>Followed: this graph decodes on a cache that is written in place.</p>"
    items = "".join(f"<li>{clean(difference)}</li>" for difference in report.differences)
    return f"<p class=bad>Not followed:</p><ul>{items}</ul>"


def _figure(block: Block) -> str:
    """A block's picture, scrolled sideways where the window is narrow."""
    times = f", drawn once for all {block.count}" if block.count > 1 else ""
    notes = list(block.notes)
    for count, what in ((block.num_shapes, "operators that only compute shapes"), (block.num_hidden, "more operators")):
        notes += [f"{count} {what} are not drawn"] if count else []
    told = f"<ul class=notes>{''.join(f'<li>{clean(note)}</li>' for note in notes)}</ul>" if notes else ""
    loops, roles = {arrow.loop for arrow in block.arrows}, {box.role for box in block.boxes}
    legend = [
        *(f"<span class='key loop'></span> {text}" for loop, text in _LOOPS.items() if loop in loops),
        *(f"<span class='key {role}'></span> {text}" for role, text in _ROLES.items() if role in roles),
    ]
    title = clean(block.title)
    return (
        f"<figure><figcaption><b>{title[:1].upper()}{title[1:]}</b>{times}</figcaption>"
        f"<div class=wide tabindex=0>{picture(block, block.title)}</div>"
        f"<p class=legend>{''.join(f'<span>{each}</span>' for each in legend)}</p>{told}</figure>"
    )


def _operators(report: GraphReport) -> str:
    counted = [(count, kind, domain) for domain, kinds in report.operators.items() for kind, count in kinds.items()]
    counted.sort(key=lambda each: (-each[0], each[1]))
    most = max((count for count, _, _ in counted), default=1)
    rows = []
    for count, kind, domain in counted:
        size = report.operator_bytes.get((domain, kind), 0)
        cells = (clean(kind, 60), clean(domain, 60), _bar(count / most, f"{count:,}"))
        rows.append((*cells, short_size(size) if size else ""))
    return _table(("Operator", "Domain", "Nodes", "Weights read"), rows)


def _weights(report: GraphReport) -> str:
    total = report.num_weight_bytes or 1
    rows = [
        (part, _bar(size / total, short_size(size)), f"{size / total:.1%}")
        for part, size in report.weight_bytes.items()
        if size
    ]
    return _table(("Part", "Size", "Share"), rows) if rows else "<p>No weights.</p>"


def _memory(report: GraphReport, batch: int, length: int) -> str:
    """The cache by capacity and batch, and its share of the whole."""
    per_token, weights = report.cache_bytes_per_token, report.num_weight_bytes
    if per_token is None:
        return f"<p>Weights: {short_size(weights)}. No caches were recognised.</p>"
    longest = report.config.max_position if report.config else max(_LONGEST, length)
    capacities = sorted({length, longest, *(1 << power for power in range(8, 18) if 1 << power < longest)})
    batches = sorted({batch, *_BATCHES})
    rows = [
        (f"{capacity:,}", *(short_size(rows * capacity * per_token) for rows in batches)) for capacity in capacities
    ]
    header = ("Capacity", *(f"{rows} row{'s' if rows > 1 else ''}" for rows in batches))
    most = weights + batch * capacities[-1] * per_token
    bars = "".join(_stacked(capacity, weights, batch * capacity * per_token, most) for capacity in capacities)
    return (
        f"<p>The cache by capacity (tokens of a row) and rows: {per_token:,} bytes a token.</p>"
        f"{_table(header, rows, is_numeric=True)}"
        f"<p>Weights and cache together, with {batch} row{'s' if batch > 1 else ''}:</p>"
        f"<div class=bars>{bars}</div><p class=legend><span><span class='key weights'></span> weights</span>"
        "<span><span class='key cached'></span> cache</span></p>"
    )


def _stacked(capacity: int, weights: int, cache: int, most: int) -> str:
    """One bar of the chart."""
    widths = [100 * part / most for part in (weights, cache)]
    return (
        f"<div><span>{capacity:,}</span><span class=stack><i class=weights style='width:{widths[0]:.2f}%'></i>"
        f"<i class=cached style='width:{widths[1]:.2f}%'></i></span><span>{short_size(weights + cache)}</span></div>"
    )


def _fusions(fusions: FusionReport | None) -> str:
    if fusions is None:
        return "<p>Not looked for: <code>genai inspect --fusions</code> does.</p>"
    rows = []
    for pattern in fusions.patterns:
        sites = fusions.of(pattern)
        matched, present = sum(site.matched for site in sites), sum(site.is_present for site in sites)
        bar = _bar(matched / max(len(sites), 1), f"{matched} of {len(sites)}")
        counts = (present, matched - present, len(sites) - matched)
        rows.append((clean(pattern, 60), bar, *map(str, counts)))
    header = ("Pattern", "Sites that match", "Are one operator", "Can be fused", "Cannot")
    return _table(header, rows) + "".join(_reasons(pattern, fusions.of(pattern)) for pattern in fusions.patterns)


def _reasons(pattern: str, sites: Sequence[Site]) -> str:
    missed = [site for site in sites if not site.matched]
    if not missed:
        return ""
    items = "".join(f"<li>{clean(f'{site.node}: {site.mismatch}')}</li>" for site in missed[:_MAX_REASONS])
    rest = len(missed) - _MAX_REASONS
    more = f"<li>and {rest} more</li>" if rest > 0 else ""
    summary = f"<summary>Why {clean(pattern, 60)} cannot be fused everywhere</summary>"
    return f"<details>{summary}<ul>{items}{more}</ul></details>"


def _bar(share: float, text: str) -> str:
    """A number with a bar as long as its share."""
    return f"<span class=bar><i style='width:{100 * share:.1f}%'></i></span>{text}"


def _table(header: Iterable[str], rows: Iterable[Iterable[str]], *, is_numeric: bool = False) -> str:
    """header, rows: HTML. is_numeric: all columns but the first hold numbers."""
    head = "".join(f"<th scope=col>{cell}" for cell in header)
    body = "".join(f"<tr>{''.join(f'<td>{cell}' for cell in row)}" for row in rows)
    return f"<div class=wide tabindex=0><table{' class=numbers' if is_numeric else ''}><tr>{head}{body}</table></div>"
