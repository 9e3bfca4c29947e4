"""Reads the fields of a request's JSON object, and refuses those that are not known."""

import json

from llmdata.bad_row import found
from llmdata.characters import is_text

from .errors import ApiError, bad_field


def parse_object(body: bytes) -> dict:
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise ApiError(400, f"the body is not UTF-8 at byte {error.start}") from None
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is not JSON ({getattr(error, 'msg', None) or _reason(error)})") from None
    if not isinstance(value, dict):
        raise ApiError(400, f"the body is {found(value)}, expected a JSON object")
    return value


def _refuse_constant(name: str):
    raise ValueError(f"{name} is no number of JSON")


def _reason(error: Exception) -> str:
    return "nested too deep" if isinstance(error, RecursionError) else str(error)[:100]


class Fields:
    """Each method takes a field out of the object. null counts as missing. Missing fields have the default."""

    def __init__(self, body: dict):
        self.left = {name: value for name, value in body.items() if value is not None}

    def take(self, name: str, default=None):
        return self.left.pop(name, default)

    def number(self, name: str, default: float, low: float, high: float) -> float:
        value = self.take(name, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:  # nor is NaN
            raise bad_field(name, found(value), f"a number from {low:g} to {high:g}")
        return float(value)

    def integer(self, name: str, default: int | None, low: int, high: int) -> int | None:
        value = self.take(name, default)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high):
            raise bad_field(name, found(value), f"a whole number from {low} to {high}")
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.take(name, default)
        if not isinstance(value, bool):
            raise bad_field(name, found(value), "true or false")
        return value

    def text(self, name: str, default: str | None = None) -> str | None:
        value = self.take(name, default)
        if value is not None and not (isinstance(value, str) and is_text(value)):
            raise bad_field(name, found(value), "Unicode text")
        return value

    def only(self, name: str, *allowed) -> None:
        """A field of OpenAI's that is not supported: it may only have a value that changes nothing."""
        value = self.take(name, allowed[0])
        if value not in allowed:
            raise bad_field(name, found(value), f"{json.dumps(allowed[0])}: nothing else is supported")

    def finish(self, ignored: frozenset[str]) -> None:
        unknown = sorted(self.left.keys() - ignored)
        if unknown:
            name = json.dumps(unknown[0][:60])
            raise ApiError(400, f"unknown field {name}", unknown[0] if is_text(unknown[0]) else None)
