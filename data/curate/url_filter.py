"""Drops documents by their URL: datatrove's lists of domains and words, and lists of the user's."""

import os
import tarfile
from pathlib import Path
from typing import Iterable
from urllib.parse import urlsplit

import numpy as np
import xxhash
from datatrove.data import Document
from datatrove.utils._import_utils import ASSETS_PATH
from datatrove.pipeline.filters import url_filter as datatrove_urls
from huggingface_hub import cached_assets_path
from tldextract import TLDExtract

from llmdata.errors import InputError

from .step import KEEP, Context, Filter, Verdict

ARCHIVE = "url_filterblacklistsv0_3_0.tar.gz"


class HashedSet:
    """A set of texts as their sorted 64-bit hashes: eight bytes each, mapped from a file that all processes share."""

    def __init__(self, path: Path, texts: Iterable[bytes]):
        if not path.exists():
            hashes = np.unique(np.fromiter((xxhash.xxh64_intdigest(text) for text in texts), np.uint64))
            partial = path.with_name(f"{path.name}.{os.uname().nodename}.{os.getpid()}")
            with partial.open("wb") as file:
                np.save(file, hashes)
            partial.replace(path)
        self.hashes = np.load(path, mmap_mode="r")

    def __len__(self) -> int:
        return len(self.hashes)

    def __contains__(self, text: str) -> bool:
        hash = np.uint64(xxhash.xxh64_intdigest(text.encode("utf-8", "surrogatepass")))
        place = np.searchsorted(self.hashes, hash)
        return bool(place < len(self.hashes) and self.hashes[place] == hash)


def _packaged(name: str) -> Iterable[bytes]:
    with tarfile.open(os.path.join(ASSETS_PATH, ARCHIVE)) as archive:
        for line in archive.extractfile(name):
            yield line.strip()


def _listed(path: Path) -> Iterable[bytes]:
    """Entries of a user's list: one a line, # begins a comment; in any case, with or without scheme and trailing slash."""
    with path.open("rb") as file:
        for line in file:
            entry = line.split(b"#")[0].strip().lower()
            if entry:
                yield entry.split(b"://")[-1].rstrip(b"/")


class UrlFilter(Filter):
    """A user's list has domains, which stand for their subdomains too, or URLs. A document without a URL stays."""

    name = "url_filter"
    SCHEMA = {"properties": {
        "lists": {"type": "object", "additionalProperties": {"type": "string", "minLength": 1}, "default": {},
                  "description": "name of a list (adult, high_pii, ...): its file, a domain or URL a line"},
        "packaged": {"type": "boolean", "default": True,
                     "description": "datatrove's lists too: adult and harmful domains, words that URLs of such pages have"},
        "soft_words": {"type": "integer", "minimum": 1, "default": 2, "description": "so many suspicious words drop a page"},
    }}  # fmt: skip

    def __init__(self, settings: dict, context: Context):
        super().__init__(settings, context)
        for name, path in settings["lists"].items():
            if not Path(path).is_file():
                raise InputError(f"steps.url_filter.lists.{name}: found no file {path}, expected a list of domains, one a line")

    def start(self, rank: int) -> None:
        self.context.folder.mkdir(parents=True, exist_ok=True)
        self.lists = {name: HashedSet(self.context.folder / f"list_{number}.npy", _listed(Path(path)))
                      for number, (name, path) in enumerate(self.settings["lists"].items())}  # fmt: skip
        self.packaged = self._packaged_filter() if self.settings["packaged"] else None

    def _packaged_filter(self) -> datatrove_urls.URLFilter:
        """datatrove's filter with its lists, but the large ones hashed: as Python sets, they would fill a gigabyte."""
        words = {name: datatrove_urls.get_list(ASSETS_PATH, f"{name}.txt", set())
                 for name in ("banned_words", "soft_banned_words", "banned_subwords")}  # fmt: skip
        own = datatrove_urls.URLFilter(self.settings["soft_words"], use_integrated_lists=False, **words)
        cache = cached_assets_path(library_name="datatrove", namespace="filters", subfolder="url_hashes")
        own.block_listed_domains = HashedSet(cache / f"{ARCHIVE}.domains.npy", _packaged("domains"))
        own.block_listed_url = HashedSet(cache / f"{ARCHIVE}.urls.npy", _packaged("urls"))
        own.tldextractor = TLDExtract(suffix_list_urls=())  # the list of suffixes in the package, no download
        return own

    def judge(self, document: Document) -> Verdict:
        url = document.metadata.get("url")
        if not url:
            return KEEP
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
        labels = host.split(".")
        names = {".".join(labels[start:]) for start in range(len(labels))}
        names.add(f"{parts.netloc}{parts.path}{'?' * bool(parts.query)}{parts.query}".lower().rstrip("/"))
        for name, listed in self.lists.items():
            found = next((entry for entry in sorted(names) if entry in listed), None)
            if found is not None:
                return Verdict(False, found, name, f"list {name}")
        verdict = self.packaged.filter(document) if self.packaged else True
        return KEEP if verdict is True else Verdict(False, host, "datatrove's lists", f"packaged: {verdict[1]}")
