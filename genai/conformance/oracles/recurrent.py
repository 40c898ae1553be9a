"""Recurrent layers in NumPy, for what onnx.reference has not: windows of states, packed tokens, other layouts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from genai.conformance.oracles.node import Floats, Node, sigmoid


def _recurrence(given: Mapping[str, Floats], state: Floats, rule: str) -> tuple[Floats, Floats]:
    """q, k [T, Hq, K], scaled already; v [T, Hv, V]; decay [T, Hv, 1 or K]; beta [T, Hv]; state [Hv, K, V].

    Returns outputs [T, max(Hq, Hv), V], states after each token [T, Hv, K, V].
    """
    q, k, v, decay, beta = (given[name] for name in ("q", "k", "v", "decay", "beta"))
    outputs, states = [], []
    heads = max(q.shape[1], v.shape[1])
    for token in range(len(q)):
        if "gated" in rule:
            state = np.exp(decay[token])[:, :, None] * state
        keys = k[token, np.arange(v.shape[1]) * k.shape[1] // v.shape[1]]  # [Hv, K]
        change = v[token]
        if "delta" in rule:
            change = beta[token][:, None] * (change - np.einsum("hk,hkv->hv", keys, state))
        state = state + keys[:, :, None] * change[:, None]
        mine = np.arange(heads)
        queries, seen = q[token, mine * q.shape[1] // heads], state[mine * v.shape[1] // heads]
        outputs.append(np.einsum("hk,hkv->hv", queries, seen))
        states.append(state)
    return np.stack(outputs), np.stack(states)


def windowed_linear_attention(node: Node) -> Mapping[str, Floats]:
    """LinearAttention with the states after each of the last tokens, [W, B, H, K, V]."""
    window, heads, kv_heads = (node.integer(name) for name in ("state_window", "q_num_heads", "kv_num_heads"))
    query, key, value, decay, beta = (node.floats(name) for name in ("query", "key", "value", "decay", "beta"))
    past = node.floats("past_state")
    outputs, present = [], np.zeros_like(past)
    for row in range(len(query)):
        tokens = len(query[row])
        q = query[row].reshape(tokens, heads, -1)
        k, v, gate = (x[row].reshape(tokens, kv_heads, -1) for x in (key, value, decay))
        given = {"q": q * q.shape[2] ** -0.5, "k": k, "v": v, "decay": gate, "beta": beta[row]}
        found, states = _recurrence(given, past[-1, row], node.text("update_rule"))
        outputs.append(found.reshape(tokens, -1))
        present[:, row] = states[-window:]
    return {"output": np.stack(outputs), "present_state": present}


def causal_conv(node: Node) -> Mapping[str, Floats]:
    """CausalConvWithState: [B, C, ..., T], or with channels last; the taps lie along the last axis."""
    is_last, window, dilation = node.integer("channels_last"), node.integer("state_window"), node.integer("dilation", 1)
    x, state, weight = node.floats("input"), node.floats("past_state"), node.floats("weight")
    state = state[-1] if window else state
    if is_last:
        x, state = x.swapaxes(1, 2), state.swapaxes(1, 2)
    joined = np.concatenate([state, x], axis=-1)
    length, kept, taps = x.shape[-1], state.shape[-1], weight.shape[-1]
    by_channel = (-1, *[1] * (x.ndim - 2))
    output = np.zeros_like(x) + node.floats("bias").reshape(by_channel)
    for tap in range(taps):
        start = tap * dilation
        output += weight[..., tap].reshape(by_channel) * joined[..., start : start + length]
    output = output * sigmoid(output) if node.text("activation", "none") in ("silu", "swish") else output
    present = joined[..., -kept:]
    if window:
        ends = [joined.shape[-1] - window + 1 + slot for slot in range(window)]
        present = np.stack([joined[..., end - kept : end] for end in ends])
    if is_last:
        output, present = output.swapaxes(1, 2), present.swapaxes(1, 2)
    return {"output": output, "present_state": present}


def gated_delta_net(node: Node) -> Mapping[str, Floats]:
    """GatedDeltaNet: tokens of all rows one behind the other, states [B, H, V, K]."""
    past = node.floats("initial_state").swapaxes(2, 3)
    rows, heads, key_size, value_size = past.shape
    query, key, value = _packed(node, heads, key_size, value_size)
    tokens = len(query)
    starts = node.integers("cu_seqlens") if node.has("cu_seqlens") else np.arange(rows + 1) * (tokens // rows)
    decay, beta = _gates(node, tokens, heads)
    if node.integer("qk_l2_norm"):
        query, key = (x / np.sqrt((x * x).sum(-1, keepdims=True) + 1e-6) for x in (query, key))
    query = query * (node.number("scale", 0) or key_size**-0.5)
    outputs, present = np.zeros((tokens, heads, value_size)), np.zeros_like(past)
    for row in range(rows):
        its = slice(int(starts[row]), int(starts[row + 1]))
        given = {"q": query[its], "k": key[its], "v": value[its], "decay": decay[its], "beta": beta[its]}
        outputs[its], states = _recurrence(given, past[row], node.text("update_rule", "gated_delta"))
        present[row] = states[-1]
    shape = node.given["query"].shape
    output = outputs.reshape(*shape[:2], heads, value_size) if len(shape) == 4 else outputs
    return {"output": output, "final_state": present.swapaxes(2, 3)}


def _packed(node: Node, heads: int, key_size: int, value_size: int) -> tuple[Floats, Floats, Floats]:
    """[T, 2, K], [T, 2, K], [T, H, V], given apart or as one."""
    query = node.floats("query")
    if node.has("key"):
        q, k, v = query, node.floats("key"), node.floats("value")
    else:
        q, k, v = np.split(query, [2 * key_size, 4 * key_size], axis=1)
    return q.reshape(-1, 2, key_size), k.reshape(-1, 2, key_size), v.reshape(-1, heads, value_size)


def _gates(node: Node, tokens: int, heads: int) -> tuple[Floats, Floats]:
    """(decay [T, H, 1 or K], beta [T, H]) after their activations."""
    decay = node.floats("decay").reshape(tokens, heads, -1) if node.has("decay") else np.zeros((tokens, heads, 1))
    beta = node.floats("beta").reshape(tokens, heads) if node.has("beta") else np.ones((tokens, heads))
    kind = node.text("gate_activation", "none")
    if kind != "none":
        rate, shifted = np.exp(node.floats("a_log"))[:, None], decay + node.floats("dt_bias")[:, None]
        soft = -rate * np.log1p(np.exp(shifted))
        decay = soft if kind == "softplus" else node.number("gate_lower_bound", -5.0) * sigmoid(rate * shifted)
    return decay, sigmoid(beta) if node.text("beta_activation", "none") == "sigmoid" else beta
