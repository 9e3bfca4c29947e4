"""Which of the files and folders that a user names are read, and what is said about the others."""

import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from .characters import on_one_line
from .errors import InputError
from .text_file import ARRAY, LINES, PACKED, TABLE, TEXT, TextFile, endings, format_of

ROWS = (LINES, ARRAY, TABLE)
FORMATS = (TEXT, *ROWS)
NAMED = 3  # so many files without text are named
MOST_ENDINGS = 8


@dataclass
class Notes:
    """What a program says about its files at the end. With `strict`, a file without text is refused."""

    what: str = "text"  # what each file should contain
    strict: bool = False
    left_out: Counter = field(default_factory=Counter)  # files in folders that were not read, by ending
    twins: int = 0  # compressed files in folders whose unpacked twin lies beside them
    linked: int = 0  # links to folders inside folders, which are not followed
    blank: dict[Path, None] = field(default_factory=dict)  # an ordered set

    def add_blank(self, path: Path) -> None:
        if self.strict:
            raise InputError(f"{path}: no {self.what} in this file, expected some (--strict)")
        self.blank[path] = None

    def check_some(self, files: list[Path]) -> None:
        if all(path in self.blank for path in files):
            others = f" and in the {len(files) - 1} others" if len(files) > 1 else ""
            raise InputError(f"{files[0]}: no {self.what} in this file{others}, expected some")

    def report(self, program: str, formats: tuple[str, ...]) -> None:
        if self.blank:
            names = ", ".join(map(str, [*self.blank][:NAMED])) + (", ..." if len(self.blank) > NAMED else "")
            files = "1 file" if len(self.blank) == 1 else f"{len(self.blank)} files"
            print(f"{program}: {files} without {self.what}: {on_one_line(names)}", file=sys.stderr)
        if self.twins:
            print(f"{program}: left out: {self.twins} compressed files that lie beside their unpacked copies", file=sys.stderr)
        if self.linked:
            print(f"{program}: left out: {self.linked} linked folders; name them to read them", file=sys.stderr)
        if self.left_out:
            known = endings(_in_folders(formats))
            print(f"{program}: left out: {in_words(self.left_out)} (the names do not end in {known}{_of_json(self.left_out)})",
                  file=sys.stderr)  # fmt: skip


def in_words(counts: Counter) -> str:
    shown = [f"{count} {name}" for name, count in counts.most_common(MOST_ENDINGS)]
    rest = counts.total() - sum(count for _, count in counts.most_common(MOST_ENDINGS))
    return ", ".join(shown + ([f"{rest} others"] if rest else []))


def find_files(paths: list[str], formats: tuple[str, ...], notes: Notes) -> list[Path]:
    """The files in `paths`. A folder is replaced by the files in it that have one of the formats, sorted by name."""
    files: list[Path] = []
    named = {Path(name).resolve() for name in paths}
    for name in paths:
        path = Path(name)
        if path.is_dir():
            files += _files_in_folder(path, _in_folders(formats), named, notes)
        elif path.is_file():
            files.append(path)
        else:
            raise InputError(f"{path}: no such file or folder")
    for path in files:
        if format_of(path) not in formats:
            TextFile(path).close()  # raises if the file is not text at all
            raise InputError(f"{path}: expected a name that ends in {endings(formats)}")
    return files


def _of_json(left_out: Counter) -> str:
    return "; a .json file is read where it is named itself" if left_out[ARRAY] else ""


def _in_folders(formats: tuple[str, ...]) -> tuple[str, ...]:
    """The formats that are read in folders: a .json file there may be anything, so it must be named itself."""
    return tuple(name for name in formats if name != ARRAY)


def _files_in_folder(folder: Path, formats: tuple[str, ...], named: set[Path], notes: Notes) -> list[Path]:
    def hidden(path: Path) -> bool:
        return any(part.startswith(".") for part in path.relative_to(folder).parts)

    paths = sorted(path for path in folder.rglob("*") if not hidden(path))
    files = [path for path in paths if path.is_file()]
    found = [path for path in files if format_of(path) in formats]
    names = set(found)
    twins = {path for path in found if path.suffix.lower() in PACKED and path.with_suffix("") in names}
    left_out = Counter(_ending(path) for path in files if format_of(path) not in formats and path.resolve() not in named)
    if not found:
        has = f" (it has {in_words(left_out)}{_of_json(left_out)})" if left_out else ""
        raise InputError(f"{folder}: no {endings(formats)} file in this folder{has}")
    notes.left_out.update(left_out)
    notes.twins += len(twins)
    notes.linked += sum(path.is_symlink() and path.is_dir() and path.resolve() not in named for path in paths)
    return [path for path in found if path not in twins]


def _ending(path: Path) -> str:
    suffixes = path.suffixes[-2:] if path.suffix.lower() in PACKED else path.suffixes[-1:]
    ending = on_one_line("".join(suffixes).lower())
    return ending if ending and len(ending) <= 16 and " " not in ending else "without ending"
