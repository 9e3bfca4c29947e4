"""What the command lines of all programs share: --version, and checks of what was given."""

import argparse
import json
import subprocess
from pathlib import Path

from .characters import is_text
from .errors import InputError

VERSION = Path(__file__).resolve().parents[2] / "scripts/version.sh"


class _Print(argparse.Action):
    def __call__(self, parser, *_):
        print(parser.prog, subprocess.run([VERSION], capture_output=True, text=True, check=True).stdout.strip())
        parser.exit()


def add_version(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--version", action=_Print, nargs=0, help="print the version and exit")


def check_bounds(options: argparse.Namespace, bounds: dict[str, tuple[float, float]]) -> None:
    """`bounds` has the least and the largest value of each option, by its name in `options`."""
    for name, (low, high) in bounds.items():
        value = getattr(options, name)
        if not low <= value <= high:
            raise InputError(f"--{name.replace('_', '-')} {value}: expected {low} to {high}")


def check_texts(options: argparse.Namespace, *names: str) -> None:
    """A command line may hold any bytes. Those that are not UTF-8 reach Python as lone surrogates and are refused here."""
    for name in names:
        found = getattr(options, name)
        for value in found if isinstance(found, list) else [found]:
            if value is not None and not is_text(value):
                raise InputError(f"--{name.replace('_', '-')}: found {json.dumps(value)[:60]}, expected UTF-8 text")
