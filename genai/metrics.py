"""What an engine counts and times, for Prometheus: one set of metrics for each model, labelled with its name.

Names follow the convention `genai_<what>_<unit>`; buckets are in seconds.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.5)
_SLOW = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64)


class EngineMetrics:
    """An engine's counters and histograms in a registry of their own (or a given one)."""

    def __init__(self, model: str, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"genai_{name}", text, ["model"], registry=self.registry, buckets=buckets).labels(model)

        def counter(name: str, text: str) -> Counter:
            return Counter(f"genai_{name}", text, ["model"], registry=self.registry).labels(model)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"genai_{name}", text, ["model"], registry=self.registry).labels(model)

        self._queue = histogram("request_queue_seconds", "Time from submission to a row", _SLOW)
        text = "Time from a request's submission to its first token"
        self._first_token = histogram("time_to_first_token_seconds", text, _SLOW)
        self._between = histogram("inter_token_latency_seconds", "Time between a sequence's tokens", _FAST)
        self._duration = histogram("request_duration_seconds", "Time from submission to the end", _SLOW)
        self._batch = histogram("decode_batch_size", "Sequences in a decode step", _SIZES)
        self._prompt_tokens = counter("prompt_tokens", "Prompt tokens accepted")
        self._cached_tokens = counter("prefix_cache_hit_tokens", "Prompt tokens found in the prefix cache")
        self._new_tokens = counter("generated_tokens", "Tokens generated")
        self._preemptions = counter("preemptions", "Sequences that lost their row for lack of memory")
        self._drafted = counter("draft_tokens", "Tokens drafted")
        self._accepted = counter("accepted_draft_tokens", "Drafted tokens that came true")
        text = "Tokens of a block of the prefix cache, and how many blocks it holds at most"
        self._room = Gauge(
            "genai_cache_config_info", text, ["model", "block_size", "num_gpu_blocks"], registry=self.registry
        )
        self._model = model
        self._running = gauge("requests_running", "Sequences that have a row")
        self._waiting = gauge("requests_waiting", "Sequences that wait for a row")
        self._usage = gauge("kv_cache_usage_ratio", "Valid tokens as a share of the KV cache")
        text = "Tokens of ended texts, kept while nobody needs the room, as a share of the KV cache"
        self._idle = gauge("kv_cache_idle_ratio", text)
        self._states = gauge("state_bytes", "Recurrent states of the rows, of one size each; 0 for models without")
        self._snapshots = gauge("prefix_cache_snapshots", "Texts whose recurrent states the prefix cache holds")
        ended = Counter(
            "genai_requests", "Requests ended, by reason", ["model", "finish_reason"], registry=self.registry
        )
        self._ended = {
            reason: ended.labels(model, reason) for reason in ("stop", "length", "cancelled", "timeout", "error")
        }

    def saw_prefix_room(self, block_size: int, num_blocks: int) -> None:
        """How much the prefix cache holds; the labels are vLLM's, which routers read."""
        self._room.labels(self._model, str(block_size), str(num_blocks)).set(1)

    def saw_admission(self, queue_seconds: float, prompt_tokens: int, cached_tokens: int) -> None:
        """A sequence got its first row."""
        self._queue.observe(queue_seconds)
        self._prompt_tokens.inc(prompt_tokens)
        self._cached_tokens.inc(cached_tokens)

    def saw_first_token(self, seconds: float) -> None:
        """A request's first token came, so long after submission: of several texts the first one's, of beams the end.

        Once for each request that gets a token; a search has none to show before its texts are found.
        """
        self._first_token.observe(seconds)
        self._new_tokens.inc()

    def saw_next_token(self, seconds: float) -> None:
        """A sequence got another token, so long after the one before."""
        self._between.observe(seconds)
        self._new_tokens.inc()

    def saw_tokens(self, count: int) -> None:
        """Tokens came that were waited for together with others: those of a search, the first of a further text."""
        self._new_tokens.inc(count)

    def saw_preemption(self) -> None:
        """A sequence lost its row."""
        self._preemptions.inc()

    def saw_draft(self, num_drafted: int, num_accepted: int) -> None:
        """A draft was verified."""
        self._drafted.inc(num_drafted)
        self._accepted.inc(num_accepted)

    def saw_end(self, reason: str, seconds: float) -> None:
        """A sequence ended, so long after submission."""
        self._duration.observe(seconds)
        self._ended[reason].inc()

    def saw_cache(self, usage: float, idle: float) -> None:
        """What share of the cache valid tokens take, and those of idle rows."""
        self._usage.set(usage)
        self._idle.set(idle)

    def saw_states(self, num_bytes: int, num_snapshots: int) -> None:
        """What rows' states take, and how many are held for later texts."""
        self._states.set(num_bytes)
        self._snapshots.set(num_snapshots)

    def saw_step(self, batch_size: int, num_running: int, num_waiting: int) -> None:
        """A step ran."""
        if batch_size:
            self._batch.observe(batch_size)
        self._running.set(num_running)
        self._waiting.set(num_waiting)
