"""What all requests share: models, the worker, limits, metrics."""

from dataclasses import dataclass, field

from .errors import ApiError
from .metrics import Metrics
from .model import Model
from .worker import Worker


@dataclass
class Limits:
    rows: int  # sequences that an engine computes at once
    queue: int  # sequences that may wait behind them
    body_bytes: int
    request_seconds: float

    @property
    def room(self) -> int:
        """Sequences that a model takes, running and waiting."""
        return self.rows + self.queue

    @property
    def read_seconds(self) -> float:
        """For a request's head, and for its body."""
        return min(30.0, self.request_seconds)

    def too_slow(self) -> ApiError:
        return ApiError(504, f"the answer was not complete within {self.request_seconds:g} s", code="timeout")


@dataclass
class Service:
    models: dict[str, Model]
    limits: Limits
    worker: Worker
    guard: str | None = None  # name of the model that judges prompts and answers, and answers nothing itself
    metrics: Metrics = field(default_factory=Metrics)
    draining: bool = False  # no new work is taken

    @property
    def offered(self) -> list[Model]:
        return [model for name, model in self.models.items() if name != self.guard]

    def model(self, name: str | None) -> Model:
        """The model of that name; without a name the first one."""
        if name is None:
            return self.offered[0]
        if name not in self.models or name == self.guard:
            said = f"no model {name[:100]!r} here, expected one of: {', '.join(model.name for model in self.offered)}"
            raise ApiError(404, said, "model", "model_not_found")
        return self.models[name]

    def reserve(self, model: Model, count: int) -> None:
        """Takes places in the model's queue, which the caller gives back."""
        room = self.limits.room
        if count > room:
            raise ApiError(400, f"found {count} answers in one request, expected {room} or fewer here", "n")
        if model.busy + count > room:
            said = f"{model.busy} answers run or wait, and {count} more are over the limit of {room}: try again later"
            raise ApiError(429, said, code="queue_full", retry_after=1)
        model.busy += count
