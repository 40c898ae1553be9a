"""The check of what recurrent states stand on."""

from __future__ import annotations

import numpy as np
import pytest

from genai.config import EngineConfig
from genai.contract import State, conv_state, recurrent_state
from genai.errors import RuntimeUnavailableError
from genai.runtime import probe_states
from genai.runtime.session import Session

CPU = EngineConfig(device="cpu", num_threads=1)
CONV, RECURRENT = State(conv_state(0), (3, 8), "float32"), State(recurrent_state(0), (2, 4, 4), "float32")


def test_this_runtime_passes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is run for graphs with a recurrence, and for these alone."""
    probe_states.check_states(CPU, (CONV, RECURRENT))
    monkeypatch.setattr(probe_states, "_largest_error", lambda *_: pytest.fail("looked at"))
    probe_states.check_states(CPU, ())
    probe_states.check_states(CPU, (CONV,))


@pytest.mark.parametrize("name", ["mixed", "gated.out", "updated_gated_delta", "updated_conv"])
def test_wrong_results_are_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    right = probe_states._expected

    def wrong(*given: object) -> dict[str, np.ndarray]:
        found = right(*given)  # type: ignore[arg-type]
        return found | {name: found[name] + np.float32(0.01)}

    monkeypatch.setattr(probe_states, "_expected", wrong)
    with pytest.raises(RuntimeUnavailableError, match=r"cannot run recurrent states on cpu: .* off by 0.01"):
        probe_states.check_states(CPU, (RECURRENT,))


def test_a_row_that_sits_out_must_keep_its_states(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = probe_states._tokens

    def counted(rng: np.random.Generator, num_tokens: int, counts: tuple[int, ...]) -> dict[str, np.ndarray]:
        return tokens(rng, num_tokens, (counts[0], num_tokens))

    monkeypatch.setattr(probe_states, "_tokens", counted)
    with pytest.raises(RuntimeUnavailableError, match="off by inf"):
        probe_states.check_states(CPU, (RECURRENT,))


def test_a_missing_operator_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = probe_states._graph().replace(b"LinearAttention", b"LinearAttentiom")
    monkeypatch.setattr(probe_states, "Session", lambda _, config: Session(graph, config))
    with pytest.raises(RuntimeUnavailableError, match=r"LinearAttention is missing or wrong.*f32 do without"):
        probe_states.check_states(CPU, (RECURRENT,))
