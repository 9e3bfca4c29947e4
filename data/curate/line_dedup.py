"""Removes lines that are seen more than six times in a bucket of 30 million documents of a language (arXiv 2407.21783, section 3.1.1,
as ccNet): menus, notices of cookies, and whatever else pages have in common. All copies go. The counts are exact.

Lines are compared without their case and white space. Those without a letter or digit (brackets of code, rules) are left alone.
A bucket is made of whole parts, each of which is a task's documents of a language, or 30 million of them.
"""

import json
import re
from pathlib import Path
from urllib.parse import quote

import numpy as np
from datatrove.data import Document, DocumentsPipeline

from llmdata.words import hash_text

from . import tables
from .files import write_json
from .step import Barrier, BarrierStep, Pass, Verdict

_COUNTED = [("hash", "<u8"), ("count", "<u4")]
_MEANT = re.compile(r"[^\W_]")
_GAP = re.compile(r"\n{3,}")  # where lines went


def hash_lines(text: str) -> np.ndarray:
    """uint64, one for each line; 0 for those that are left alone."""
    return np.array([hash_text(" ".join(line.lower().split())) if _MEANT.search(line) else 0 for line in text.split("\n")],
                    np.uint64)  # fmt: skip


class LineDedup(Barrier):
    name = "line_dedup"
    SCHEMA = {"properties": {
        "most": {"type": "integer", "minimum": 1, "default": 6, "description": "lines that are seen more often are removed"},
        "bucket_documents": {"type": "integer", "minimum": 1, "default": 30_000_000, "description": "documents in which lines are counted"},
    }}  # fmt: skip

    def collect(self) -> BarrierStep:
        return _Collect(self.context.folder, self.settings)

    def between(self) -> list[Pass]:
        return [Pass("count lines", [_Count(self.context.folder, self.settings)], self.context.tasks),
                Pass("join counts", [_Join(self.context.folder, self.settings)], 1)]  # fmt: skip

    def decide(self) -> tables.Decision:
        return _Rare(self.settings, self.context)


class _Parts:
    """Tells the part of each document of a task by its language: (language, number from 0)."""

    def __init__(self, most: int):
        self.most, self.documents = most, {}

    def next(self, document: Document) -> tuple[str, int]:
        language = str(document.metadata.get("language") or "")
        seen = self.documents[language] = self.documents.get(language, 0) + 1
        return language, (seen - 1) // self.most

    def sizes(self) -> list[tuple[str, int, int]]:
        """(language, part, documents)."""
        return [(language, part, min(self.most, seen - part * self.most))
                for language, seen in sorted(self.documents.items()) for part in range(-(-seen // self.most))]  # fmt: skip


def buckets(folder: Path, most: int) -> dict[str, list[list[tuple[int, int]]]]:
    """{language: buckets of (task, part)}, each bucket as large as whole parts in their order allow."""
    found: dict[str, list[list[tuple[int, int]]]] = {}
    sizes: dict[str, int] = {}
    for path in sorted((folder / "parts").glob("*.json")):
        for language, part, documents in json.loads(path.read_text()):
            known = found.setdefault(language, [])
            if not known or sizes[language] + documents > most:
                known.append([])
                sizes[language] = 0
            known[-1].append((int(path.stem), part))
            sizes[language] += documents
    return found


def _folder(folder: Path, language: str) -> Path:
    return folder / "lines" / f"language {quote(language, safe=' ')[:80]}"


class _Step(BarrierStep):
    def __init__(self, folder: Path, settings: dict):
        super().__init__(folder)
        self.settings = settings


class _Collect(_Step):
    name = "lines"

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> None:
        parts, held, size = _Parts(self.settings["bucket_documents"]), {}, 0
        self.runs: dict[tuple[str, int], tables.Runs] = {}
        for document in data:
            hashes = hash_lines(document.text)
            held.setdefault(parts.next(document), []).append(hashes[hashes != 0])
            size += len(hashes)
            if size >= tables.MOST:
                self._write(held, rank)
                held, size = {}, 0
        self._write(held, rank)
        write_json(self.folder / "parts" / f"{rank:06d}.json", parts.sizes())

    def _write(self, held: dict[tuple[str, int], list[np.ndarray]], rank: int) -> None:
        for (language, part), hashes in held.items():
            if (language, part) not in self.runs:
                self.runs[language, part] = tables.Runs(_folder(self.folder, language) / f"{part:04d}", rank, _COUNTED)
            runs = self.runs[language, part]
            runs.add(_counted(*np.unique(np.concatenate(hashes), return_counts=True)))
            runs.flush()


def _counted(hashes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    records = np.zeros(len(hashes), _COUNTED)
    records["hash"], records["count"] = hashes, counts
    return records


class _Count(_Step):
    """A task looks at one range of the hashes, in every bucket."""

    name = "counts"

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> None:
        for language, found in buckets(self.folder, self.settings["bucket_documents"]).items():
            folder = _folder(self.folder, language)
            for number, parts in enumerate(found):
                runs = [path for task, part in parts for path in tables.runs_of(folder / f"{part:04d}", task)]
                frequent = [np.zeros(0, np.uint64)]
                for records in tables.merged(runs, rank, world_size):
                    firsts = tables.groups(records)
                    counts = np.add.reduceat(records["count"], firsts, dtype=np.int64)
                    frequent.append(records["hash"][firsts][counts > self.settings["most"]])
                tables.write(folder / f"frequent {number:04d}" / f"{rank:06d}.npy", np.concatenate(frequent))


class _Join(_Step):
    """Makes one sorted table of the ranges of each bucket, which all processes of a machine share when they look lines up."""

    name = "frequent lines"

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> None:
        for language, found in buckets(self.folder, self.settings["bucket_documents"]).items():
            for number in range(len(found)):
                folder = _folder(self.folder, language) / f"frequent {number:04d}"
                tables.join(folder.with_suffix(".npy"), sorted(folder.glob("*.npy")))


class _Rare(tables.Decision):
    name = LineDedup.name

    def start(self, rank: int) -> None:
        most = self.settings["bucket_documents"]
        found = buckets(self.context.folder, most)
        bucket_of = {(language, part): number for language, parts_of in found.items()
                     for number, parts in enumerate(parts_of) for task, part in parts if task == rank}  # fmt: skip
        self.parts = _Parts(most)
        self.frequent = {key: tables.read(_folder(self.context.folder, key[0]) / f"frequent {number:04d}.npy")
                         for key, number in bucket_of.items()}  # fmt: skip

    def change(self, document: Document) -> int:
        frequent = self.frequent[self.parts.next(document)]
        lines, hashes = document.text.split("\n"), hash_lines(document.text)
        self.share = 1.0
        if not len(frequent):
            return 0
        places = np.minimum(np.searchsorted(frequent, hashes), len(frequent) - 1)
        kept = frequent[places] != hashes
        removed = len(lines) - int(np.count_nonzero(kept))
        if removed:
            left = "\n".join(line for line, keep in zip(lines, kept) if keep)
            document.text = _GAP.sub("\n\n", left).strip("\n")
            self.share = 1 - removed / max(1, np.count_nonzero(hashes))
        return removed

    def judge(self, document: Document) -> Verdict:
        return Verdict(_MEANT.search(document.text) is not None, self.share, 0.0, "no line left")
