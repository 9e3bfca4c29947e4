"""Why a row of chat data is left out."""

import json

# The keys under which meta.json counts them.
MALFORMED, UNKNOWN_ROLE, EMPTY, NO_ASSISTANT = "malformed", "unknown_role", "empty", "no_assistant_turn"
TEMPLATE, MASKED, TOO_LONG = "template", "nothing_trained", "too_long"
IDENTICAL, NO_DIFFERENCE, SPECIAL = "identical_answers", "no_difference_in_tokens", "special_token_in_text"
REASONS = (
    MALFORMED, UNKNOWN_ROLE, EMPTY, NO_ASSISTANT, TEMPLATE, MASKED, TOO_LONG, IDENTICAL, NO_DIFFERENCE, SPECIAL,
)  # fmt: skip


class BadRow(Exception):
    """A row that is left out: the reason it is counted under, and what is wrong in words."""

    def __init__(self, reason: str, text: str):
        super().__init__(text)
        self.reason = reason


def found(value) -> str:
    """A row's value in few words; nothing in it begins a line or is a terminal's code."""
    if isinstance(value, (list, dict)):
        return "a list" if isinstance(value, list) else "an object"
    return json.dumps(value[:40] if isinstance(value, str) else value, default=str)[:250]


def parsed(where: str, value):
    """A value, or the JSON text of one, as tables often have it."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value.strip() else None
    except (ValueError, RecursionError):
        raise BadRow(MALFORMED, f'"{where}": {found(value)}, expected JSON') from None
