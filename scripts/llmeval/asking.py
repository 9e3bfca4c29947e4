"""Whom a task's items are put to: the model that is evaluated, and the guard that judges what it says."""

from dataclasses import dataclass
from pathlib import Path

from llmdata import guard
from llmtext.fingerprint import model_fingerprint

from .client import Answer, Client, Refused, Request


class Guard:
    def __init__(self, name: str, folder: Path):
        self.name, self.identity, self.by_itself = name, model_fingerprint(folder), guard.asks_by_itself(folder)

    def question(self, prompt: str, answer: str) -> Request:
        said = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        return Request(messages=tuple(guard.question(said, self.by_itself)), max_tokens=guard.MOST_TOKENS)


@dataclass(frozen=True)
class Model:
    """A column of the report, as the server has it. context: longest prompt and answer together, in tokens."""

    name: str
    folder: Path
    context: int
    chat: bool


@dataclass(frozen=True)
class Asking:
    client: Client
    model: str
    guard: Guard | None = None
    served: Model | None = None  # None: nothing is asked of the model itself

    def ask(self, request: Request) -> list[Answer]:
        """Errors: Refused; Fault where the server is gone or fails."""
        return self.client.ask(self.model, request)

    def verdict(self, prompt: str, answer: str) -> Answer:
        """The guard's. What it is refused, for its length for example, has no verdict."""
        try:
            return self.client.ask(self.guard.name, self.guard.question(prompt, answer))[0]
        except Refused as refused:
            return Answer("", str(refused))
