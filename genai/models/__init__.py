"""Model packages: find them by name or path, pull their weights, build them on demand, keep them in a cache."""

from genai.models.adapters import read_adapter, room_for
from genai.models.catalog import KnownModel, known_models
from genai.models.library import (
    BuiltPackage,
    ModelStatus,
    build,
    checkpoint,
    is_package,
    list_models,
    package,
    pull,
    remove,
)

__all__ = [
    "BuiltPackage",
    "KnownModel",
    "ModelStatus",
    "build",
    "checkpoint",
    "is_package",
    "known_models",
    "list_models",
    "package",
    "pull",
    "read_adapter",
    "remove",
    "room_for",
]
