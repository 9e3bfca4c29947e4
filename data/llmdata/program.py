"""What every program does around its own work: a fault becomes one line on stderr and an exit code, not a traceback."""

import contextlib
import os
import sys
from pathlib import Path
from typing import Callable

from .errors import Fault, InputError

DONE, FAULT, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


def begin() -> None:
    """Every program calls it before its other imports: a package that is missing will be named in one line."""
    sys.excepthook = _report_missing_package
    if sys.stdout is None:  # the caller closed it: what is printed goes nowhere
        sys.stdout = open(os.devnull, "w")


def _report_missing_package(kind, error, trace) -> None:
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("llm"):
        _say(f"the Python package {error.name} is missing, expected what scripts/setup.sh installs: "
             "activate its environment by: . .venv/bin/activate")  # fmt: skip
    else:
        sys.__excepthook__(kind, error, trace)


def _say(text: object) -> None:
    print(f"{Path(sys.argv[0]).stem}: {text}", file=sys.stderr, flush=True)


def run(work: Callable[[], None], interrupted: str | None = None) -> int:
    """Does the work and returns the exit code.

    `interrupted` is what Ctrl-C prints, and its code is then INTERRUPTED; without it, Ctrl-C prints nothing and is a FAULT.
    """
    try:
        work()
        sys.stdout.flush()
        return DONE
    except InputError as error:
        _say(error)
        return BAD_INPUT
    except KeyboardInterrupt:
        if interrupted is None:
            return FAULT
        print(interrupted, file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # nobody reads the output any more
        _drop_output()
        return FAULT
    except (Fault, OSError) as error:
        _say(error)
        _drop_output()
        return FAULT


def _drop_output() -> None:
    """What could not be written is not tried again when the process ends."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
