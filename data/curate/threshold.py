"""How much of a sample a step keeps, by one of its thresholds, as a page with a curve and the documents that change sides.

The steps before it run on a part of the input as they would in a run. Then the step itself judges what they left, once for each value;
its other settings stay as they are.
"""

import copy
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from datatrove.data import Document

from llmdata.errors import InputError
from llmdata.page import safe, table, whole
from llmdata.progress import Progress

from . import report, statistics
from .counts import EXCERPT, hash_of, measure
from .documents import DocumentReader, DocumentWriter
from .run import Run
from .settings import check_settings
from .step import Barrier, Context, Pass
from .steps import STEPS

EVENLY, STEPS_OF_TWO = 20, (-3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3)
MOST_EXAMPLES = 5  # between two values
WIDTH, HEIGHT, LEFT, BELOW = 640, 280, 48, 40  # of the curve, in pixels


@dataclass
class Point:
    """What a step keeps with the threshold at `value`."""

    value: float
    kept: set[int]  # places in the sample
    tokens: int


class Threshold:
    """A numeric setting of a step. `name` is STEP.SETTING, or STEP where it has only one."""

    def __init__(self, settings: dict, name: str, values: list[float] | None = None):
        self.settings = settings
        self.step, dot, member = name.partition(".")
        if self.step not in settings["steps"]:
            raise InputError(f"--sample {name}: no step of this run, expected one of {', '.join(settings['steps'])}")
        numeric = {key: node for key, node in STEPS[self.step].SCHEMA["properties"].items() if {*_types(node)} & {"number", "integer"}}
        if member not in numeric and (dot or len(numeric) != 1):
            known = ", ".join(f"{self.step}.{key}" for key in numeric) or "another step: this one has no threshold"
            raise InputError(f"--sample {name}: expected one threshold, of {known}")
        self.member = member or next(iter(numeric))
        self.now = settings["steps"][self.step].get(self.member)
        self.values = sorted({*(values or self._around(numeric[self.member])), *([] if self.now is None else [self.now])})
        for value in self.values:
            self._with(value)

    def _around(self, node: dict) -> list[float]:
        """Values over the whole range where it has two ends, else around the present one."""
        if "minimum" in node and "maximum" in node and node["maximum"] <= 1:
            return [node["minimum"] + n / EVENLY * (node["maximum"] - node["minimum"]) for n in range(EVENLY + 1)]
        if self.now is None:
            raise InputError(f"--sample {self.step}.{self.member}: is not set, and has no usual range; give --values")
        found = [self.now * 2.0**power for power in STEPS_OF_TWO]
        return [round(value) for value in found if value >= 0.5] if "integer" in _types(node) else found

    def _with(self, value: float) -> dict:
        """The step's settings with this value."""
        changed = copy.deepcopy(self.settings)
        changed["steps"][self.step][self.member] = int(value) if float(value).is_integer() else value
        return check_settings(changed, "--values")["steps"][self.step]

    def points(self, documents: list[Document]) -> list[Point]:
        progress, found = Progress(f"judge {self.step}", len(self.values), " values"), []
        for value in self.values:
            with tempfile.TemporaryDirectory() as folder:
                context = Context(Path(folder), 1, self.settings["seed"], self.settings["executor"]["document_seconds"])
                found.append(judge(STEPS[self.step](self._with(value), context), documents, value))
            progress.add()
        progress.finish(f"{len(documents):,} documents, {len(self.values)} values")
        return found


def _types(node: dict) -> list[str]:
    return node["type"] if isinstance(node.get("type"), list) else [node.get("type")]


def judge(step, documents: list[Document], value: float) -> Point:
    """In this process, and in one task."""
    copies = copy.deepcopy(documents)
    places = {id(document): place for place, document in enumerate(copies)}
    for document in copies:
        document.metadata[DocumentReader.PLACE] = places[id(document)]
    if isinstance(step, Barrier):
        for work in [Pass("collect", [step.collect()], 1), *step.between()]:
            for rank in range(work.tasks):
                for block in work.pipeline:
                    list(block.run(iter(copies), rank, work.tasks) or ())
        step = step.decide()
    kept = list(step.run(iter(copies)))
    return Point(value, {places[id(document)] for document in kept}, sum(measure(document)[1] for document in kept))


class _Before(Run):
    """The steps before one. What they leave stays as they leave it."""

    def passes(self) -> list[Pass]:
        passes = super().passes()
        passes[-1].pipeline[-1] = DocumentWriter(self.work / "sample", statistics.OUTPUT)
        return passes

    def documents(self) -> list[Document]:
        reader = DocumentReader(self.work, self.work / "sample")
        return [document for rank in range(self.tasks) for document, _ in reader.read(rank, 1)]


def sample(threshold: Threshold, count: int) -> list[Document]:
    """What the steps before leave of the first documents of all tasks, `count` in all."""
    settings = copy.deepcopy(threshold.settings)
    before = [name for name in STEPS if name in settings["steps"]]
    settings["steps"] = {name: settings["steps"][name] for name in before[: before.index(threshold.step)]}
    folder = Path(settings["output"]["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    settings["output"]["folder"] = tempfile.mkdtemp(prefix="sample.", dir=folder)
    try:
        run = _Before(settings, count)
        run.begin(overwrite=False)
        run.run()
        return run.documents()
    finally:
        shutil.rmtree(settings["output"]["folder"])


# ---- the page


def html(threshold: Threshold, documents: list[Document], points: list[Point]) -> str:
    tokens = sum(measure(document)[1] for document in documents)
    rows = [[f"<b>{p.value:.4g}</b> now" if p.value == threshold.now else f"{p.value:.4g}", report.count(len(p.kept)),
             report.share(len(p.kept), len(documents)), report.count(p.tokens), report.share(p.tokens, tokens)] for p in points]  # fmt: skip
    name = f"{threshold.step}.{threshold.member}"
    head = [safe(name), "documents kept", "share", "tokens kept", "share"]
    body = curve(points, len(documents), tokens, threshold.now) + table(head, rows, "shares", (1, 2, 3, 4))
    changes = "".join(between(documents, *pair) for pair in zip(points, points[1:]))
    below = f"{len(documents):,} documents that the steps before leave, {tokens:,} tokens; a sample"
    return whole(name, f"Threshold: {name}", below, f"{body}<h2>Documents that change sides</h2>{changes or 'none'}", report.STYLE + STYLE)


STYLE = """
.curve { max-width: 42rem; width: 100%; height: auto; } .curve text { fill: var(--faint); font-size: 12px; }
.curve polyline { fill: none; stroke-width: 2; } .curve line { stroke: var(--line); }
"""


def curve(points: list[Point], documents: int, tokens: int, now: float | None) -> str:
    """The kept share of documents (first colour) and of tokens over the threshold, as SVG."""
    low, high = points[0].value, points[-1].value

    def x(value: float) -> float:
        return LEFT + (value - low) / ((high - low) or 1) * (WIDTH - LEFT - 16)

    def y(share: float) -> float:
        return 12 + (1 - share) * (HEIGHT - BELOW - 12)

    lines = "".join(f'<line x1="{LEFT}" x2="{WIDTH - 16}" y1="{y(s)}" y2="{y(s)}"/><text x="{LEFT - 8}" y="{y(s) + 4}" text-anchor="end">'
                    f"{100 * s:.0f} %</text>" for s in (0, 0.25, 0.5, 0.75, 1))  # fmt: skip
    ticks = "".join(f'<text x="{x(value):.1f}" y="{HEIGHT - BELOW + 18}" text-anchor="middle">{value:.3g}</text>'
                    for value in (low, (low + high) / 2, high))  # fmt: skip
    if now is not None:
        lines += (f'<line x1="{x(now):.1f}" x2="{x(now):.1f}" y1="12" y2="{HEIGHT - BELOW}" style="stroke: var(--faint)"/>'
                  f'<text x="{x(now) + 4:.1f}" y="{HEIGHT - BELOW - 6}">now {now:.4g}</text>')  # fmt: skip
    drawn = "".join(f'<polyline style="stroke: var({colour})" points="{" ".join(f"{x(p.value):.1f},{y(part(p)):.1f}" for p in points)}"/>'
                    for colour, part in (("--lost", lambda p: p.tokens / max(1, tokens)), ("--bar", lambda p: len(p.kept) / max(1, documents))))
    legend = (f'<text x="{LEFT}" y="{HEIGHT - 4}"><tspan style="fill: var(--bar)">kept documents</tspan>'
              f'<tspan dx="16" style="fill: var(--lost)">kept tokens</tspan></text>')  # fmt: skip
    return f'<svg class="curve" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="kept share">{lines}{ticks}{drawn}{legend}</svg>'


def between(documents: list[Document], one: Point, other: Point) -> str:
    changed = sorted(one.kept ^ other.kept, key=lambda place: hash_of(documents[place].id))
    if not changed:
        return ""
    parts = [report.example({"reason": f"kept at {(one if place in one.kept else other).value:.4g} alone", "value": None, "threshold": None,
                             "language": documents[place].metadata.get("language"), "url": documents[place].metadata.get("url"),
                             "id": documents[place].id, "excerpt": documents[place].text[:EXCERPT]})
             for place in changed[:MOST_EXAMPLES]]  # fmt: skip
    head = f"{one.value:.4g} to {other.value:.4g} <span class=faint>{report.count(len(changed))} documents</span>"
    return f'<details class="step"><summary>{head}</summary>{"".join(parts)}</details>'
