#!/usr/bin/env python3
"""Documents per second of data/curate.py beside datatrove's own example pipeline, on the same pages, on one core.

    pip install "trafilatura<1.12" lxml_html_clean warcio faust-cchardet python-magic
    dev/bench/curate_speed.py [--pages 2000] [--html FOLDER...] [--rounds 3] [--json FILE]

Pages are those of planted_web.py, and HTML files of the folders; all are packed into one WARC file. The example (FineWeb's,
without its download) reads WARC, filters URLs, extracts by trafilatura, identifies languages, applies the rules of Gopher, C4 and
FineWeb, and removes near duplicates by MinHash. Ours has the same steps; its extraction is another one, its counts and examples
come on top. Both run in turns. Seconds are of the processor, of all processes, and of the clock.
"""

import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

from machine import ROOT, describe
from planted_web import Page, Web

LANGUAGES = ["de", "en", "es", "fr"]
STEPS = {"url_filter": {}, "extract": {}, "language": {"languages": LANGUAGES}, "gopher_repetition": {}, "gopher_quality": {},
         "c4": {}, "fineweb": {}, "minhash": {}}  # fmt: skip


def write_input(path: pathlib.Path, pages: int, folders: list[str]) -> int:
    web = Web(1, pages)
    files = [file for folder in folders for file in sorted(pathlib.Path(folder).rglob("*.html")) if file.is_file()]
    web.pages += [Page("file", None, f"https://docs.example.org{file}", "2024-01-01", [], html=file.read_bytes()) for file in files]
    web.write_warc(path)
    return len(web.pages)


def run_peer(warc: pathlib.Path, folder: pathlib.Path) -> None:
    """datatrove's examples/fineweb.py, in one task and one process."""
    sys.path.insert(0, str(ROOT / "data"))
    from curate.language import PackagedModel
    from datatrove.executor.local import LocalPipelineExecutor
    from datatrove.pipeline import dedup, extractors, filters, readers, writers
    from datatrove.utils.lid import FT176LID
    from loguru import logger

    logger.remove()
    FT176LID.model = property(lambda self: self.__dict__.setdefault("packaged", PackagedModel().model))  # instead of a download
    filtered, signatures, remove = str(folder / "filtered"), str(folder / "signatures"), str(folder / "remove")
    stages = [
        [readers.WarcReader(str(warc.parent), glob_pattern=warc.name), filters.URLFilter(),
         extractors.Trafilatura(favour_precision=True), filters.LanguageFilter(LANGUAGES), filters.GopherRepetitionFilter(), filters.GopherQualityFilter(),
         filters.C4QualityFilter(filter_no_terminal_punct=False), filters.FineWebQualityFilter(), writers.JsonlWriter(filtered)],
        [readers.JsonlReader(filtered), dedup.MinhashDedupSignature(signatures)],
        [dedup.MinhashDedupBuckets(signatures, str(folder / "buckets"))],
        [dedup.MinhashDedupCluster(str(folder / "buckets"), remove)],
        [readers.JsonlReader(filtered), dedup.MinhashDedupFilter(remove), writers.JsonlWriter(str(folder / "out"))],
    ]  # fmt: skip
    for number, pipeline in enumerate(stages):
        tasks = dedup.MinhashConfig().num_buckets if number == 2 else 1
        LocalPipelineExecutor(pipeline, tasks, workers=1, logging_dir=str(folder / f"logs{number}")).run()


def settings(warc: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    path = folder / "settings.json"
    path.write_text(json.dumps({"input": [{"paths": [str(warc)]}], "output": {"folder": str(folder / "ours")}, "steps": STEPS,
                                "executor": {"workers": 1}}))  # fmt: skip
    return path


def timed(command: list) -> tuple[float, float]:
    """Seconds of the processor and of the clock."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        sys.exit(f"curate_speed: {command[1]} failed: {done.stderr.strip()[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, time.monotonic() - begun


def compare(warc: pathlib.Path, count: int, rounds: int) -> dict:
    found: dict[str, list] = {"ours": [], "datatrove": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            found["datatrove"].append(timed([sys.executable, __file__, "--peer", warc, folder]))
            found["ours"].append(timed([sys.executable, ROOT / "data/curate.py", "--config", settings(warc, folder)]))
    result = {"pages": count, "rounds": rounds}
    for name, seconds in found.items():
        processor, clock = (statistics.median(column) for column in zip(*seconds))
        result[name] = {"processor_seconds": round(processor, 2), "clock_seconds": round(clock, 2),
                        "pages_per_core_second": round(count / processor, 1)}  # fmt: skip
        print(f"{name:10} {count / processor:8.1f} pages per second of a core ({processor:.1f} s; {clock:.1f} s by the clock)")
    result["ratio"] = round(result["datatrove"]["processor_seconds"] / result["ours"]["processor_seconds"], 2)
    print(f"ours / datatrove: {result['ratio']}")
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=2000, metavar="N", help="pages of the planted web (default: %(default)s)")
    parser.add_argument("--html", nargs="*", default=[], metavar="FOLDER", help="folders of HTML files besides")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="runs of each (default: %(default)s)")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the result here too")
    parser.add_argument("--peer", nargs=2, type=pathlib.Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        run_peer(*options.peer)
        return 0
    with tempfile.TemporaryDirectory() as name:
        warc = pathlib.Path(name) / "web.warc.gz"
        result = compare(warc, write_input(warc, options.pages, options.html), options.rounds)
    if options.json:
        options.json.write_text(json.dumps({"machine": describe(), **result}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
