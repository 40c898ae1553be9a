"""Fixtures shared by all tests: the real weights, fetched once into the user's model folder."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """SmolLM2-135M-Instruct, Q4_1."""
    from genai import models

    return models.pull("smollm2-135m-instruct")


@pytest.fixture(scope="session")
def gemma_gguf() -> Path:
    """Gemma-3-270m, Q4_K_M."""
    from genai import models

    return models.pull("gemma-3-270m")
