"""Keeps, of all documents with the same URL in the whole data set, the newest (arXiv 2407.21783, section 3.1.1)."""

from datetime import datetime, timezone
from urllib.parse import urlsplit

import numpy as np
from datatrove.data import Document, DocumentsPipeline

from llmdata.words import hash_text

from . import tables
from .step import KEEP, Barrier, BarrierStep, Pass, Verdict

_SEEN = [("hash", "<u8"), ("date", "<i8"), *tables.PLACE]
_OLDER = [*tables.PLACE, ("newest", "<i8")]
_NO_DATE = -(2**63)
_PORTS = {"http": 80, "https": 443}


def normal_url(url: str) -> str:
    """Without scheme, default port and fragment, the host in lower case: what these change is hardly another page."""
    try:
        parts = urlsplit(url.strip())
        port = "" if parts.port in (None, _PORTS.get(parts.scheme)) else f":{parts.port}"
    except ValueError:
        return url
    if not parts.netloc:
        return url
    return f"{(parts.hostname or '').rstrip('.')}{port}{parts.path or '/'}{'?' * bool(parts.query)}{parts.query}"


def microseconds(date: str | None) -> int:
    """Since 1970; a document without a date is older than any other."""
    try:
        moment = datetime.fromisoformat(str(date))
    except ValueError:
        return _NO_DATE
    moment = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
    return round(moment.timestamp() * 1e6)


def _text(date: int) -> str | None:
    return None if date == _NO_DATE else str(np.datetime64(date, "us"))


class UrlDedup(Barrier):
    name = "url_dedup"

    def collect(self) -> BarrierStep:
        return _Collect(self.context.folder)

    def between(self) -> list[Pass]:
        return [Pass("find older versions", [_FindOlder(self.context.folder)], self.context.tasks)]

    def decide(self) -> tables.Decision:
        return _Newest(self.settings, self.context)


class _Collect(BarrierStep):
    name = "URLs"

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> None:
        runs = tables.Runs(self.folder / "urls", rank, _SEEN)
        for place, document in enumerate(data):
            if url := document.metadata.get("url"):
                runs.add([(hash_text(normal_url(str(url))), microseconds(document.metadata.get("date")), rank, place)])
        runs.flush()


class _FindOlder(BarrierStep):
    """A task looks at one range of the hashes."""

    name = "older versions"

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> None:
        older = [np.zeros(0, _OLDER)]
        for seen in tables.merged(tables.runs_of(self.folder / "urls"), rank, world_size):
            seen = seen[np.lexsort((seen["document"], seen["file"], -1 - seen["date"], seen["hash"]))]  # -1 - x: all values have one
            firsts = tables.groups(seen)
            newest = np.repeat(seen["date"][firsts], np.diff(np.r_[firsts, len(seen)]))
            rows = np.zeros(len(seen), _OLDER)
            rows["file"], rows["document"], rows["newest"] = seen["file"], seen["document"], newest
            older.append(np.delete(rows, firsts))
        tables.write_rows(self.folder / "older" / f"{rank:06d}.npy", np.concatenate(older))


class _Newest(tables.Decision):
    name = UrlDedup.name

    def start(self, rank: int) -> None:
        self.older = tables.rows_of(self.context.folder / "older", rank)

    def judge(self, document: Document) -> Verdict:
        newest = tables.value_of(self.older, self.place, "newest")
        if newest is None:
            return KEEP
        return Verdict(False, document.metadata.get("date"), _text(newest), "older version of a URL")
