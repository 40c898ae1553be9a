"""The page names every client that is run, in the release that its lock names, and nothing else."""

from __future__ import annotations

import re

from tests.clients import environments
from tests.clients.documented import PAGE, release, rows


def test_the_table_names_every_client_in_its_locked_release() -> None:
    wanted = {(name, release(name)) for name in environments.names()}
    assert {(name, version) for name, version, _, _ in rows()} == wanted


def test_every_client_has_a_section_with_its_configuration() -> None:
    sections = re.findall(r"^## (\S+)\n.*?^```", PAGE.read_text(), re.M | re.S)
    assert sections == list(dict.fromkeys(name for name, *_ in rows()))
