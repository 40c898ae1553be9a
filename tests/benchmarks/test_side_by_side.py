"""The whole driver, on peers that take no time."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import compared, environments, side_by_side
from benchmarks.environments import PeerUnavailableError
from benchmarks.results import as_json
from benchmarks.side_by_side import ENTRIES, Entry, Settings, compare, settings_from
from benchmarks.texts import ANSWER_LENGTHS, ENGLISH, PROMPT_LENGTHS, prompts, ragged_requests

FAKE = str(Path(__file__).with_name("fake_worker.py"))
CONTESTANTS = (
    Entry(name="ours-f32", peer="ours", precision="f32"),
    Entry(name="ours-auto", peer="ours", precision="auto"),
    Entry(name="mute", peer="ours", precision="int8"),
    Entry(name="broken", peer="ours", precision="f16"),
    Entry(name="missing", peer="missing"),
)


@pytest.fixture
def fake_peers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every peer is the fake one; nothing is pulled, built or installed."""

    def install(peer: str) -> None:
        if peer == "missing":
            raise PeerUnavailableError("cannot be installed: no such package")

    monkeypatch.setattr(environments, "install", install)
    monkeypatch.setattr(environments, "worker_command", lambda peer: [sys.executable, FAKE])
    monkeypatch.setattr(side_by_side, "ROOT", tmp_path)
    monkeypatch.setattr(compared.models, "checkpoint", lambda model: tmp_path / "model.gguf")
    monkeypatch.setattr(side_by_side.models, "package", lambda model, **options: tmp_path)
    (tmp_path / "model.onnx.data").write_bytes(bytes(12_000_000))
    monkeypatch.setattr(side_by_side, "english_tokens", lambda package: list(range(600)))
    monkeypatch.setattr(compared, "write_hf_folder", lambda gguf, folder: folder)


def settings(**changes: object) -> Settings:
    options = {
        "model": "tiny",
        "entries": CONTESTANTS,
        "prefills": (20,),
        "lengths": (30,),
        "batches": (1, 3),
        "rounds": 2,
        "steps": 3,
        "threads": 1,
        "pause": 0.0,
        "patience": 1,
    }
    return Settings(**{**options, **changes})


@pytest.mark.usefixtures("fake_peers")
def test_everything_is_measured_and_what_fails_is_noted() -> None:
    results = compare(settings())
    assert [each.name for each in results.contestants] == ["ours-f32", "ours-auto", "mute"]
    assert [each.mean_kl for each in results.contestants] == [pytest.approx(0), pytest.approx(0), None]
    assert all(each.rss > 0 and each.disk_bytes == 12_000_000 for each in results.contestants)
    assert [cell.title for cell in results.cells] == [
        "Prefill, 20 tokens",
        "Decode, batch 1, context 30",
        "Decode, batch 3, context 30",
    ]
    assert results.cells[0].rounds["mute"] == [[0.02], [0.02]]
    assert results.cells[2].rounds["ours-auto"] == [pytest.approx([0.003, 0.003001, 0.003002])] * 2
    assert results.notes == [
        "broken is left out: broken cannot load: RuntimeError: no such precision here",
        "missing is left out: cannot be installed: no such package",
        "mute cannot logits: NotImplementedError: no logits",
    ]


@pytest.mark.usefixtures("fake_peers")
def test_a_peer_that_dies_is_noted_and_the_others_go_on() -> None:
    fragile = Entry(name="fragile", peer="ours", precision="bf16")
    results = compare(settings(entries=(fragile, *CONTESTANTS[:2]), prefills=(13, 20), batches=(1,)))
    assert [list(cell.rounds) for cell in results.cells] == [["ours-f32", "ours-auto"]] * 3
    assert results.notes == ["fragile died in 'prefill': out of luck"]


@pytest.mark.usefixtures("fake_peers")
def test_a_round_in_which_a_peer_fails_is_begun_anew_without_it() -> None:
    tired = Entry(name="tired", peer="ours", precision="int4")
    results = compare(settings(entries=(tired, *CONTESTANTS[:2]), prefills=(20,), batches=(1,), rounds=4))
    prefill, decode = results.cells
    assert list(prefill.rounds) == ["ours-f32", "ours-auto"]
    assert list(decode.rounds) == ["tired", "ours-f32", "ours-auto"], "it fails at prefill only"
    assert results.notes == ["tired cannot prefill: RuntimeError: enough"]


@pytest.mark.usefixtures("fake_peers")
def test_ragged_requests_are_measured_last_and_once_each_round() -> None:
    requests = ragged_requests(list(range(600)), 5)
    results = compare(settings(batches=(1,), ragged=5, ragged_rounds=1))
    cell = results.cells[-1]
    assert (cell.title, cell.kind, cell.batch) == ("Ragged, 5 requests", "ragged", 5)
    assert cell.work == sum(count for _, count in requests)
    seconds = sum(len(prompt) + count for prompt, count in requests) / 1000
    assert cell.rounds == {name: [[pytest.approx(seconds)]] for name in ("ours-f32", "ours-auto", "mute")}
    assert cell.baselines == ["ours-f32", "ours-auto", "mute", "broken"], "compared with every one of ours"
    (found,) = [each for each in as_json(results, ())["cells"] if each["kind"] == "ragged"]
    assert set(found["ratios"]["ours-auto"]) == set(cell.rounds)
    assert found["ratios"]["broken"] == {}


def test_ragged_requests_need_room() -> None:
    without = settings(lengths=(4,), batches=(1,))
    with_them = settings(lengths=(4,), batches=(1,), ragged=64)
    assert (without.max_batch, with_them.max_batch) == (1, 8)
    assert with_them.max_length >= 256 + 96


def test_ragged_requests_are_the_same_every_time() -> None:
    requests = ragged_requests(list(range(50)), 64)
    assert requests == ragged_requests(list(range(50)), 64)
    assert all(PROMPT_LENGTHS[0] <= len(prompt) <= PROMPT_LENGTHS[1] for prompt, _ in requests)
    assert all(ANSWER_LENGTHS[0] <= count <= ANSWER_LENGTHS[1] for _, count in requests)
    assert len({len(prompt) for prompt, _ in requests}) > 40


def test_settings_come_from_the_command_line() -> None:
    found = settings_from(["tiny", "--only", "ours-auto,llama.cpp-gguf", "--lengths", "8,16", "--rounds", "3"])
    assert [entry.name for entry in found.entries] == ["ours-auto", "llama.cpp-gguf"]
    assert (found.model, found.lengths, found.rounds, found.ragged) == ("tiny", (8, 16), 3, 0)
    assert settings_from(["--ragged", "64", "--ragged-rounds", "2"]).ragged_rounds == 2
    assert settings_from([]).entries == ENTRIES


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "vllm"], "--only 'vllm': must be of ours-auto"),
        (["--rounds", "0"], "must be at least 1"),
        (["--lengths", "0"], "numbers from 1"),
        (["--ragged", "-1"], "0 for none"),
        (["--ragged-rounds", "0"], "must be at least 1"),
    ],
)
def test_bad_settings_are_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        settings_from(arguments)
    assert message in capsys.readouterr().err


def test_there_is_a_worker_and_a_requirements_file_for_every_entry() -> None:
    assert {entry.peer for entry in ENTRIES} == set(environments.peers())
    for peer in set(environments.peers()) - {environments.OURS}:
        for name in ("requirements.in", "requirements.txt"):
            assert (environments.ROOT / "peers" / peer / name).is_file()


def test_peers_that_are_not_installed_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "peers" / "nobody").mkdir(parents=True)
    for name in ("requirements.in", "requirements.txt"):
        (tmp_path / "peers" / "nobody" / name).write_text("no-such-package\n")
    monkeypatch.setattr(environments, "ROOT", tmp_path)
    with pytest.raises(PeerUnavailableError, match=r"not installed; python -m benchmarks\.environments nobody"):
        environments.worker_command("nobody")
    assert environments.worker_command("ours")[0] == sys.executable


def test_prompts_are_as_long_as_asked_and_differ() -> None:
    batch = prompts(list(range(50)), 3, 120)
    assert [len(prompt) for prompt in batch] == [120] * 3
    assert len({prompt[0] for prompt in batch}) == 3


def test_the_text_is_long_enough() -> None:
    assert len(ENGLISH.read_text(encoding="utf-8").split()) > 600


@pytest.mark.usefixtures("fake_peers")
def test_another_checkout_is_a_contestant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "checkout_command", lambda checkout: [sys.executable, FAKE])
    chosen = settings_from(["--only", "ours-auto,transformers-f32", "--before", str(Path(__file__).parents[2])])
    found = compare(settings(entries=chosen.entries, lengths=(), rounds=1))
    assert list(found.cells[0].rounds) == ["ours-auto", "transformers-f32", "before-auto"]


@pytest.mark.usefixtures("fake_peers")
def test_a_checkout_without_an_environment_is_a_note(tmp_path: Path) -> None:
    chosen = settings_from(["--only", "ours-auto", "--before", str(tmp_path)])
    found = compare(settings(entries=chosen.entries, lengths=(), rounds=1))
    reason = f"{tmp_path} is no checkout with an environment: make test sets one up there"
    assert f"before-auto is left out: {reason}" in found.notes


def test_a_peer_that_there_is_not_gets_no_environment(capsys: pytest.CaptureFixture[str]) -> None:
    assert environments.main(["llama.cpp-newest"]) == 1
    assert "there is no such peer: llama-cpp-python, " in capsys.readouterr().err
    assert not (environments.ROOT / ".envs" / "llama.cpp-newest").exists()
