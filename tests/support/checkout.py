"""Where things lie in the checkout under test."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SUPERVISE = ROOT / "scripts/supervise.sh"


def script(name):
    """Path of the Python program NAME.py."""
    found = [path for path in (ROOT / "data" / f"{name}.py", ROOT / "scripts" / f"{name}.py") if path.exists()]
    return found[0]


def load_script(name):
    """That program as a module of its own, which has not run."""
    spec = importlib.util.spec_from_file_location(name, script(name))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
