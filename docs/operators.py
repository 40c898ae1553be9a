"""Writes the operator matrix of the installed runtime into docs/operators.md: `make operators`."""

from __future__ import annotations

import re
from pathlib import Path

from genai.conformance import all_cases
from genai.conformance.check import check
from genai.conformance.report import markdown

PAGE = Path(__file__).with_name("operators.md")


def written(page: str, table: str) -> str:
    """A page with another matrix in it."""
    return re.sub(
        r"(?<=<!-- matrix -->\n\n).*?(?=\n<!-- end -->)", lambda _: table.rstrip("\n") + "\n", page, flags=re.DOTALL
    )


if __name__ == "__main__":
    PAGE.write_text(
        written(PAGE.read_text(encoding="utf-8"), markdown(check(all_cases()))),
        encoding="utf-8",
    )
