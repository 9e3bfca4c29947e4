"""What an evaluation found: as JSON, as a page of HTML, as a table in the terminal."""

from llmdata.page import figure, number, safe, table, whole
from llmdata.row_display import terminal_width

from .charts import Rates, trade_off
from .run import Result
from .safety import MEASURES
from .statistics import paired_p
from .suite import Task
from .task import Score

SIGNIFICANT = 0.05
NOT_ASKED = Score(None)
EXAMPLES = 6  # of a task
MOST_TEXT = 1500  # characters of a text in the page
STYLE = """
.example { margin: 0 0 .9rem; padding: .5rem .7rem; background: var(--block); break-inside: avoid; }
.example > p { margin: 0 0 .3rem; } .example table { margin: .4rem 0 0; } .example th:nth-child(2) { width: 100%; }
"""


def collect(models: list[str], tasks: list[Task], results: list[Result], trained: dict[str, set[str]] | None = None) -> dict:
    """All that the report shows, as results.json has it. trained: keys of the items that stand in training texts, by task."""
    by_place = {(result.task.name, result.model): result for result in results}
    rows = []
    for task in tasks:
        found = {model: by_place[task.name, model] for model in models}
        rows.append({"name": task.name, "kind": task.settings["kind"], "metric": task.kind.metric,
                     "unit": task.kind.unit, "items": len(task.items),
                     "duplicates": task.duplicates, "settings": task.settings,
                     "models": {model: result.summary() for model, result in found.items()},
                     "pairs": _pairs(found), "examples": _examples(task, found)})  # fmt: skip
        if trained is not None:
            rows[-1]["contamination"] = _with_and_without(task, found, trained[task.name])
    judges = [result.summary() for task in tasks if task.judge for result in results if result.task is task.judge]
    return {"models": models, "tasks": rows, "judges": judges}


def _with_and_without(task: Task, found: dict[str, Result], trained: set[str]) -> dict:
    """The scores of the items that stand in the training texts, and of the others."""
    parts = {"found": trained, "others": {item.key for item in task.items} - trained}
    return {"items": len(trained), "models": {model: {name: result.summary(keys) for name, keys in parts.items()}
                                              for model, result in found.items()}}  # fmt: skip


def _pairs(found: dict[str, Result]) -> list[dict]:
    """Every two models, on the items that both have counted."""
    names, pairs = list(found), []
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            ours, theirs = found[one].counted(), found[other].counted()
            both = [key for key in ours if key in theirs]
            if both:
                p = paired_p([ours[key] for key in both], [theirs[key] for key in both])
                difference = sum(theirs[key] - ours[key] for key in both) / len(both)
                pairs.append({"models": [one, other], "items": len(both), "difference": difference, "p": p})
    return pairs


def _examples(task: Task, found: dict[str, Result]) -> list[dict]:
    """The first item of each way in which the models are right and wrong."""
    shown: dict[tuple, dict] = {}
    for item in task.items:
        scores = {model: result.scores.get(item.key, NOT_ASKED) for model, result in found.items()}
        way = tuple(score.value is not None and score.value >= 0.5 for score in scores.values())
        said = {model: result.said[item.key] for model, result in found.items() if item.key in result.said}
        if said and len(shown) < EXAMPLES:
            answers = {model: {"text": text, "score": scores[model].value, "note": scores[model].note}
                       for model, text in said.items()}  # fmt: skip
            example = {"place": item.place, "asked": item.asked, "right": task.kind.right(item), "answers": answers}
            shown.setdefault(way, example)
    return list(shown.values())


def score_text(summary: dict) -> str:
    if summary["score"] is None:
        return "–"
    scale, digits = _scale(summary["unit"])
    half = "" if summary["interval"] is None else f" ± {scale * summary['interval']:.{digits}f}"
    return f"{scale * summary['score']:.{digits}f}{half}"


def _measure(task: dict) -> str:
    return f"{task['metric']}, {task['unit']}" if task["unit"] else task["metric"]


def _scale(unit: str) -> tuple[int, int]:
    """(factor, digits) of numbers in this unit."""
    return (100, 1) if unit == "%" else (1, 3)


def print_table(found: dict) -> None:
    """With models as columns, or as rows where that is too wide for the terminal."""
    models = found["models"]
    rows = [["", *(model[:14] for model in models), ""]]
    for task in found["tasks"]:
        rows.append([task["name"], *(f"{score_text(task['models'][model]):>14}" for model in models), _measure(task)])
    if sum(_widths(rows)) + 2 * len(models) + 2 > terminal_width():
        rows = list(zip(*rows, strict=True))
    first, *others = _widths(rows)
    for name, *cells in rows:
        print(f"{name:{first}}  {'  '.join(f'{cell:>{width}}' for cell, width in zip(cells, others))}".rstrip())


def _widths(rows: list) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def page(found: dict, title: str) -> str:
    parts = [scores(found), _trade_offs(found), differences(found), _contamination(found), judges(found), _lost(found),
             _examples_shown(found), _settings(found)]  # fmt: skip
    below = "Scores in % with half of their 95 % interval, 1.96·√(S(1−S)/N). Nothing was sent anywhere."
    return whole(title, title, safe(below), "".join(parts), STYLE)


def scores(found: dict) -> str:
    rows = []
    for task in found["tasks"]:
        rows.append([f"<b>{safe(task['name'])}</b>", safe(task["metric"]), str(task["items"]),
                     *(safe(score_text(task["models"][model])) for model in found["models"])])  # fmt: skip
        for measure in sorted({name for summary in task["models"].values() for name in summary["parts"]}):
            values = [task["models"][model]["parts"].get(measure) for model in found["models"]]
            scale, _ = _scale(task["unit"])
            rows.append(["", safe(measure), "", *("–" if value is None else number(scale * value, 3) for value in values)])
    head = ["task", "measure", "items", *map(safe, found["models"])]
    return "<h2>Scores</h2>" + table(head, rows, numbers=tuple(range(2, len(head))))


def _trade_offs(found: dict) -> str:
    """Of every task of violations and every one of false refusals in the suite."""
    tasks = [task for task in found["tasks"] if task["kind"] == "safety"]
    violations, refusals = ([task for task in tasks if task["settings"]["measure"] == name] for name in MEASURES)
    parts = []
    for one in violations:
        for other in refusals:
            rates = {model: [_rate(task["models"][model]) for task in (one, other)] for model in found["models"]}
            points = [Rates(model, *pair) for model, pair in rates.items() if None not in pair]
            if points:
                parts.append(figure(f"{one['name']} against {other['name']}", trade_off(points)))
    says = '<p class="faint">A model that refuses everything violates nothing: good ones are at the bottom left.</p>'
    return f'<h2>Violations and false refusals</h2>{says}<div class="charts">{"".join(parts)}</div>' if parts else ""


def _rate(summary: dict) -> tuple[float, float] | None:
    return None if summary["score"] is None else (100 * summary["score"], 100 * (summary["interval"] or 0))


def differences(found: dict) -> str:
    rows = []
    for task in found["tasks"]:
        for pair in task["pairs"]:
            says = "unknown" if pair["p"] is None else "they differ" if pair["p"] < SIGNIFICANT else "no difference shown"
            p = "–" if pair["p"] is None else f"{pair['p']:.2g}"
            scale, digits = _scale(task["unit"])
            models, difference = " → ".join(map(safe, pair["models"])), f"{scale * pair['difference']:+.{digits}f}"
            rows.append([safe(task["name"]), models, difference, p, str(pair["items"]), says])
    if not rows:
        return ""
    says = ('<p class="faint">On the same items: McNemar\'s exact test of right and wrong answers, the paired t test of graded '
            f"ones. Of many comparisons, about one in {round(1 / SIGNIFICANT)} differs by chance.</p>")  # fmt: skip
    return "<h2>Differences</h2>" + says + table(["task", "models", "difference", "p", "items", ""], rows, numbers=(2, 3, 4))


def _contamination(found: dict) -> str:
    rows = []
    for task in found["tasks"]:
        if "contamination" in task:
            items = task["contamination"]["items"]
            for model, parts in task["contamination"]["models"].items():
                scores = (safe(score_text(summary)) for summary in (task["models"][model], parts["others"], parts["found"]))
                share = f"{items} ({100 * items / max(1, task['items']):.0f} %)"
                rows.append([safe(task["name"]), safe(model), share, *scores])
    if not rows:
        return ""
    says = '<p class="faint">Items that stand in the training texts by their runs of eight words, and scores without them.</p>'
    head = ["task", "model", "in the training texts", "all items", "without these", "only these"]
    return "<h2>Contamination</h2>" + says + table(head, rows, numbers=(2, 3, 4, 5))


def judges(found: dict) -> str:
    rows = [[safe(judge["task"]), safe(judge["model"]), safe(score_text(judge)), str(judge["items"]),
             safe(", ".join(f"{name}: {100 * value:.1f}" for name, value in judge["parts"].items()))]
            for judge in found["judges"]]  # fmt: skip
    if not rows:
        return ""
    says = '<p class="faint">How often the judges err on labelled answers: no score is more certain than its judge.</p>'
    return "<h2>Judges</h2>" + says + table(["task", "judge", "error, %", "answers", "of which, %"], rows, numbers=(2, 3))


def _lost(found: dict) -> str:
    rows = []
    for task in found["tasks"]:
        if task["duplicates"]:
            rows.append([safe(task["name"]), "", f"{task['duplicates']} items stand in the file again; counted once"])
        for model, summary in task["models"].items():
            if summary["fault"]:
                rows.append([safe(task["name"]), safe(model), f"not asked: {safe(summary['fault'])}"])
            for why, count in summary["not_counted"].items():
                rows.append([safe(task["name"]), safe(model), f"{count} not counted: {safe(why)}"])
    return "<h2>Not counted</h2>" + (table(["task", "model", "what"], rows) if rows else "<p>Every item counts.</p>")


def _examples_shown(found: dict) -> str:
    parts = []
    for task in found["tasks"]:
        if task["examples"]:
            shown = "".join(map(_example, task["examples"]))
            parts.append(f"<details><summary>{safe(task['name'])}</summary>{shown}</details>")
    says = '<p class="faint">The first item of each way in which the models are right and wrong, with their first answers.</p>'
    return "<h2>Examples</h2>" + says + "".join(parts) if parts else ""


def _example(example: dict) -> str:
    asked = example["asked"]
    asked = asked if len(asked) <= MOST_TEXT else "…" + asked[-MOST_TEXT:]  # the question stands at the end
    rows = []
    for model, answer in example["answers"].items():
        score = "not counted" if answer["score"] is None else number(100 * answer["score"], 3)
        note = f'<p class="text faint">{safe(answer["note"], MOST_TEXT)}</p>' if answer["note"] else ""
        rows.append([safe(model), f'<div class="text">{safe(answer["text"], MOST_TEXT)}</div>{note}', score])
    right = f'<p class="text"><b>Right:</b> {safe(example["right"], MOST_TEXT)}</p>' if example["right"] else ""
    head = f'<p class="text faint">{safe(example["place"])}</p><p class="text">{safe(asked)}</p>{right}'
    return f'<div class="example">{head}{table(["model", "answer", "score"], rows, numbers=(2,))}</div>'


def _settings(found: dict) -> str:
    rows = []
    for task in found["tasks"]:
        said = ", ".join(f"{name} {value}" for name, value in task["settings"].items() if name != "name")
        rows.append([safe(task["name"]), safe(said)])
    return "<h2>Settings</h2>" + table(["task", "settings"], rows)
