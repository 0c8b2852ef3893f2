"""What `/metrics` tells Prometheus: the engines' own counters as they stand, and what clients saw of the time."""

from collections.abc import Iterator, Sequence
from time import perf_counter

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from amaru.config import to_dict
from amaru.serve.server.served import Host
from amaru.serve.stats import COUNTERS

MEANINGS = {
    "running": "requests in the batch",
    "waiting": "requests in the queue",
    "slots": "sequences that the pool can hold",
    "free_slots": "sequences that it could hold besides",
    "pages": "cache pages of the pool",
    "free_pages": "cache pages that nobody holds",
    "bytes": "bytes of the pool of states and caches",
    "snapshots": "prefixes whose state is remembered",
    "snapshot_bytes": "bytes of remembered states",
    "prompt_tokens": "tokens of admitted prompts",
    "reused_tokens": "tokens of prompts that came from remembered prefixes",
    "generated_tokens": "tokens generated",
    "drafted_tokens": "tokens guessed before the model was asked",
    "accepted_tokens": "guessed tokens that the model chose too",
    "steps": "passes of the model",
    "finished": "requests that came to their end",
    "cancelled": "requests that were cancelled",
    "failed": "requests that ended by an error",
    "seconds_in_steps": "seconds that the engine worked",
}
SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300)


class Engines(Collector):
    """Reads `Engine.stats()` when it is asked, so that there is one count of everything."""

    def __init__(self, hosts: Sequence[Host]) -> None:
        self._hosts = hosts

    def collect(self) -> Iterator[Metric]:
        stats = {host.name: to_dict(host.engine.stats()) for host in self._hosts}
        for name in next(iter(stats.values())):
            family = CounterMetricFamily if name in (*COUNTERS, "seconds_in_steps") else GaugeMetricFamily
            metric = family(f"amaru_{name}", MEANINGS[name], labels=["model"])
            for model, each in stats.items():
                metric.add_metric([model], each[name])
            yield metric


class Metrics:
    """`metrics.answered("/v1/models", 200, 0.01)`; `metrics.page()` is the text for Prometheus."""

    def __init__(self, hosts: Sequence[Host]) -> None:
        registry = self._registry = CollectorRegistry()
        registry.register(Engines(hosts))
        self._requests = Counter("amaru_http_requests", "HTTP requests answered", ["path", "status"], registry=registry)
        self.active = Gauge("amaru_http_active", "HTTP requests being worked on", registry=registry)

        def seconds(name: str, meaning: str, label: str) -> Histogram:
            return Histogram(name, f"seconds {meaning}", [label], buckets=SECONDS, registry=registry)

        self._seconds = seconds("amaru_http_request_seconds", "until the last byte", "path")
        self._first = seconds("amaru_first_token_seconds", "until a choice's first token", "model")
        self._next = seconds("amaru_next_token_seconds", "between tokens of a choice", "model")

    def answered(self, path: str, status: int, seconds: float) -> None:
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def token(self, model: str, start: float, before: float | None) -> float:
        """Tokens of a choice came now; its last ones came at `before`, or these are the first since `start`."""
        now = perf_counter()
        if before is None:
            self._first.labels(model).observe(now - start)
        else:
            self._next.labels(model).observe(now - before)
        return now

    def page(self) -> bytes:
        return generate_latest(self._registry)
