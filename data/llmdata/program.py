"""Faults that no program foresees for itself are one line and code 1 too: a package that is missing, a standard output that is
full. Where there is none, or nobody reads any more, nothing is said."""

import os
import sys
from pathlib import Path


def tell(kind, error, trace) -> None:
    """Stands for sys.excepthook."""
    program = Path(sys.argv[0]).stem
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("llm"):
        print(f"{program}: the Python package {error.name} is missing, expected what scripts/setup.sh installs: "
              "activate its environment by: . .venv/bin/activate", file=sys.stderr)  # fmt: skip
    elif isinstance(error, OSError):
        if not isinstance(error, BrokenPipeError):
            print(f"{program}: {error}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left of the output fails no second time
    else:
        sys.__excepthook__(kind, error, trace)


def install() -> None:
    sys.excepthook = tell
    if sys.stdout is None:  # closed by the caller
        sys.stdout = open(os.devnull, "w")
