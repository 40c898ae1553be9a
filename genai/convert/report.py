"""What a conversion found, did and verified."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from genai.convert.fusions.report import FusionReport
from genai.convert.passes.quantize import QuantizedWeight
from genai.convert.verify import Agreement

REPORT_FILE = "conversion.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionReport:
    """The result of `genai.convert.convert()`.

    kind: what the source was recognised as; operators: nodes before and after; agreement: of the graph on the contract
    with the original; rounded: of the package after weights were rounded or types changed, None if nothing was, or
    nothing here runs it.
    """

    source: str
    kind: str
    output: str
    num_layers: int
    operators: tuple[int, int]
    agreement: Agreement
    rounded: Agreement | None
    fusions: FusionReport | None
    quantized: tuple[QuantizedWeight, ...]
    notes: tuple[str, ...]

    def as_text(self) -> str:
        """For people."""
        before, after = self.operators
        lines = [f"{self.source}: {self.kind}, {self.num_layers} layers, {before} nodes became {after}"]
        if self.fusions is not None:
            lines.append(self.fusions.as_text())
        lines.append(f"verified on {self.agreement} (allowed: {self.agreement.allowed})")
        if self.quantized:
            worst = max(self.quantized, key=lambda weight: weight.error)
            lines.append(
                f"{len(self.quantized)} products in {self.quantized[0].bits} bits, largest relative error "
                f"{worst.error:.2%} ({worst.name})"
            )
        if self.rounded is not None:
            lines.append(f"after rounding: {self.rounded}")
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)

    def as_json(self) -> dict[str, object]:
        """For scripts."""
        before, after = self.operators
        return dataclasses.asdict(self) | {
            "operators": {"before": before, "after": after},
            "agreement": _agreement(self.agreement),
            "rounded": _agreement(self.rounded),
            "fusions": None if self.fusions is None else self.fusions.as_json(),
        }


def _agreement(value: Agreement | None) -> Mapping[str, object] | None:
    return None if value is None else dataclasses.asdict(value) | {"is_good": value.is_good}
