"""Budget arithmetic, the kernel probe, the contract check, and what a bad package says."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from genai import contract
from genai.config import EmbeddingConfig, EngineConfig, ModelConfig, Provenance, WindowConfig
from genai.contract import AdaptedProduct, AdapterRoom, Cache, State, TensorType, uniform_caches
from genai.errors import CapacityError, ConfigError, ContractError, GraphRunError, ModelError, RuntimeUnavailableError
from genai.runtime import probe
from genai.runtime.load import load_runner, plan_budget
from genai.runtime.logits import FloatArray
from genai.runtime.providers import choose_device
from genai.runtime.runner import BoundShape
from genai.runtime.same_bits import PADDINGS, Padding
from genai.runtime.session import Session
from genai.runtime.windows import WindowRoom
from tests.random_model import RandomSource, build_random_model
from tests.tiny_package import tiny_package

CPU = EngineConfig(device="cpu", num_threads=1)
FREE = EngineConfig(device="cpu", num_threads=1, same_bits=False)
GIB = 2**30


def test_the_default_budget_is_half_of_free_memory_and_no_more_than_useful() -> None:
    slots, longest = plan_budget(2048, 1000, EngineConfig(), GIB)
    assert (slots, longest) == (2048 * 8, 2048), "eight rows of the model's own length are all it can use"
    slots, longest = plan_budget(100_000, 1000, EngineConfig(), GIB)
    assert slots == GIB // 2 // 1000
    assert longest == 100_000


@pytest.mark.parametrize("padding", [padding for padding in PADDINGS if not padding.repeats])
def test_one_row_is_as_long_as_was_asked_for_though_runs_are_padded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, padding: Padding
) -> None:
    monkeypatch.setattr("genai.runtime.same_bits.PADDINGS", (padding,))
    loaded = load_runner(tmp_path, package(tmp_path), dataclasses.replace(CPU, max_batch=1, max_seq_len=64))
    assert (loaded.same_bits.padding, loaded.max_seq_len) == (padding, 64)
    row = loaded.runner.cache.allocate(64)
    assert loaded.runner.score(row, [*range(63)]).shape[0] == 63
    assert loaded.runner.run_row(row, [1], 1).shape[0] == 1, "the last token, by itself"


@pytest.mark.parametrize(
    ("config", "told", "positions"), [(CPU, "kept by at least 2 positions a run", 2), (FREE, "not asked for", 1)]
)
def test_runs_are_padded_unless_the_same_bits_are_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: EngineConfig, told: str, positions: int
) -> None:
    """On kernels that ask for two positions."""
    monkeypatch.setattr("genai.runtime.same_bits.PADDINGS", (Padding(least=2),))
    loaded = load_runner(tmp_path, package(tmp_path), dataclasses.replace(config, max_seq_len=64))
    sizes: list[int] = []

    def run(bound: BoundShape, num_logits: int) -> FloatArray:
        sizes.append(bound.input_ids.size)
        return run_of(bound, num_logits)

    run_of = loaded.runner._run
    monkeypatch.setattr(loaded.runner, "_run", run)
    row = loaded.runner.cache.allocate(8)
    loaded.runner.prefill(row, [1])
    loaded.runner.advance(loaded.runner.cache.groups[0], [[2]])
    assert (loaded.same_bits.summary, sizes) == (told, [positions] * 2)
    assert loaded.runner.cache.policy.spare == positions - 1


def test_a_small_budget_shortens_the_longest_sequence() -> None:
    assert plan_budget(8192, 1000, EngineConfig(kv_cache_bytes=500_000), GIB) == (500, 500)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (EngineConfig(max_seq_len=4096, kv_cache_bytes=1_000_000), r"4,096 × 1,000 = 4,096,000 bytes, more than"),
        (EngineConfig(max_seq_len=10_000), "built for at most 8192"),
        (EngineConfig(kv_cache_bytes=2 * GIB), "only 1,073,741,824 bytes are free"),
        (EngineConfig(kv_cache_bytes=10), "1 × 1,000"),
    ],
)
def test_asking_for_more_than_fits_is_refused_with_the_arithmetic(config: EngineConfig, message: str) -> None:
    with pytest.raises(CapacityError, match=message):
        plan_budget(8192, 1000, config, GIB)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_this_runtime_passes_the_probe(dtype: str) -> None:
    probe.check_kernels(CPU, dtype)


BOTH_KINDS = (Cache("key_cache.0", 24), Cache("value_cache.0", 16), Cache("key_cache.2", 40))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_kernels_for_layers_of_other_kinds(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are looked at where a graph has such layers, and there alone."""
    probe.check_layers(CPU, dtype, BOTH_KINDS)
    looked: list[str] = []
    monkeypatch.setattr(probe, "_check", lambda config, dtype, layer: looked.append(layer.what))
    for caches, count in ((uniform_caches(2, 32), 0), (BOTH_KINDS[:2], 1), (BOTH_KINDS[2:], 1), (BOTH_KINDS, 2)):
        looked.clear()
        probe.check_layers(CPU, dtype, caches)
        assert len(looked) == count


@pytest.mark.parametrize(("caches", "what"), [(BOTH_KINDS[:2], "of different sizes"), (BOTH_KINDS[2:], "given as val")])
def test_wrong_results_of_such_layers_are_refused(
    monkeypatch: pytest.MonkeyPatch, caches: tuple[Cache, ...], what: str
) -> None:
    expected = probe._expected
    monkeypatch.setattr(probe, "_expected", lambda layer, arrays: expected(layer, arrays) + 0.01)
    with pytest.raises(RuntimeUnavailableError, match=f"{what}.* off by 0.01"):
        probe.check_layers(CPU, "float32", caches)


def test_a_kernel_with_wrong_results_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    right = probe._expected
    monkeypatch.setattr(probe, "_expected", lambda layer, arrays: np.roll(right(layer, arrays), 1, axis=1))
    with pytest.raises(RuntimeUnavailableError, match=r"off by .* 1\.31\.1|1\.31\.1 is known to work"):
        probe.check_kernels(CPU, "float32")


def test_a_missing_kernel_is_one_clear_error() -> None:
    with pytest.raises(RuntimeUnavailableError, match="TensorScatter with Attention in bfloat16 is missing or wrong"):
        probe.check_kernels(CPU, "bfloat16")


def package(folder: Path) -> ModelConfig:
    build_random_model(folder)
    return ModelConfig(
        contract_version=1, model_type="mistral", num_layers=2, hidden_size=64, vocab_size=101, num_heads=4,
        num_kv_heads=2, head_dim=16, max_position=4096, cache_dtype="float32", eos_token_ids=(),
        provenance=Provenance(source="", sha256="", precision="f32", builder=""),
    )  # fmt: skip


def test_a_package_loads(tmp_path: Path) -> None:
    loaded = load_runner(tmp_path, package(tmp_path), CPU)
    assert loaded.max_seq_len == 4096
    assert loaded.runner.cache.num_slots == 4096 * 8 + 1


def test_a_folder_without_a_graph_is_refused(tmp_path: Path) -> None:
    config = package(tmp_path)
    (tmp_path / "model.onnx").unlink()
    with pytest.raises(ContractError, match=r"has no model\.onnx"):
        load_runner(tmp_path, config, CPU)


@pytest.mark.parametrize("damage", ["truncate_graph", "truncate_data", "no_data", "noise"])
def test_a_damaged_package_is_one_clear_line(tmp_path: Path, damage: str) -> None:
    config = package(tmp_path)
    graph, data = tmp_path / "model.onnx", tmp_path / "model.onnx.data"
    match damage:
        case "truncate_graph":
            graph.write_bytes(graph.read_bytes()[:500])
        case "truncate_data":
            data.write_bytes(data.read_bytes()[:500])
        case "no_data":
            data.unlink()
        case "noise":
            graph.write_bytes(b"\x00\xff" * 1000)
    with pytest.raises(ModelError, match=r"cannot load .*model\.onnx") as caught:
        load_runner(tmp_path, config, CPU)
    assert "\n" not in str(caught.value)


def test_a_graph_of_another_kind_is_refused_naming_what_differs(tmp_path: Path) -> None:
    config = package(tmp_path)
    model = onnx.load(tmp_path / "model.onnx", load_external_data=False)
    model.graph.input[0].name = "tokens"
    for node in model.graph.node:
        node.input[:] = ["tokens" if name == contract.INPUT_IDS else name for name in node.input]
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(ContractError, match="input 'input_ids' is missing; input 'tokens' is unknown"):
        load_runner(tmp_path, config, CPU)


def test_a_graph_that_gives_something_else_than_the_package_says_is_refused(tmp_path: Path) -> None:
    embedding = EmbeddingConfig(pooling="last", is_normalized=True)
    config = dataclasses.replace(package(tmp_path), embedding=embedding)
    with pytest.raises(ContractError, match=r"gives logits of [0-9]+ numbers, genai.json says embeddings of 64"):
        load_runner(tmp_path, config, CPU)


def test_a_graph_may_give_embeddings_in_place_of_logits() -> None:
    caches = contract.uniform_caches(1, 8)
    inputs = contract.inputs(caches, "float32")
    output = contract.Output(contract.EMBEDDINGS, 16)
    assert contract.check_signature(inputs, contract.outputs(caches, "float32", output)).output == output
    logits = contract.outputs(caches, "float32", contract.Output(contract.LOGITS, 9))[0]
    both = [*contract.outputs(caches, "float32", output), logits]
    with pytest.raises(ContractError, match="output 'embeddings' is unknown"):
        contract.check_signature(inputs, both)


def test_a_graph_tells_that_it_takes_a_lone_token_twice() -> None:
    caches = contract.uniform_caches(1, 8)
    outputs = contract.outputs(caches, "float32", contract.Output(contract.LOGITS, 9))
    plain, repeats = (contract.inputs(caches, "float32", repeats=each) for each in (False, True))
    assert not contract.check_signature(plain, outputs).repeats
    assert contract.check_signature(repeats, outputs).repeats
    others = [
        dataclasses.replace(each, shape=("b", "n")) if each.dtype == "int64" and len(each.shape) == 2 else each
        for each in repeats
    ]
    assert not contract.check_signature(others, outputs).repeats, "names of somebody else's"


def test_layers_caches_are_told_by_the_signature() -> None:
    """In any order, of any layers and widths, with or without values."""
    caches = (Cache("key_cache.2", 40), Cache("key_cache.11", 24), Cache("value_cache.11", 16))
    seven = contract.Output(contract.LOGITS, 7)
    inputs = contract.inputs(caches, "float16")
    outputs = contract.outputs(caches, "float16", seven)
    assert contract.check_signature(inputs[::-1], outputs[::-1]).caches == caches
    assert not contract.is_uniform(caches)
    assert contract.is_uniform(uniform_caches(3, 8))
    assert not contract.is_uniform(uniform_caches(3, 8)[2:])
    assert not contract.is_uniform(uniform_caches(3, 8)[:-1])
    only_values = (*caches, Cache("value_cache.3", 8))
    with pytest.raises(ContractError, match=r"input 'value_cache\.3' is there without 'key_cache\.3'"):
        contract.check_signature(
            contract.inputs(only_values, "float16"), contract.outputs(only_values, "float16", seven)
        )
    free = TensorType(name="key_cache.2", dtype="float16", shape=("B", "S", None))
    with pytest.raises(
        ContractError, match=r"'key_cache\.2' has shape \['B', 'S', None\], not \[B, S, a fixed width\]"
    ):
        contract.check_signature([free, *inputs[:5], *inputs[6:]], outputs)
    with pytest.raises(ContractError, match=r"needs at least one cache"):
        contract.check_signature(inputs[:5], outputs[:1])


def test_states_are_told_by_the_signature() -> None:
    caches, seven = uniform_caches(1, 8), contract.Output(contract.LOGITS, 7)
    conv, recurrent = State("conv_state.1", (3, 16), "float16"), State("recurrent_state.1", (2, 4, 4), "float32")
    states = (conv, recurrent)
    inputs = contract.inputs(caches, "float16", states[::-1])
    outputs = contract.outputs(caches, "float16", seven, states)
    assert [tensor.name for tensor in inputs[-3:]] == ["token_counts", "conv_state.1", "recurrent_state.1"]
    assert contract.check_signature(inputs[::-1], outputs[::-1]).states == states
    with pytest.raises(ContractError, match="input 'token_counts' is missing"):
        contract.check_signature([tensor for tensor in inputs if tensor.name != "token_counts"], outputs)
    with pytest.raises(ContractError, match="input 'token_counts' is unknown"):
        contract.check_signature(inputs[:-2], outputs[:-2])
    with pytest.raises(ContractError, match=r"output 'updated_recurrent_state\.1' is missing"):
        contract.check_signature(inputs, outputs[:-1])
    free = TensorType(name="conv_state.1", dtype="float16", shape=("B", "K", 16))
    with pytest.raises(ContractError, match=r"'conv_state\.1' has shape \['B', 'K', 16\], not \[B, fixed sizes\]"):
        contract.check_signature([*inputs[:-2], free, inputs[-1]], outputs)
    half = State("recurrent_state.1", (2, 4, 4), "float16")
    with pytest.raises(ContractError, match=r"'recurrent_state\.1' is float16, allowed: float32"):
        contract.check_signature(
            contract.inputs(caches, "float16", [half]), contract.outputs(caches, "float16", seven, [half])
        )


def test_room_for_adapters_is_told_by_the_signature() -> None:
    caches, seven = uniform_caches(1, 8), contract.Output(contract.LOGITS, 7)
    groups = ((AdaptedProduct("layer.q", 16, 32), AdaptedProduct("layer.k", 16, 8)), (AdaptedProduct("o", 32, 16),))
    room = AdapterRoom(groups=groups, rank=4, dtype="float16")
    inputs = contract.inputs(caches, "float32", adapters=room)
    outputs = contract.outputs(caches, "float32", seven)
    assert contract.check_signature(inputs, outputs).adapters == room
    assert contract.check_signature(contract.inputs(caches, "float32"), outputs).adapters is None
    with pytest.raises(ContractError, match=r"input 'lora_b\.layer\.k' is unknown"):
        contract.check_signature([each for each in inputs if each.name != "lora_a.layer.q+layer.k"], outputs)
    with pytest.raises(ContractError, match="input 'adapter_rows' is missing"):
        contract.check_signature([each for each in inputs if each.name != contract.ADAPTER_ROWS], outputs)
    larger = TensorType(name="lora_a.o", dtype="float16", shape=("G", 32, 8))
    with pytest.raises(ContractError, match=r"input 'lora_a\.o' is unknown"):
        contract.check_signature([larger if each.name == larger.name else each for each in inputs], outputs)
    of_bytes = contract.inputs(caches, "float32", adapters=AdapterRoom(groups=groups, rank=4, dtype="uint8"))
    assert [each.name for each in of_bytes if each.dtype == "float32"][-3:] == [
        "lora_scales.layer.q", "lora_scales.layer.k", "lora_scales.o"
    ]  # fmt: skip
    with pytest.raises(ContractError, match=r"input 'lora_scales\.o' is missing"):
        contract.check_signature([each for each in of_bytes if each.name != "lora_scales.o"], outputs)
    integers = AdapterRoom(groups=groups, rank=4, dtype="int8")
    with pytest.raises(ContractError, match="the adapters are int8, allowed: float32"):
        contract.check_signature(contract.inputs(caches, "float32", adapters=integers), outputs)


@pytest.mark.parametrize("width", [0, -1])
def test_nothing_fits_into_caches_of_no_width(width: int) -> None:
    """The budget is divided by what a token takes."""
    caches, seven = uniform_caches(1, width), contract.Output(contract.LOGITS, 7)
    with pytest.raises(ContractError, match=r"needs at least one cache"):
        contract.check_signature(contract.inputs(caches, "float32"), contract.outputs(caches, "float32", seven))
    caches, none = uniform_caches(1, 8), contract.Output(contract.LOGITS, width)
    with pytest.raises(ContractError, match=r"does not follow the decoder contract"):
        contract.check_signature(contract.inputs(caches, "float32"), contract.outputs(caches, "float32", none))


def test_a_reserved_slot_is_part_of_the_budget() -> None:
    config = EngineConfig(kv_cache_bytes=500_000)
    assert plan_budget(8192, 1000, config, GIB, reserved_slots=1) == (500, 499)
    config = EngineConfig(max_seq_len=32, max_batch=2)
    assert plan_budget(8192, 1000, config, GIB) == (64, 32)
    assert plan_budget(8192, 1000, config, GIB, reserved_slots=1) == (2 * 48, 32)
    config = EngineConfig(max_seq_len=500, kv_cache_bytes=500_000)
    with pytest.raises(
        CapacityError, match=r"for 501 tokens \(one of them reserved\) takes 501 × 1,000 = 501,000 bytes"
    ):
        plan_budget(8192, 1000, config, GIB, reserved_slots=1)


def test_states_come_before_slots_and_are_named_where_they_leave_too_little() -> None:
    config = EngineConfig(kv_cache_bytes=500_000, max_batch=2)
    assert plan_budget(8192, 1000, config, GIB, bytes_per_row=100_000) == (100, 100)
    with pytest.raises(
        CapacityError,
        match=r"1 × 1,000 = 1,000 bytes, its states 4 × 125,000 = 500,000 .*; lower max_seq_len or max_batch",
    ):
        plan_budget(8192, 1000, config, GIB, bytes_per_row=125_000)


ROOM = WindowRoom(window=100, block=16, longest=64, margin=21)
"""What a row keeps, at most."""


def test_what_windows_see_is_taken_off_once() -> None:
    """Of 1,000 bytes a token 600 are kept for 208 tokens of a row alone, in room for four rows."""
    assert ROOM.slots == 208

    def planned(num_bytes: int) -> tuple[int, int]:
        config = EngineConfig(kv_cache_bytes=num_bytes, max_batch=2)
        return plan_budget(8192, 1000, config, GIB, window_bytes_per_token=600, window=ROOM)

    near = 4 * ROOM.slots
    assert planned(500_000) == (500, 500), "rows are too short to gain"
    assert planned(near * 1000) == (near, near)
    assert planned(near * 1000 + 400) == (near + 1, near + 1)
    assert planned(1_000_000) == ((1_000_000 - near * 600) // 400, (1_000_000 - near * 600) // 400)
    assert planned(10**8) == (2 * 8192, 8192)


def test_layers_that_all_have_windows_take_as_much_for_any_length() -> None:
    config = EngineConfig(kv_cache_bytes=900_000, max_batch=2)
    assert plan_budget(8192, 1000, config, GIB, window_bytes_per_token=1000, window=ROOM) == (2 * 8192, 8192)
    config = EngineConfig(kv_cache_bytes=700_000, max_batch=2, max_seq_len=8192)
    with pytest.raises(
        CapacityError, match=r"8,192 × 0 \+ 832 × 1,000 \(max_batch \+ 2 rows' windows\) = 832,000 .* or max_batch"
    ):
        plan_budget(8192, 1000, config, GIB, window_bytes_per_token=1000, window=ROOM)


def test_a_cache_with_windows_takes_what_was_planned(tmp_path: Path) -> None:
    folder = tiny_package(tmp_path, weights_of=partial(RandomSource, sliding_window=16))
    config = dataclasses.replace(CPU, max_batch=2, kv_cache_bytes=10_000_000)
    cache = load_runner(folder, ModelConfig.read(folder), config).runner.cache
    assert cache.window is not None
    assert cache.num_slots == 2 * 4096 + 1, "as for rows of any length"
    assert cache.num_bytes == 4 * cache.window.slots * 512 <= 10_000_000


@pytest.mark.parametrize(("kept", "said"), [(None, "none"), (WindowConfig(size=16, block=16), "some")])
def test_a_graph_and_its_package_agree_on_windows(tmp_path: Path, kept: WindowConfig | None, said: str) -> None:
    source = RandomSource if kept else partial(RandomSource, sliding_window=16)
    folder = tiny_package(tmp_path, weights_of=source)
    dataclasses.replace(ModelConfig.read(folder), kept_window=kept).write(folder)
    with pytest.raises(ContractError, match=f"genai.json says that {said} of its layers keep their windows alone"):
        load_runner(folder, ModelConfig.read(folder), CPU)


def test_contract_differences_are_all_listed() -> None:
    caches = contract.uniform_caches(2, 32)
    inputs = contract.inputs(caches, "float32")
    outputs = contract.outputs(caches, "float32", contract.Output(contract.LOGITS, 100))
    assert contract.check_signature(inputs, outputs).caches == caches
    inputs[2] = TensorType(name=inputs[2].name, dtype="int32", shape=inputs[2].shape)
    inputs[5] = TensorType(name=inputs[5].name, dtype="float32", shape=("B", 128, 32))
    with pytest.raises(ContractError, match=r"'write_indices' is int32, not int64; .*'key_cache.0' has shape"):
        contract.check_signature(inputs, outputs[:-1])
    with pytest.raises(ContractError, match="it has inputs none and outputs none"):
        contract.check_signature([], [])
    small = contract.uniform_caches(1, 8)
    with pytest.raises(ContractError, match="the caches are int8"):
        contract.check_signature(
            contract.inputs(small, "int8"), contract.outputs(small, "int8", contract.Output(contract.LOGITS, 5))
        )


def test_a_failing_run_is_wrapped(tmp_path: Path) -> None:
    vector = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N"]) for name in ("x", "y", "z")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "y"], ["z"])], "g", vector[:2], vector[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=11)
    session = Session(model.SerializeToString(), CPU)
    binding = session.binding()
    binding.bind_host_input("x", np.zeros(2, np.float32))
    binding.bind_host_input("y", np.zeros(3, np.float32))
    binding.bind_host_output("z", np.zeros(3, np.float32))
    with pytest.raises(GraphRunError, match="ONNX Runtime failed"):
        session.run(binding)


def test_cuda_without_cuda_says_what_to_install() -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    assert choose_device("auto") == "cpu"
    with pytest.raises(ConfigError, match=r"pip install .\.\[gpu\]"):
        choose_device("cuda")


def test_an_unknown_session_option_is_an_error_not_a_crash(tmp_path: Path) -> None:
    path = build_random_model(tmp_path)
    Session(path, EngineConfig(device="cpu", session_options={"session.intra_op.allow_spinning": "0"}))
