"""`genai bench`: on a tiny random model, and on the real one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from genai.bench import Plan, Stepper, measure
from genai.config import EngineConfig
from genai.errors import CapacityError, ConfigError
from tests.build import tiny
from tests.cli.conftest import Genai


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random llama of three layers, for up to 256 tokens."""
    return tiny.build(tiny.make_model("llama"), tmp_path_factory.mktemp("tiny"))


def config(**options: int) -> EngineConfig:
    return EngineConfig(device="cpu", num_threads=1, **options)


def test_rows_are_equally_long_when_steps_begin(package: Path) -> None:
    with Stepper(package, config(max_seq_len=64, max_batch=3, prefill_chunk=8)) as stepper:
        prompts = [tiny.tokens(20, seed) for seed in range(3)]
        assert stepper.start(prompts) > 0
        assert [len(text.tokens) for text in stepper.llm.engine.running] == [21] * 3
        step = stepper.step()
        assert [len(text.tokens) for text in stepper.llm.engine.running] == [22] * 3
        assert 0 < step.graph_seconds < step.seconds
        assert 0 < step.outside_share < 1
        stepper.stop()
        assert not stepper.llm.engine.has_work


def test_steps_give_what_generate_gives(package: Path) -> None:
    prompts = [tiny.tokens(20, 1), tiny.tokens(20, 2)]
    with Stepper(package, config(max_seq_len=64, max_batch=2)) as stepper:
        expected = stepper.llm.generate(prompts, max_new_tokens=6, ignore_eos=True)
        stepper.start(prompts)
        texts = stepper.llm.engine.running
        for _ in range(5):
            stepper.step()
        assert [text.generated for text in texts] == [result.token_ids for result in expected]


def test_a_row_that_is_full_is_an_error(package: Path) -> None:
    with Stepper(package, config(max_seq_len=16, max_batch=1)) as stepper:
        stepper.start([tiny.tokens(14)])
        stepper.step()
        with pytest.raises(CapacityError, match="only 0 of 1 rows"):
            stepper.step()


def test_what_does_not_fit_is_refused_before_measuring(package: Path) -> None:
    with pytest.raises(CapacityError, match="at most 2 rows of 32 fit"):
        measure(package, Plan(lengths=(30,), batches=(2,), new_tokens=8), config(max_seq_len=32))
    with pytest.raises(CapacityError, match="built for at most 256"):
        measure(package, Plan(lengths=(300,), batches=(1,)), config())


def test_a_report_has_every_cell(package: Path) -> None:
    report = measure(package, Plan(lengths=(8, 40), batches=(1, 3), new_tokens=2, repeats=2), config())
    assert [each.length for each in report.prefill] == [8, 40]
    assert [(each.length, each.batch) for each in report.decode] == [(8, 1), (8, 3), (40, 1), (40, 3)]
    assert all(each.seconds > 0 and 0 < each.outside_share < 1 for each in report.decode)
    assert report.decode[1].tokens_per_second == pytest.approx(3 / report.decode[1].seconds)
    assert report.precision == "f32"
    assert report.peak_memory > 0
    assert {"cpu", "threads", "onnxruntime", "python", "device"} <= report.machine.keys()


def test_all_rows_have_the_adapter(tmp_path: Path, run_genai: Genai) -> None:
    pytest.importorskip("peft")
    from tests.build.adapters import published

    model = tiny.make_model("llama")
    package = tiny.build(model, tmp_path, lora_slots=1, max_rank=4)
    path = published.save(published.adapted(model, seed=1), tmp_path / "adapter")
    with Stepper(package, config(max_seq_len=64, max_batch=2), ("mine", str(path))) as stepper:
        stepper.start([tiny.tokens(20, 1), tiny.tokens(20, 2)])
        texts = stepper.llm.engine.running
        stepper.step()
        for text in texts:
            logits = published.logits(published.adapted(model, seed=1), [text.tokens])[0]
            assert text.generated == [int(line.argmax()) for line in logits[19:21]]
    plan = ("--lengths", "8", "--batches", "1", "--new-tokens", "2", "--repeats", "1", "--device", "cpu")
    command = ("bench", package, *plan, "--adapter", f"mine={path}")
    assert f"{package} with mine, precision f32" in run_genai(*command).out
    assert json.loads(run_genai(*command, "--json").out)["adapter"] == "mine"


def test_plans_are_checked() -> None:
    with pytest.raises(ConfigError, match="lengths"):
        Plan(lengths=())
    with pytest.raises(ConfigError, match="batches"):
        Plan(batches=(0,))
    with pytest.raises(ConfigError, match="repeats=0"):
        Plan(repeats=0)


def test_tables_and_json(package: Path, run_genai: Genai) -> None:
    options = ("bench", package, "--lengths", "8,16", "--batches", "2", "--new-tokens", "2", "--repeats", "1")
    shown = run_genai(*options, "--threads", "1", "--device", "cpu")
    assert (shown.code, shown.err) == (0, "")
    assert "precision f32, on cpu" in shown.out
    lines = [line.split() for line in shown.out.splitlines()]
    assert ["DECODE:", "CONTEXT", "BATCH", "MS/STEP", "TOKENS/S", "OUTSIDE"] in lines
    data = json.loads(run_genai(*options, "--device", "cpu", "--json").out)
    assert [each["length"] for each in data["prefill"]] == [8, 16]
    assert data["plan"] == {"lengths": [8, 16], "batches": [2], "new_tokens": 2, "repeats": 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--lengths", "many"), "--lengths 'many': must be whole numbers between commas"),
        (("--batches", "1,0"), "--batches '1,0': every number must be at least 1"),
        (("--lengths", ""), "--lengths ''"),
        (("--lengths", "300"), "built for at most 256 tokens"),
    ],
)
def test_bad_options_are_one_line(package: Path, run_genai: Genai, options: tuple[str, ...], message: str) -> None:
    outcome = run_genai("bench", package, "--device", "cpu", *options)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.usefixtures("smollm2_gguf")
def test_the_real_model(capsys: pytest.CaptureFixture[str]) -> None:
    from genai.cli.main import exit_code

    arguments = ["--lengths", "16,64", "--batches", "1,2", "--new-tokens", "4", "--repeats", "1", "--device", "cpu"]
    assert exit_code(["bench", "smollm2-135m-instruct", *arguments, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert len(data["decode"]) == 4
    assert data["peak_memory_bytes"] > 100e6
    assert all(each["outside_share"] < 0.2 for each in data["decode"]), "5 % where nothing else runs"
