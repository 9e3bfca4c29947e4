"""Writes one page of HTML about a run: what each step was given, dropped and only just kept. It needs no other file and no network.

Everything that comes from pages is escaped, freed of control characters and kept from reversing the writing around it.
"""

import json
from collections import Counter
from pathlib import Path

from llmdata import shares
from llmdata.page import is_number, number, safe, table, whole
from llmdata.progress import duration
from llmdata.shares import bar, count, share

from .counts import OTHERS, Counts

MOST_ROWS = 40  # languages, domains, reasons or names in a table
MOST_URL = 300  # characters
UNKNOWN = "(not known)"
STYLE = shares.STYLE + """
.step { border-bottom: 1px solid var(--thin-line); padding: .5rem 0; } .step > summary { font-weight: 600; }
.step summary .faint { font-weight: normal; }
.sides { display: grid; grid-template-columns: 1fr 1fr; gap: 0 1.6rem; } .sides > div { min-width: 0; }
h3 { font-size: .95rem; margin: 1rem 0 .3rem; } h4 { font-size: .9rem; margin: .8rem 0 .3rem; }
.example { margin: 0 0 .8rem; padding: .5rem .7rem; background: var(--block); border-left: 3px solid var(--bar); overflow: hidden; }
.dropped .example { border-left-color: var(--lost); }
.example p { margin: 0 0 .3rem; font-size: .85rem; overflow-wrap: anywhere; } .example .text { max-height: 11rem; overflow: auto; }
bdi { overflow-wrap: anywhere; }
@media (max-width: 48rem) { .sides { grid-template-columns: minmax(0, 1fr); } }
"""


def write(path: Path, title: str, settings: dict, steps: dict[str, Counts], seconds: float, found: dict | None = None) -> None:
    """`steps` are in the order in which they ran; `seconds` is what the run took by the clock; `found` is of `read_clusters`."""
    path.write_text(html(title, settings, steps, seconds, found), encoding="utf-8")


def html(title: str, settings: dict, steps: dict[str, Counts], seconds: float, found: dict | None = None) -> str:
    work = sum(counts.seconds for counts in steps.values())
    below = f"{len(steps)} steps, {duration(seconds)} by the clock, {duration(work)} of work in the steps"
    parts = [funnel(steps), groups(steps, "language"), groups(steps, "domain"), counters(steps), clusters(found), examples(steps),
             times(steps), f"<h2>Settings</h2><pre>{safe(json.dumps(settings, indent=1, ensure_ascii=False))}</pre>"]  # fmt: skip
    return whole(title, f"Curation: {title}", below, "".join(parts), STYLE)


def foreign(text: object, most: int = MOST_URL) -> str:
    """Foreign text within a line."""
    return f"<bdi>{safe(text, most)}</bdi>"


# ---- parts of the page


def funnel(steps: dict[str, Counts]) -> str:
    """What is left before the first step and after each."""
    if not steps:
        return "<h2>Funnel</h2><p>No step ran.</p>"
    sizes = {"read": next(iter(steps.values())).total["in"]} | {name: counts.total["out"] for name, counts in steps.items()}
    return "<h2>Funnel</h2>" + shares.funnel(sizes)


def groups(steps: dict[str, Counts], group: str) -> str:
    """What became of each language or domain, from the first step that knows it to the end."""
    known = [(name, counts.by[group]) for name, counts in steps.items() if any(counts.by[group].keys() - {""})]
    if not known:
        return ""
    last = known[-1][1]
    first: dict[str, list[int]] = {}
    for _, by in known:
        first = {name: sizes for name, sizes in by.items()} | first
    names = sorted(first, key=lambda name: (name == OTHERS, -first[name][0], name))
    rows = []
    for name in names[:MOST_ROWS]:
        before, after = first[name], last.get(name, [0] * 6)
        rows.append([foreign(name or UNKNOWN), count(before[0]) + bar(before[0], first[names[0]][0]),
                     f"{count(after[3])} <span class=faint>{share(after[3], before[0])}</span>", count(after[4]),
                     lost_most(known, name)])  # fmt: skip
    more = f"<p class=faint>The first {MOST_ROWS} of {count(len(names))}.</p>" if len(names) > MOST_ROWS else ""
    head = [group, "documents", "left", "tokens left", "most lost by"]
    return f"<h2>By {group}</h2>" + table(head, rows, "shares", (1, 2, 3)) + more


def lost_most(known: list[tuple[str, dict[str, list[int]]]], group: str) -> str:
    lost = Counter({step: by[group][0] - by[group][3] for step, by in known if group in by})
    name, documents = lost.most_common(1)[0]
    return f"{safe(name)} <span class=faint>{count(documents)}</span>" if documents else ""


def counters(steps: dict[str, Counts]) -> str:
    """What steps count besides: topics, kinds of personal data, ... A counter `table/row` is a row of a table."""
    parts = []
    for step, counts in steps.items():
        tables: dict[str, dict[str, float]] = {}
        for key, value in counts.counters.items():
            name, slash, row = key.partition("/")
            tables.setdefault(name if slash else "", {})[row if slash else name] = value
        parts += [f"<h3>{safe(step)}{': ' if name else ''}{safe(name)}</h3>{counter_table(name, rows)}" for name, rows in tables.items()]
    return "<h2>Topics, sizes of clusters and other counts</h2>" + "".join(parts) if parts else ""


def counter_table(name: str, rows: dict[str, float]) -> str:
    """Rows whose names are numbers are in their order, others by their counts. Without a name they are no parts of a whole."""
    numbers = all(row.isdigit() for row in rows)
    order = sorted(rows, key=(lambda row: int(row)) if numbers else (lambda row: (-rows[row], row)))
    total = sum(rows.values())
    shown = [[foreign(row), count(rows[row]), *([share(rows[row], total) + bar(rows[row], max(rows.values()))] if name else [])]
             for row in order[:MOST_ROWS]]  # fmt: skip
    more = f"<p class=faint>and {count(len(order) - MOST_ROWS)} more</p>" if len(order) > MOST_ROWS else ""
    return table([safe(name), "count", *(["share"] if name else [])], shown, "shares", (1, 2)) + more


def clusters(found: dict | None) -> str:
    """The largest clusters of documents that stand for the same text; how many there are of each size, the step has counted."""
    if not found or not found["largest"]:
        return ""
    largest = [f'<details class="step"><summary>{count(cluster["size"])} documents <span class=faint>'
               f'{foreign(cluster["members"][0]["url"] or cluster["members"][0]["id"])}</span></summary>'
               f'{"".join(map(member, cluster["members"]))}</details>' for cluster in found["largest"] if cluster["members"]]  # fmt: skip
    return f"<h2>The largest clusters of duplicates</h2>{''.join(largest)}"


def member(item: dict) -> str:
    return example({"reason": "similarity", "value": item["jaccard"], "threshold": None, "language": None, **item})


def examples(steps: dict[str, Counts]) -> str:
    return "<h2>What each step dropped and only just kept</h2>" + "".join(step_part(*step) for step in steps.items())


def step_part(name: str, counts: Counts) -> str:
    given, left = counts.total["in"][0], counts.total["out"][0]
    changed = f", {count(counts.changes)} changes in {count(counts.changed)} documents" if counts.changes else ""
    head = f"{safe(name)} <span class=faint>{count(given - left)} of {count(given)} dropped, {share(given - left, given)}{changed}</span>"
    reasons = [[foreign(reason), count(n), share(n, given)] for reason, n in counts.reasons.most_common(MOST_ROWS)]
    kept = [item for item in counts.kept.items if item["value"] is not None] or counts.kept.items
    parts = [table(["dropped because of", "documents", "of those in"], reasons, "shares", (1, 2)) if reasons else "", faults(counts),
             '<div class="sides">', side("Dropped, drawn at random", "dropped", counts.dropped.items),
             side("Kept, closest to the threshold", "kept", kept), "</div>"]  # fmt: skip
    return f'<details class="step"><summary>{head}</summary>{"".join(parts)}</details>'


def faults(counts: Counts) -> str:
    rows = [[foreign(reason), count(fault["count"]), "<br>".join(foreign(name) for name in fault["names"])]
            for reason, fault in counts.faults.items()]  # fmt: skip
    return table(["could not be read or judged", "count", "for instance"], rows, numbers=(1,)) if rows else ""


def side(title: str, kind: str, items: list[dict]) -> str:
    return f'<div class="{kind}"><h4>{title}</h4>{"".join(map(example, items)) or "<p class=faint>none</p>"}</div>'


def example(item: dict) -> str:
    facts = [(item["reason"], "{}"), (item["value"], "value {}"), (item["threshold"], "threshold {}"), (item["language"], "{}")]
    line = ", ".join(form.format(foreign(number(value) if is_number(value) else value)) for value, form in facts if value not in (None, ""))
    return (f'<div class="example"><p><b>{line}</b><br><span class="faint">{foreign(item["url"] or item["id"])}</span></p>'
            f'<div class="text" dir="auto">{safe(item["excerpt"])}</div></div>')  # fmt: skip


def times(steps: dict[str, Counts]) -> str:
    most = max((counts.seconds for counts in steps.values()), default=0)
    rows = [[safe(name), duration(counts.seconds) + bar(counts.seconds, most),
             count(counts.total["in"][0] / counts.seconds) if counts.seconds else "–"] for name, counts in steps.items()]  # fmt: skip
    return "<h2>Time by step</h2>" + table(["step", "work of one process", "documents/s"], rows, "shares", (1, 2))
