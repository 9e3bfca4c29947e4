"""--version, as every program has it."""

import argparse
import subprocess
from pathlib import Path

VERSION = Path(__file__).resolve().parents[1] / "version.sh"


class _Print(argparse.Action):
    def __call__(self, parser, *_):
        print(parser.prog, subprocess.run([VERSION], capture_output=True, text=True, check=True).stdout.strip())
        parser.exit()


def add_version(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--version", action=_Print, nargs=0, help="print the version and exit")
