"""Ids to text as they come: characters only when they are whole, stop strings never shown."""

import re

BYTE = re.compile(r"<0x([0-9A-Fa-f]{2}|\+[0-9A-Fa-f])>")  # a byte's token where the tokenizer's decoder has ByteFallback
CONTEXT = 8  # tokens before the new ones that are decoded with them: what a token looks like may depend on them
PENDING = 16  # tokens that are decoded again with each new one; where they become more, a place to cut is looked for


def standing_before(tokenizer) -> list[int]:
    """A token of plain text: what is decoded behind it is text that goes on, whose first blank is not taken away."""
    for token in range(tokenizer.get_vocab_size()):
        text = tokenizer.decode([token])
        if text.strip() and "\ufffd" not in text and not BYTE.fullmatch(tokenizer.id_to_token(token)):
            return [token]
    return []


def decode_behind(tokenizer, ids: list[int], skip_special_tokens: bool = True) -> str:
    """The text of ids that stand behind others."""
    anchor = standing_before(tokenizer)
    whole = tokenizer.decode([*anchor, *ids], skip_special_tokens=skip_special_tokens)
    return whole[len(tokenizer.decode(anchor)) :]


class TextStream:
    """add(id) → the text that has become certain; finish() → the rest. All together are the text of the ids at once; with
    `follows` as it goes on behind another text, a prompt. `stopped`: a stop string was met.
    """

    def __init__(self, tokenizer, stops: list[str], follows: bool = False):
        self.tokenizer, self.stops, self.follows = tokenizer, stops, follows
        self.anchor = standing_before(tokenizer)
        self.ids: list[int] = []
        self.done = 0  # ids that need no second look
        self.ahead = 0  # characters of the ids behind those that have been taken
        self.held = ""  # text that may yet turn out to begin a stop string
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
        """Byte tokens in a row are characters if all of them together are UTF-8, and nothing but U+FFFD if they are not; ids
        without text do not end the row."""
        if not self.byte_fallback:
            return False
        name = self.tokenizer.id_to_token(token)
        return name is None or token in self.special or bool(BYTE.fullmatch(name))

    def _text(self, start: int, end: int | None = None) -> str:
        anchor = self.anchor if self.follows or start else []
        return self.tokenizer.decode([*anchor, *self.ids[start:end]])

    def _decode(self, last: bool) -> str:
        """What has become certain: all but the one U+FFFD as which bytes show that may yet become a character."""
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
        """Moves `done` on over bytes that are no text, to where no character goes on."""
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
        """The longest end of text that begins the stop string."""
        return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
