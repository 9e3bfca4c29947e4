"""The server that an evaluation asks: scripts/serve.py as a child, or one that runs already."""

import contextlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Iterator

from llmdata.errors import Fault, InputError
from llmstage.runner import die_with_parent

SERVE = Path(__file__).resolve().parent.parent / "serve.py"
ADDRESS = re.compile(r"serve: (http://\S+) serves ")


@contextlib.contextmanager
def served(models: dict[str, Path], *options: str) -> Iterator[str]:
    """The address of a server of these models on a free port, which ends with the block. Errors: InputError of bad models or
    options, in the server's own words; Fault."""
    names = [word for name, folder in models.items() for word in ("--model", f"{name}={folder}")]
    with tempfile.TemporaryFile("w+") as log:
        command = [sys.executable, SERVE, *names, "--port", "0", *options]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, preexec_fn=die_with_parent)
        try:
            found = ADDRESS.match(process.stdout.readline())
            if not found:
                raise _failure(process.wait(), log)
            yield found[1]
            if process.poll() is not None:
                raise _failure(process.returncode, log)
        finally:
            process.terminate()
            process.wait()
            process.stdout.close()


def _failure(code: int, log) -> Exception:
    log.seek(0)
    lines = log.read().strip().splitlines()
    return (InputError if code == 2 else Fault)(lines[-1] if lines else f"serve.py ended with code {code}")
