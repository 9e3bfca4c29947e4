"""Counters of the server as Prometheus reads them."""

from collections import Counter
from typing import Iterator

from .engine import Counts

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)  # upper bounds of the histograms' buckets

# Of an engine's Counts: name of the metric, its kind, what it says.
OF_ENGINES = {
    "waiting": ("requests_waiting", "gauge", "Sequences that wait for a place in the batch"),
    "running": ("requests_running", "gauge", "Sequences in the batch"),
    "pages": ("cache_pages", "gauge", "Pages of the key-value cache"),
    "pages_free": ("cache_pages_free", "gauge", "Pages that hold nothing that is needed"),
    "pages_shared": ("cache_pages_shared", "gauge", "Pages that several sequences use"),
    "steps": ("steps_total", "counter", "Steps of the batch"),
    "put_back": ("put_back_total", "counter", "Times that a sequence gave up its pages for an older one"),
    "prompt_tokens": ("prompt_tokens_total", "counter", "Tokens of prompts"),
    "prompt_tokens_shared": ("prompt_tokens_shared_total", "counter", "Tokens of prompts that were in the cache already"),
    "generated_tokens": ("generated_tokens_total", "counter", "Tokens drawn"),
    "step_seconds": ("step_seconds_total", "counter", "Seconds in steps"),
    "schedule_seconds": ("schedule_seconds_total", "counter", "Seconds of steps that went into scheduling"),
}


def _labels(**labels: str) -> str:
    escaped = {name: value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for name, value in labels.items()}
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped.items()) + "}"


def _head(name: str, kind: str, told: str) -> Iterator[str]:
    yield f"# HELP llmc_{name} {told}."
    yield f"# TYPE llmc_{name} {kind}"


class Histogram:
    """Times in seconds, by model."""

    def __init__(self, name: str, told: str):
        self.name, self.told = name, told
        self.buckets: dict[str, list[int]] = {}
        self.sums: Counter[str] = Counter()

    def add(self, model: str, seconds: float) -> None:
        buckets = self.buckets.setdefault(model, [0] * (len(SECONDS) + 1))
        buckets[next((n for n, bound in enumerate(SECONDS) if seconds <= bound), len(SECONDS))] += 1
        self.sums[model] += seconds

    def lines(self) -> Iterator[str]:
        yield from _head(self.name, "histogram", self.told)
        for model, buckets in self.buckets.items():
            total = 0
            for bound, count in zip((*map(str, SECONDS), "+Inf"), buckets):
                total += count
                yield f"llmc_{self.name}_bucket{_labels(model=model, le=bound)} {total}"
            yield f"llmc_{self.name}_sum{_labels(model=model)} {self.sums[model]:.6f}"
            yield f"llmc_{self.name}_count{_labels(model=model)} {total}"


class Metrics:
    def __init__(self):
        self.answers: Counter[tuple[str, int]] = Counter()  # by path and status
        self.first_token = Histogram("first_token_seconds", "Time from a checked request to its first token")
        self.between_tokens = Histogram("between_tokens_seconds", "Time between two tokens of a sequence")

    def lines(self, engines: list[tuple[str, Counts]]) -> Iterator[str]:
        yield from _head("http_requests_total", "counter", "Answered requests")
        for (path, status), count in sorted(self.answers.items()):
            yield f"llmc_http_requests_total{_labels(path=path, status=str(status))} {count}"
        for field, (name, kind, told) in OF_ENGINES.items():
            yield from _head(name, kind, told)
            for model, counts in engines:
                yield f"llmc_{name}{_labels(model=model)} {getattr(counts, field)}"
        for histogram in (self.first_token, self.between_tokens):
            yield from histogram.lines()
