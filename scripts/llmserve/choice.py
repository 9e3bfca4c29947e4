"""One answer of a request while the engine's tokens come."""

import math
from dataclasses import dataclass

from llmtext.texts import Row, take_token

from .engine import GOES_ON, LENGTH, Token
from .model import Model
from .tokens import characters_begun


@dataclass
class Entry:
    """A token with its log-probability (None: the first of a prompt) and those of the most probable tokens in its place."""

    token: int
    logprob: float | None
    tops: list[tuple[int, float]]
    offset: int  # characters before it


@dataclass
class Part:
    """What has become certain of an answer: text, the tokens it consists of if their probabilities are wanted, how it ended."""

    index: int
    text: str
    entries: list[Entry]
    finish: str | None  # "stop", "length" or "content_filter" with the last part


class Choice:
    def __init__(self, index: int, model: Model, stops: tuple[set[int], list[str]], most: int, scored: bool):
        """stops: ids that end the answer, and texts. most: tokens. scored: entries are wanted."""
        self.index, self.model, self.most, self.scored = index, model, most, scored
        self.ends, texts = stops
        self.row = Row(model.tokenizer, texts)
        self.bytes, self.offset = 0, 0  # of the tokens so far, and characters that begin in them
        self.given = 0  # bytes of text that parts have given
        self.pending: list[tuple[int, Entry]] = []  # entries whose text has not been given, with the place of their first byte
        self.ended = False  # by its own rules, though the engine would go on

    def echo(self, ids: list[int], text: str, tokens: dict[int, Token]) -> Part:
        """The prompt itself as the first part. tokens: the engine's reports by place; the first token has none."""
        entries = [self._entry(number, tokens.get(place)) for place, number in enumerate(ids)] if self.scored else []
        self.given += len(text.encode())
        self.bytes = self.given
        return Part(self.index, text, entries, None)

    def take(self, token: Token) -> Part:
        if token.token < 0:  # none was wanted
            self.row.finish = "length"
            return Part(self.index, "", [], "length")
        place = self.bytes
        if self.scored:
            self.pending.append((place, self._entry(token.token, token)))
        text = take_token(self.model.engine, self.row, token.token, self.ends, self.most)
        if token.finish != GOES_ON and self.row.finish is None:  # the context is full
            text += self.row.stream.finish()
            self.row.finish = "length" if token.finish == LENGTH else "stop"
        self.ended = token.finish == GOES_ON and self.row.finish is not None
        self.given += len(text.encode())
        return Part(self.index, text, self._release(), self.row.finish)

    def _entry(self, number: int, token: Token | None) -> Entry:
        raw = self.model.texts.bytes_of(number)
        known = token is not None and not math.isnan(token.logprob)
        entry = Entry(number, token.logprob if known else None, token.tops if known else [], self.offset)
        self.bytes, self.offset = self.bytes + len(raw), self.offset + characters_begun(raw)
        return entry

    def _release(self) -> list[Entry]:
        """The entries whose text has been given. Those behind a stop string are dropped."""
        last = self.row.finish is not None
        keep = 0
        for place, entry in self.pending:
            end = place + len(self.model.texts.bytes_of(entry.token))
            if not (place < self.given or end == place) if last and self.row.stream.stopped else not last and end > self.given:
                break
            keep += 1
        out, self.pending = [entry for _, entry in self.pending[:keep]], self.pending[keep:]
        return out
