"""Every case, from the files of this folder: each has a table `CASES`, of names to cases."""

from __future__ import annotations

import importlib
import pkgutil

from tests.families.case import Case


def _all() -> dict[str, Case]:
    cases: dict[str, Case] = {}
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda module: module.name):
        table: dict[str, Case] = importlib.import_module(f"{__name__}.{module.name}").CASES
        assert not table.keys() & cases.keys(), f"two cases of one name: {sorted(table.keys() & cases.keys())}"
        cases |= table
    return cases


def _first_of_each(cases: dict[str, Case]) -> dict[str, str]:
    first: dict[str, str] = {}
    for name, case in cases.items():
        first.setdefault(case.model_type, name)
    return first


CASES = _all()
MODEL_TYPES = _first_of_each(CASES)
"""Model types, and the name of the first case of each."""
INSIDE = {case.tower.text for case in CASES.values() if case.tower}
"""Model types of text decoders inside of others, which may be there as such only."""
