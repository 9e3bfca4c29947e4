"""Why a row of chat data is left out."""

import json

# meta.json counts left-out rows under these keys.
MALFORMED, UNKNOWN_ROLE, EMPTY, NO_ASSISTANT = "malformed", "unknown_role", "empty", "no_assistant_turn"
TEMPLATE, MASKED, TOO_LONG = "template", "nothing_trained", "too_long"
IDENTICAL, NO_DIFFERENCE, SPECIAL = "identical_answers", "no_difference_in_tokens", "special_token_in_text"
REASONS = (
    MALFORMED, UNKNOWN_ROLE, EMPTY, NO_ASSISTANT, TEMPLATE, MASKED, TOO_LONG, IDENTICAL, NO_DIFFERENCE, SPECIAL,
)  # fmt: skip


class BadRow(Exception):
    """A row that is left out. `reason` is the key it is counted under; the message says what is wrong."""

    def __init__(self, reason: str, text: str):
        super().__init__(text)
        self.reason = reason


def found(value) -> str:
    """A row's value in a few words, without newlines or escape codes."""
    if isinstance(value, (list, dict)):
        return "a list" if isinstance(value, list) else "an object"
    return json.dumps(value[:40] if isinstance(value, str) else value, default=str)[:250]


def parsed(where: str, value):
    """The value, parsed if it is JSON text, as tables often hold it."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value.strip() else None
    except (ValueError, RecursionError):
        raise BadRow(MALFORMED, f'"{where}": {found(value)}, expected JSON') from None
