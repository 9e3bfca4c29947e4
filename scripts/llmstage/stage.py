"""A stage, its commands, and what its result depends on."""

import hashlib
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from llmtext.fingerprint import file_digest, model_fingerprint


@dataclass
class Step:
    name: str
    program: list[str]
    arguments: list[str]
    made: Path  # exists afterwards
    trains: bool = False  # when stopped, it saves a checkpoint and ends with code 0
    output: Path | None = None  # receives its standard output

    @property
    def command(self) -> list[str]:
        return [*self.program, *self.arguments]


@dataclass
class Stage:
    name: str
    title: str
    folder: Path
    steps: list[Step]
    inputs: list[Path]  # from outside
    after: list[str]  # stages whose results it reads
    build: list[str] = field(default_factory=list, kw_only=True)  # target and precision

    def remove(self) -> None:
        """What was made with other settings."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def note(self) -> Path:
        return self.folder / "stage.json"

    def key(self, keys: dict[str, str]) -> dict:
        """Everything that the result depends on, by name."""
        return {
            "build": self.build,
            **{f"options of {step.name}": step.arguments for step in self.steps},
            **{f"content of {path}": digest(path) for path in self.inputs},
            **{f"stage {name}": keys[name] for name in self.after},
        }


def digest(path: Path) -> str:
    if path.is_file():
        return file_digest(path)
    if (path / "config.json").is_file():
        return model_fingerprint(path)
    total = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        total.update(f"{file.relative_to(path)} {file_digest(file)}\n".encode())
    return total.hexdigest()
