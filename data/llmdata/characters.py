"""Keeps characters of foreign texts from a terminal, a message or a file that they would damage."""

import re

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
HALF_PAIR = re.compile("[\ud800-\udfff]")


def harmless(text: str) -> str:
    """The text for a terminal: control characters (except newline and tab) and marks that reverse the writing become U+FFFD."""
    return CONTROL.sub("\ufffd", text.replace("\r\n", "\n"))


def on_one_line(text: str) -> str:
    """The text for a message of one line: even a file's name may contain newlines."""
    return harmless(text).replace("\n", "\ufffd")


def is_text(text: str) -> bool:
    """Whether the text can be written as UTF-8: JSON and command lines may contain lone surrogates."""
    return not HALF_PAIR.search(text)
