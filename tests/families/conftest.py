"""What the cases are made into, once a session."""

from __future__ import annotations

import pytest

from tests.families.made import Made


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    pytest.importorskip("torch")
    return Made(tmp_path_factory.mktemp("families"))
