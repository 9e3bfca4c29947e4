"""Answers of OpenAI's interface: of /v1/completions and of /v1/chat/completions, whole or in chunks."""

import secrets
import time
from abc import ABC, abstractmethod
from typing import Iterable

from .choice import Entry, Part
from .tokens import TokenTexts

LEAST_LOGPROB = -9999.0  # in place of minus infinity, which JSON does not have


def _number(logprob: float | None) -> float | None:
    return logprob if logprob is None else max(logprob, LEAST_LOGPROB)


def usage(prompt_tokens: int, completion_tokens: int) -> dict:
    return {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens}  # fmt: skip


def joined(parts: Iterable[Part]) -> Part:
    """The parts of one answer as one."""
    parts = list(parts)
    entries = [entry for part in parts for entry in part.entries]
    return Part(parts[0].index, "".join(part.text for part in parts), entries, parts[-1].finish)


class Answer(ABC):
    """What all objects of one response have in common."""

    prefix, whole_kind, chunk_kind = "", "", ""

    def __init__(self, model: str, texts: TokenTexts, scored: bool):
        self.model, self.texts, self.scored = model, texts, scored
        self.id, self.created = f"{self.prefix}-{secrets.token_hex(12)}", int(time.time())

    def _object(self, kind: str, choices: list[dict], counted: dict | None) -> dict:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices,
                "usage": counted}  # fmt: skip

    def whole(self, parts: list[Part], counted: dict) -> dict:
        return self._object(self.whole_kind, [self._choice(part) for part in parts], counted)

    def chunk(self, parts: list[Part], counted: dict | None = None) -> dict:
        return self._object(self.chunk_kind, [self._delta(part) for part in parts], counted)

    def begin(self, index: int) -> dict | None:
        """A chunk that stands in front of the others of a choice."""
        return None

    @abstractmethod
    def _choice(self, part: Part) -> dict:
        """The answer as one of "choices"."""

    def _delta(self, part: Part) -> dict:
        return self._choice(part)


class CompletionAnswer(Answer):
    prefix, whole_kind, chunk_kind = "cmpl", "text_completion", "text_completion"

    def _choice(self, part: Part) -> dict:
        scores = self._scores(part.entries) if self.scored else None
        return {"index": part.index, "text": part.text, "logprobs": scores, "finish_reason": part.finish}

    def _scores(self, entries: list[Entry]) -> dict:
        """Lists with one item for each token. `bytes` is no field of OpenAI's: what the token adds to the text."""
        return {
            "tokens": [self.texts.name_of(entry.token) for entry in entries],
            "token_logprobs": [_number(entry.logprob) for entry in entries],
            "top_logprobs": [self._tops(entry) for entry in entries],
            "text_offset": [entry.offset for entry in entries],
            "bytes": [list(self.texts.bytes_of(entry.token)) for entry in entries],
        }  # fmt: skip

    def _tops(self, entry: Entry) -> dict | None:
        """The probable tokens, and the one that stands there. Of tokens with the same text the most probable counts."""
        if entry.logprob is None:
            return None
        found: dict[str, float] = {}
        for token, logprob in [*entry.tops, (entry.token, entry.logprob)]:
            found.setdefault(self.texts.name_of(token), _number(logprob))
        return found


class ChatAnswer(Answer):
    prefix, whole_kind, chunk_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def begin(self, index: int) -> dict:
        delta = {"role": "assistant", "content": "", "refusal": None}
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
        return self._object(self.chunk_kind, [choice], None)

    def _choice(self, part: Part) -> dict:
        return self._shared(part) | {"message": {"role": "assistant", "content": part.text, "refusal": None}}

    def _delta(self, part: Part) -> dict:
        return self._shared(part) | {"delta": {"content": part.text} if part.text else {}}

    def _shared(self, part: Part) -> dict:
        scores = {"content": [self._score(entry) for entry in part.entries], "refusal": None} if self.scored else None
        return {"index": part.index, "logprobs": scores, "finish_reason": part.finish}

    def _score(self, entry: Entry) -> dict:
        tops = [self._named(token, logprob) for token, logprob in entry.tops]
        return self._named(entry.token, entry.logprob) | {"top_logprobs": tops}

    def _named(self, token: int, logprob: float | None) -> dict:
        return {"token": self.texts.name_of(token), "logprob": _number(logprob), "bytes": list(self.texts.bytes_of(token))}
