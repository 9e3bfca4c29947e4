"""Members of an object in a JSON file, read by name and checked: what is wrong is told with file and place."""

import json
from pathlib import Path

from .errors import InputError


class Section:
    """An object in a JSON file. Its members are read by name; close() refuses members that were not read."""

    def __init__(self, path: Path, place: str, value):
        self.path, self.place, self.asked = path, place, set()
        if not isinstance(value, dict):
            self.fail(None, f"expected an object, found {short(value)}")
        self.value = value

    def fail(self, name: str | None, text: str):
        place = ".".join(part for part in (self.place, name) if part)
        raise InputError(f"{self.path}: {place + ': ' if place else ''}{text}")

    def get(self, name: str, kind: type | tuple, expected: str, default=None):
        self.asked.add(name)
        value = self.value.get(name)
        if value is None:
            if default is None:
                self.fail(name, f"is missing, expected {expected}")
            return default
        if not isinstance(value, kind) or isinstance(value, bool):
            self.fail(name, f"expected {expected}, found {short(value)}")
        return value

    def has(self, name: str) -> bool:
        self.asked.add(name)
        return self.value.get(name) is not None

    def section(self, name: str) -> "Section":
        return type(self)(self.path, ".".join(part for part in (self.place, name) if part), self.value[name])

    def choice(self, name: str, choices: tuple[str, ...], default: str) -> str:
        value = self.get(name, str, f"one of {', '.join(choices)}", default)
        if value not in choices:
            self.fail(name, f"expected one of {', '.join(choices)}, found {short(value)}")
        return value

    def number(self, name: str, low: float, high: float, default: float | None = None, whole: bool = False):
        """A number from `low` to `high`; `whole`: an integer, which may be written as 1e9 too."""
        expected = f"{'a whole number' if whole else 'a number'} from {low:g} to {high:g}"
        value = self.get(name, (int, float), expected, default)
        if not low <= value <= high or whole and value != int(value):
            self.fail(name, f"expected {expected}, found {short(value)}")
        return int(value) if whole else value

    def flag(self, name: str, default: bool) -> bool:
        self.asked.add(name)
        value = self.value.get(name, default)
        if not isinstance(value, bool):
            self.fail(name, f"expected true or false, found {short(value)}")
        return value

    def texts(self, name: str, default: list | None = None) -> list[str]:
        values = self.get(name, list, "a list of texts", default)
        if not all(isinstance(value, str) and value for value in values):
            self.fail(name, f"expected a list of texts, found {short(values)}")
        return values

    def files(self, name: str) -> list[Path]:
        values = self.value.get(name)
        paths = [Path(text) for text in ([values] if isinstance(values, str) else self.texts(name))]
        self.asked.add(name)
        for path in paths:
            if not path.is_file():
                self.fail(name, f"{path}: no such file")
        if not paths:
            self.fail(name, "expected at least one file")
        return paths

    def close(self) -> None:
        unknown = [name for name in self.value if name not in self.asked]
        if unknown:
            self.fail(unknown[0], f"is not known, expected one of {', '.join(sorted(self.asked))}")


def short(value) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:52] + "..."


def first_difference(before, now, place: str = "") -> str | None:
    """The first member that differs in two values of JSON, with both values; None: they are the same."""
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        before, now = dict(enumerate(before)), dict(enumerate(now))
    if isinstance(before, dict) and isinstance(now, dict):
        names = [*before, *(name for name in now if name not in before)]
        found = (first_difference(before.get(name), now.get(name), f"{place}.{name}".strip(".")) for name in names)
        return next(filter(None, found), None)
    return None if before == now else f"{place} was {short(before)} and is {short(now)}"
