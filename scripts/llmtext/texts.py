"""A text while a model writes it: its tokens, its stop strings, and how it ends."""

from llmdata.detokenizer import TextStream
from llmdata.errors import InputError

from .generator import Generator


class Row:
    """One text. `finish` is None until it ends, then "stop" (at an end token or stop string) or "length"."""

    def __init__(self, tokenizer, stops: list[str]):
        self.stream, self.count, self.finish = TextStream(tokenizer, stops, follows=True), 0, None


def check_ids(name: str, ids: list[int], vocab_size: int) -> None:
    largest = max(ids, default=0)
    if largest >= vocab_size:
        raise InputError(f"{name}: the tokenizer gives the id {largest}, the model's vocabulary has {vocab_size} ids:"
                         " tokenizer.json and config.json do not belong together")  # fmt: skip


def split_stops(tokenizer, stops: list[str]) -> tuple[set[int], list[str]]:
    """Special tokens as ids, since they have no text of their own; all other stops as text."""
    if "" in stops:
        raise InputError("--stop: expected a text, found an empty one")
    added = {token.content: number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    return {added[stop] for stop in stops if stop in added}, [stop for stop in stops if stop not in added]


def take_token(generator: Generator, row: Row, token: int, ends: set[int], limit: int) -> str:
    """Adds a token to the text. Returns the text that has become certain."""
    row.count += 1
    if generator.is_end(token) or token in ends:
        row.finish = "stop"
        return row.stream.finish()
    text = row.stream.add(token)
    if not row.stream.stopped and row.count == limit:
        text += row.stream.finish()
        row.finish = "length"
    if row.stream.stopped:
        row.finish = "stop"
    return text
