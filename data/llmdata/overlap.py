"""Which items of evaluations stand in a document: runs of eight words that both have."""

import numpy as np

from .words import ngrams

WORDS = 8
COMMON = 10  # more items than this have a run in common: it is not an item's own


class Index:
    """The runs of words of all items. Items shorter than a run cannot be found and are counted in `short`."""

    def __init__(self, items: list[tuple[str, np.ndarray]]):
        self.names = [name for name, _ in items]
        runs = [ngrams(words, WORDS) for _, words in items]
        self.short = sum(not len(run) for run in runs)
        hashes = np.concatenate([np.zeros(0, np.uint64), *runs])
        owners = np.repeat(np.arange(len(runs)), [len(run) for run in runs])
        places = np.concatenate([np.zeros(0, np.int64), *(np.arange(len(run)) for run in runs)])
        common = self._common(hashes, owners)
        own = np.split(~common, np.cumsum([len(run) for run in runs])[:-1])
        self.lengths = [self._covered(np.flatnonzero(each)) for each in own]
        order = np.flatnonzero(~common)[np.argsort(hashes[~common], kind="stable")]
        self.hashes, self.owners, self.places = hashes[order], owners[order], places[order]

    @staticmethod
    def _common(hashes: np.ndarray, owners: np.ndarray) -> np.ndarray:
        """Which runs more than COMMON items have."""
        pairs = np.unique(np.stack((hashes, owners.astype(np.uint64))), axis=1)[0] if len(hashes) else hashes
        found, counts = np.unique(pairs, return_counts=True)
        return np.isin(hashes, found[counts > COMMON])

    @staticmethod
    def _covered(places: np.ndarray) -> int:
        """How many words runs at these places cover."""
        ordered = np.unique(places)
        return int(np.minimum(np.diff(ordered), WORDS).sum()) + WORDS if len(ordered) else 0

    def overlap(self, words: np.ndarray) -> tuple[float, str]:
        """(the largest share, what it is of): of the document's words or of an item's own ones."""
        runs = ngrams(words, WORDS)
        hits = self._hits(runs)
        if not hits.any():
            return 0.0, ""
        shares = self.shares(self._standing(runs[hits]))
        best = max(shares, key=lambda owner: (shares[owner], -owner))
        own = self._covered(np.flatnonzero(hits)) / len(words)
        if own > shares[best]:
            return own, f"of the document, as in {self.names[best]}"
        return shares[best], f"of {self.names[best]}"

    def found(self, words: np.ndarray) -> np.ndarray:
        """Numbers of the items' runs that a document has, for `shares`."""
        runs = ngrams(words, WORDS)
        return self._standing(runs[self._hits(runs)])

    def shares(self, found: np.ndarray) -> dict[int, float]:
        """{item: share of its own words that these runs cover}"""
        owners, places = self.owners[found], self.places[found]
        return {int(owner): self._covered(places[owners == owner]) / self.lengths[owner] for owner in np.unique(owners)}

    def _hits(self, runs: np.ndarray) -> np.ndarray:
        """Which of the runs an item has."""
        if not len(self.hashes):
            return np.zeros(len(runs), bool)
        return self.hashes[np.minimum(np.searchsorted(self.hashes, runs), len(self.hashes) - 1)] == runs

    def _standing(self, runs: np.ndarray) -> np.ndarray:
        first, last = (np.searchsorted(self.hashes, np.unique(runs), side) for side in ("left", "right"))
        return np.concatenate([np.zeros(0, np.int64), *(np.arange(*ends) for ends in zip(first, last))])
