"""Where a run's log lies, and what the run is called."""

from pathlib import Path

from llmdata.errors import InputError


def log_of(name: str) -> Path:
    """The log of a run, of which `name` is the folder or the log itself."""
    path = Path(name)
    path = path / "log.jsonl" if path.is_dir() else path
    if not path.is_file():
        raise InputError(f"{path}: no such file, expected a run's log.jsonl")
    return path


def run_of(log: Path) -> str:
    return log.resolve().parent.name if log.name == "log.jsonl" else log.stem
