"""The tables of architectures: every module here with `ARCHITECTURES` adds its own, by `general.architecture`."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Mapping
from types import MappingProxyType

from genai.build.gguf.tables.table import Architecture


@functools.cache
def architectures() -> Mapping[str, Architecture]:
    """Every architecture that can be read. No two modules may have the same one."""
    found: dict[str, Architecture] = {}
    for module in pkgutil.iter_modules(__path__):
        own = getattr(importlib.import_module(f"{__name__}.{module.name}"), "ARCHITECTURES", {})
        if twice := found.keys() & own.keys():
            raise AssertionError(f"{__name__}.{module.name} has {sorted(twice)} again")
        found |= own
    return MappingProxyType(found)
