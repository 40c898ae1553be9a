"""What fusing found: every place where a pattern begins, whether it became one operator, and if not, why."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_LAYER = re.compile(r"(?<![A-Za-z])(?:layers|layer|blocks|block|h)[._/](\d+)(?![\d])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """Where a pattern ends to hold: the node that differs, what should have been there and what is."""

    node: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"at {self.node}: expected {self.expected}, found {self.found}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One place where a pattern begins.

    pattern: the operator that stands for it, such as "RMSNormalization"; node: the name of the node it was found by, or
    of the operator; layer: counted from 0, None outside of the layers or where names do not tell; is_present: the
    operator stood there from the start; mismatch: why it is not fused, None if it is (or would be, in a survey).
    """

    pattern: str
    node: str
    layer: int | None = None
    is_present: bool = False
    mismatch: Mismatch | None = None

    @property
    def matched(self) -> bool:
        """Whether the operator stands for the pattern here, or would after fusing."""
        return self.mismatch is None


@dataclass(frozen=True, slots=True, kw_only=True)
class FusionReport:
    """The sites of all patterns; patterns: those that were looked for, also where no site was found."""

    patterns: tuple[str, ...]
    sites: tuple[Site, ...]

    def of(self, pattern: str) -> tuple[Site, ...]:
        """The sites of one pattern."""
        return tuple(site for site in self.sites if site.pattern == pattern)

    def with_sites(self, pattern: str, sites: Iterable[Site]) -> FusionReport:
        """This report with other sites in place of the pattern's own."""
        kept = (site for site in self.sites if site.pattern != pattern)
        patterns = self.patterns if pattern in self.patterns else (*self.patterns, pattern)
        return FusionReport(patterns=patterns, sites=(*kept, *sites))

    def as_text(self) -> str:
        """For people: a line for each pattern, below it the sites that did not match."""
        return "\n".join(line for pattern in self.patterns for line in _lines(pattern, self.of(pattern)))

    def as_json(self) -> dict[str, object]:
        """For scripts: by pattern, the counts and all sites."""
        return {pattern: _as_json(self.of(pattern)) for pattern in self.patterns}


def layer_of(name: str) -> int | None:
    """The layer that a node's or weight's name speaks of, as exporters write it: `model.layers.3.…`, `/h.3/…`."""
    found = _LAYER.search(name)
    return int(found[1]) if found else None


def _lines(pattern: str, sites: Sequence[Site]) -> list[str]:
    if not sites:
        return [f"{pattern}: none found"]
    matched = [site for site in sites if site.matched]
    present = sum(site.is_present for site in matched)
    before = f", {present} of them there before" if present else ""
    lines = [f"{pattern}: {len(matched)} of {len(sites)}{before}"]
    return [*lines, *(f"  {_place(site)}: {_reason(site)}" for site in sites if site.mismatch)]


def _place(site: Site) -> str:
    return site.node if site.layer is None else f"layer {site.layer}, {site.node}"


def _reason(site: Site) -> str:
    mismatch = site.mismatch
    if mismatch is None or mismatch.node != site.node:
        return str(mismatch)
    return f"expected {mismatch.expected}, found {mismatch.found}"


def _as_json(sites: Sequence[Site]) -> dict[str, object]:
    return {
        "found": len(sites),
        "matched": sum(site.matched for site in sites),
        "sites": [
            {
                "node": site.node,
                "layer": site.layer,
                "matched": site.matched,
                "present": site.is_present,
                "reason": None
                if site.mismatch is None
                else {"node": site.mismatch.node, "expected": site.mismatch.expected, "found": site.mismatch.found},
            }
            for site in sites
        ],
    }
