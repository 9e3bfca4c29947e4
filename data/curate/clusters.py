"""Clusters of near duplicates: how many documents stand for the same text, and the largest clusters with some of their members.

A document that is dropped points to an earlier one, which may itself be dropped; the one at the end of the chain stays. Pointers
and sizes lie in files that are mapped into memory, 12 bytes for each document.
"""

import json
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
from datatrove.data import Document, DocumentsPipeline

from . import tables
from .files import write_json
from .step import BarrierStep

LARGEST, MEMBERS, EXCERPT = 20, 5, 300  # clusters in the report, documents of each, characters of each
_CHUNK = 1 << 20  # documents at once


class FindClusters(BarrierStep):
    """Writes found.json: sizes, {size: clusters}, and the largest clusters, [[size, [[file, document], ...]], ...]."""

    name = "clusters"

    def __init__(self, folder: Path, threshold: float):
        super().__init__(folder / "clusters")
        self.threshold = threshold

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> None:
        ends = [len(tables.read(path)) - 1 for path in sorted((self.folder.parent / "shingles").glob("*.npy"))]
        begins = np.cumsum([0, *ends])  # each task's documents among all
        self.folder.mkdir(exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self.folder) as one, tempfile.NamedTemporaryFile(dir=self.folder) as other:
            count = int(max(1, begins[-1]))
            roots, sizes = np.memmap(one, "<i8", "w+", shape=count), np.memmap(other, "<u4", "w+", shape=count)
            self._point(roots, begins)
            for first in range(0, count, _CHUNK):
                np.add.at(sizes, _follow(roots, slice(first, first + _CHUNK)), 1)
            largest = _largest(sizes)
            members = _members(roots, [root for _, root in largest])
            write_json(self.folder / "found.json", {
                "sizes": _histogram(sizes),
                "largest": [[size, [_place(begins, member) for member in members[root]]] for size, root in largest],
            })  # fmt: skip

    def _point(self, roots: np.ndarray, begins: np.ndarray) -> None:
        for first in range(0, len(roots), _CHUNK):
            roots[first : first + _CHUNK] = np.arange(first, min(first + _CHUNK, len(roots)))
        for path in sorted((self.folder.parent / "duplicates").glob("*.npy")):
            rows = tables.read(path)
            rows = rows[rows["jaccard"] >= self.threshold]
            roots[begins[rows["file"]] + rows["document"]] = begins[rows["other_file"]] + rows["other_document"]


def _follow(roots: np.ndarray, part: slice) -> np.ndarray:
    """Lets these pointers point to the ends of their chains. Those of earlier documents do already."""
    ahead = np.array(roots[part])
    while not np.array_equal(ahead, roots[ahead]):
        roots[part] = ahead = roots[ahead]
    return ahead


def _histogram(sizes: np.ndarray) -> dict[str, int]:
    total: Counter = Counter()
    for first in range(0, len(sizes), _CHUNK):
        found = zip(*np.unique(sizes[first : first + _CHUNK], return_counts=True))
        total.update({int(size): int(number) for size, number in found if size > 1})
    return {str(size): total[size] for size in sorted(total)}


def _largest(sizes: np.ndarray) -> list[tuple[int, int]]:
    """(size, document that stays) of the largest clusters."""
    found: list[tuple[int, int]] = []
    for first in range(0, len(sizes), _CHUNK):
        part = sizes[first : first + _CHUNK].astype(int)
        top = np.argsort(-part, kind="stable")[:LARGEST]
        found = sorted([*found, *((int(part[at]), first + int(at)) for at in top if part[at] > 1)], key=lambda each: (-each[0], each[1]))
    return found[:LARGEST]


def _members(roots: np.ndarray, chosen: list[int]) -> dict[int, list[int]]:
    members: dict[int, list[int]] = {root: [] for root in chosen}
    for first in range(0, len(roots), _CHUNK):
        part = np.array(roots[first : first + _CHUNK])
        for at in np.flatnonzero(np.isin(part, chosen)):
            if len(members[int(part[at])]) < MEMBERS:
                members[int(part[at])].append(first + int(at))
    return members


def _place(begins: np.ndarray, number: int) -> list[int]:
    file = int(np.searchsorted(begins, number, "right")) - 1
    return [file, number - int(begins[file])]


class Members:
    """Notes what the members of the largest clusters look like, as the tasks see them."""

    def __init__(self, folder: Path, rank: int):
        self.path = folder / "clusters" / f"{rank:06d}.json"
        largest = json.loads((folder / "clusters" / "found.json").read_text())["largest"]
        self.cluster = {place: number for number, (_, places) in enumerate(largest) for file, place in places if file == rank}
        self.seen: list[dict] = []

    def see(self, place: int, document: Document, similarity: float) -> None:
        if place in self.cluster:
            self.seen.append({"cluster": self.cluster[place], "id": document.id, "url": document.metadata.get("url"),
                              "jaccard": similarity, "excerpt": document.text[:EXCERPT]})  # fmt: skip

    def write(self) -> None:
        write_json(self.path, self.seen)


def read_clusters(folder: Path) -> dict:
    """What a run's step folder says: {"sizes": {size: clusters}, "largest": [{"size", "members": [{"id", "url", "jaccard", "excerpt"}]}]}.

    A member's jaccard is the similarity for which it was dropped; below the threshold for the one that stays.
    """
    found = json.loads((folder / "clusters" / "found.json").read_text())
    largest = [{"size": size, "members": []} for size, _ in found["largest"]]
    for path in sorted((folder / "clusters").glob("[0-9]*.json")):
        for member in json.loads(path.read_text()):
            largest[member.pop("cluster")]["members"].append(member)
    return {"sizes": found["sizes"], "largest": largest}
