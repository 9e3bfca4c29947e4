"""What a step did in one task: documents, tokens and bytes in and out by language and domain, reasons, faults, examples.

All of it can be merged, and the sum does not depend on how documents were spread over tasks (but for groups beyond MOST_GROUPS).
"""

import bisect
import hashlib
import re
from collections import Counter
from dataclasses import dataclass, field

from datatrove.data import Document

from .verdict import Verdict

EXAMPLES = 20
EXCERPT = 500  # characters of an example
MOST_NAMES = 20  # documents that are named for each kind of fault
MOST_GROUPS = 10_000  # languages or domains that are counted one by one; the smallest beyond these become OTHERS
OTHERS = "(others)"
_TOKEN = re.compile(r"\w+|[^\w\s]")

Sizes = tuple[int, int, int]


def measure(document: Document) -> Sizes:
    """(1, tokens, bytes). A token is a word or a mark, an estimate that needs no tokenizer; those of HTML are not counted.

    The count stays with the document while its text stays the same.
    """
    tokens = document.metadata.get("token_count")
    if tokens is None:
        html = document.metadata.get("type") == "html"
        tokens = document.metadata["token_count"] = 0 if html else len(_TOKEN.findall(document.text))
    return 1, tokens, len(document.text.encode("utf-8", "surrogatepass"))


class Nearest:
    """The EXAMPLES examples of the smallest keys. A key ends with a hash of the document's id: a chance that repeats."""

    def __init__(self, items: list[dict] | None = None):
        self.items = items or []  # sorted by "key"

    def add(self, key: list, document: Document, verdict: Verdict) -> None:
        if len(self.items) < EXAMPLES or key < self.items[-1]["key"]:
            self.insert({"key": key, "id": document.id, "url": document.metadata.get("url"), "value": verdict.value,
                         "threshold": verdict.threshold, "reason": verdict.reason, "excerpt": document.text[:EXCERPT],
                         "language": document.metadata.get("language")})  # fmt: skip

    def insert(self, item: dict) -> None:
        bisect.insort(self.items, item, key=lambda item: item["key"])
        del self.items[EXAMPLES:]


def hash_of(identity: str) -> int:
    return int.from_bytes(hashlib.blake2b(identity.encode("utf-8", "surrogatepass"), digest_size=6).digest(), "big")


def _distance(verdict: Verdict) -> float:
    """How far a value is from its threshold, as a share of it; infinite where they are no numbers."""
    value, threshold = verdict.value, verdict.threshold
    if not all(isinstance(number, (int, float)) for number in (value, threshold)):
        return 1e300
    return abs(value - threshold) / max(abs(threshold), 1e-9)


@dataclass
class Counts:
    """One step in one task, or in several after `merge`."""

    total: dict[str, list[int]] = field(default_factory=lambda: {"in": [0, 0, 0], "out": [0, 0, 0]})
    # of each language and domain: documents, tokens and bytes in, then out
    by: dict[str, dict[str, list[int]]] = field(default_factory=lambda: {"language": {}, "domain": {}})
    reasons: Counter = field(default_factory=Counter)  # of documents dropped
    faults: dict[str, dict] = field(default_factory=dict)  # reason: {"count": N, "names": [...]}
    counters: Counter = field(default_factory=Counter)  # the step's own
    changes: int = 0
    changed: int = 0  # documents with changes
    seconds: float = 0  # of the processor
    dropped: Nearest = field(default_factory=Nearest)  # a sample
    kept: Nearest = field(default_factory=Nearest)  # those that only just stayed

    def add(self, document: Document, before: Sizes, verdict: Verdict, changes: int) -> None:
        after = measure(document) if verdict.keep else (0, 0, 0)
        _add(self.total["in"], before)
        _add(self.total["out"], after)
        for group, counts in self.by.items():
            name = str(document.metadata.get(group) or "")
            _add(counts.setdefault(name, [0] * 6), (*before, *after))
            if len(counts) > 2 * MOST_GROUPS:
                _fold(counts)
        self.changes += changes
        self.changed += changes > 0
        chance = hash_of(document.id)
        if verdict.keep:
            self.kept.add([_distance(verdict), chance], document, verdict)
        else:
            self.reasons[verdict.reason] += 1
            self.dropped.add([chance], document, verdict)

    def add_fault(self, reason: str, name: str, message: str = "") -> None:
        """Something that could not be read or judged, by the name of the document or file."""
        fault = self.faults.setdefault(reason, {"count": 0, "names": []})
        fault["count"] += 1
        if len(fault["names"]) < MOST_NAMES:
            fault["names"].append(f"{name}: {message[:200]}" if message else name)

    def merge(self, other: "Counts") -> None:
        for side in self.total:
            _add(self.total[side], other.total[side])
        for group, counts in other.by.items():
            for name, sizes in counts.items():
                _add(self.by[group].setdefault(name, [0] * 6), sizes)
            if len(self.by[group]) > 2 * MOST_GROUPS:
                _fold(self.by[group])
        self.reasons.update(other.reasons)
        self.counters.update(other.counters)
        for reason, fault in other.faults.items():
            mine = self.faults.setdefault(reason, {"count": 0, "names": []})
            mine["count"] += fault["count"]
            mine["names"] = (mine["names"] + fault["names"])[:MOST_NAMES]
        self.changes += other.changes
        self.changed += other.changed
        self.seconds += other.seconds
        for mine, theirs in ((self.dropped, other.dropped), (self.kept, other.kept)):
            for item in theirs.items:
                mine.insert(item)

    def to_json(self) -> dict:
        return {**vars(self), "dropped": self.dropped.items, "kept": self.kept.items}

    @classmethod
    def from_json(cls, value: dict) -> "Counts":
        counters = {name: Counter(value[name]) for name in ("reasons", "counters")}
        examples = {name: Nearest(value[name]) for name in ("dropped", "kept")}
        return cls(**{**value, **counters, **examples})


def _add(total: list[int], sizes) -> None:
    for i, size in enumerate(sizes):
        total[i] += size


def _fold(counts: dict[str, list[int]]) -> None:
    """Keeps the groups of most documents and adds the smaller ones up."""
    others = counts.pop(OTHERS, [0] * 6)
    for name in sorted(counts, key=lambda name: (-counts[name][0], name))[MOST_GROUPS:]:
        _add(others, counts.pop(name))
    counts[OTHERS] = others
