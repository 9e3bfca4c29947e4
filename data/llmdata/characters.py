"""Characters that texts of others may have in them, and that must not reach a terminal, a message of one line or a file."""

import re

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
HALF_PAIR = re.compile("[\ud800-\udfff]")


def harmless(text: str) -> str:
    """For a terminal: control characters but newline and tab, and marks that turn the writing round, are shown as U+FFFD."""
    return CONTROL.sub("\ufffd", text.replace("\r\n", "\n"))


def on_one_line(text: str) -> str:
    """For a message: a file's name may have line ends in it."""
    return harmless(text).replace("\n", "\ufffd")


def is_text(text: str) -> bool:
    """Whether it can be written as UTF-8: JSON and command lines may hold halves of surrogate pairs."""
    return not HALF_PAIR.search(text)
