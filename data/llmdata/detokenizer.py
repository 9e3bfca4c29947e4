"""Turns token ids into text as they come: a character appears only when it is complete, a stop string never."""

import re

BYTE = re.compile(r"<0x([0-9A-Fa-f]{2}|\+[0-9A-Fa-f])>")  # the token of a byte where the decoder has ByteFallback
CONTEXT = 8  # tokens that are decoded before the new ones, whose text may depend on them
PENDING = 16  # tokens that are decoded again with each new one; when there are more, a place to cut is searched


def standing_before(tokenizer) -> list[int]:
    """A token of plain text, to decode others after it: the first space of a text that continues another is kept."""
    for token in range(tokenizer.get_vocab_size()):
        text = tokenizer.decode([token])
        if text.strip() and "\ufffd" not in text and not BYTE.fullmatch(tokenizer.id_to_token(token)):
            return [token]
    return []


def decode_behind(tokenizer, ids: list[int], skip_special_tokens: bool = True) -> str:
    """The text of ids that follow others."""
    anchor = standing_before(tokenizer)
    whole = tokenizer.decode([*anchor, *ids], skip_special_tokens=skip_special_tokens)
    return whole[len(tokenizer.decode(anchor)) :]


class TextStream:
    """add(id) returns the text that has become certain, finish() the rest. Joined, they are the text of all ids.

    With `follows` the text continues another, such as a prompt. `stopped`: a stop string was met.
    """

    def __init__(self, tokenizer, stops: list[str], follows: bool = False):
        self.tokenizer, self.stops, self.follows = tokenizer, stops, follows
        self.anchor = standing_before(tokenizer)
        self.ids: list[int] = []
        self.done = 0  # ids whose text is final
        self.ahead = 0  # characters of later ids that have been returned already
        self.held = ""  # text that may be the beginning of a stop string
        self.text, self.stopped = "", False
        self.byte_fallback = tokenizer.decoder is not None and b'"ByteFallback"' in tokenizer.decoder.__getstate__()
        self.special = {n for n, t in tokenizer.get_added_tokens_decoder().items() if t.special} if self.byte_fallback else set()

    def add(self, token: int) -> str:
        self.ids.append(token)
        new = "" if self._open_ended(token) else self._decode(False)
        return self._release(new, False) if new else ""

    def finish(self) -> str:
        return "" if self.stopped else self._release(self._decode(True), True)

    def _open_ended(self, token: int) -> bool:
        """A run of byte tokens is text if all of it is UTF-8, and only U+FFFD if not. Ids without text do not end the run."""
        if not self.byte_fallback:
            return False
        name = self.tokenizer.id_to_token(token)
        return name is None or token in self.special or bool(BYTE.fullmatch(name))

    def _text(self, start: int, end: int | None = None) -> str:
        anchor = self.anchor if self.follows or start else []
        return self.tokenizer.decode([*anchor, *self.ids[start:end]])

    def _decode(self, last: bool) -> str:
        """The text that has become certain: all but a final U+FFFD, whose bytes may yet become a character."""
        start = max(0, self.done - CONTEXT)
        before, whole = self._text(start, self.done), self._text(start)
        taken, certain = len(before) + self.ahead, len(whole) - (whole.endswith("\ufffd") and not last)
        if certain < taken or not (last or whole.startswith(before)):
            return ""
        if certain == len(whole):
            self.done, self.ahead = len(self.ids), 0
        else:
            self.ahead = certain - len(before)
            if len(self.ids) - self.done > PENDING:
                self._cut(start, whole, certain)
        return whole[taken:certain]

    def _cut(self, start: int, whole: str, certain: int) -> None:
        """Moves `done` past bytes that are not text, to where no character continues."""
        for end in range(len(self.ids) - 4, self.done, -1):
            text = self._text(start, end)
            if whole.startswith(text):
                self.done, self.ahead = end, certain - len(text)
                return

    def _release(self, new: str, last: bool) -> str:
        text = self.held + new
        cut = min((at for at in (text.find(stop) for stop in self.stops) if at >= 0), default=None)
        if cut is not None:
            self.stopped, self.held, shown = True, "", text[:cut]
        else:
            keep = 0 if last else max((self._beginning(text, stop) for stop in self.stops), default=0)
            shown, self.held = text[: len(text) - keep], text[len(text) - keep :]
        self.text += shown
        return shown

    @staticmethod
    def _beginning(text: str, stop: str) -> int:
        """The length of the longest end of the text that is the beginning of the stop string."""
        return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
