"""Ids to text as they come: characters only when they are whole, stop strings never shown, terminals kept safe."""

import re

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
CONTEXT = 8  # tokens before the new ones that are decoded with them: what a token looks like may depend on them
PENDING = 16  # tokens that are decoded again with each new one; where they become more, a place to cut is looked for


def harmless(text: str) -> str:
    """For a terminal: control characters but newline and tab, and marks that turn the writing round, are shown as U+FFFD."""
    return CONTROL.sub("\ufffd", text.replace("\r\n", "\n"))


class TextStream:
    """add(id) → the text that has become certain; finish() → the rest. `stopped`: a stop string was met."""

    def __init__(self, tokenizer, stops: list[str]):
        self.tokenizer, self.stops = tokenizer, stops
        self.ids: list[int] = []
        self.done = 0  # ids that need no second look
        self.ahead = 0  # characters of the ids behind those that have been taken
        self.held = ""  # text that may yet turn out to begin a stop string
        self.text, self.stopped = "", False

    def add(self, token: int) -> str:
        self.ids.append(token)
        new = self._decode(False)
        return self._release(new, False) if new else ""

    def finish(self) -> str:
        return "" if self.stopped else self._release(self._decode(True), True)

    def _decode(self, last: bool) -> str:
        """What has become certain: all but the one U+FFFD as which bytes show that may yet become a character."""
        start = max(0, self.done - CONTEXT)
        before = self.tokenizer.decode(self.ids[start : self.done])
        whole = self.tokenizer.decode(self.ids[start:])
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
            text = self.tokenizer.decode(self.ids[start:end])
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
