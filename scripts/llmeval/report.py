"""What an evaluation found: as JSON, as a page of HTML, as a table in the terminal."""

from html import escape

from llmdata.page import number, table, whole

from .run import Result
from .statistics import paired_p
from .suite import Task

SIGNIFICANT = 0.05


def collect(models: list[str], tasks: list[Task], results: list[Result]) -> dict:
    """All that the report shows, as results.json has it."""
    by_place = {(result.task, result.model): result for result in results}
    rows = []
    for task in tasks:
        found = {model: by_place[task.name, model] for model in models}
        rows.append({"name": task.name, "kind": task.settings["kind"], "metric": task.kind.metric, "items": len(task.items),
                     "duplicates": task.duplicates, "settings": task.settings,
                     "models": {model: result.summary() for model, result in found.items()},
                     "pairs": _pairs(found)})  # fmt: skip
    judges = [result.summary() for task in tasks if task.judge for result in results if result.task == task.judge.name]
    return {"models": models, "tasks": rows, "judges": judges}


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


def score_text(summary: dict) -> str:
    if summary["score"] is None:
        return "–"
    half = "" if summary["interval"] is None else f" ± {100 * summary['interval']:.1f}"
    return f"{100 * summary['score']:.1f}{half}"


def print_table(found: dict) -> None:
    width = max(len(task["name"]) for task in found["tasks"])
    print(f"{'':{width}}  {'  '.join(f'{model[:14]:>14}' for model in found['models'])}")
    for task in found["tasks"]:
        cells = "  ".join(f"{score_text(task['models'][model]):>14}" for model in found["models"])
        print(f"{task['name']:{width}}  {cells}  {task['metric']}, %")


def page(found: dict, title: str) -> str:
    parts = [_scores(found), _differences(found), _judges(found), _lost(found), _settings(found)]
    below = "Scores in % with half of their 95 % interval, 1.96·√(S(1−S)/N). Nothing was sent anywhere."
    return whole(title, title, escape(below), "".join(parts))


def _scores(found: dict) -> str:
    rows = []
    for task in found["tasks"]:
        rows.append([f"<b>{escape(task['name'])}</b>", escape(task["metric"]), str(task["items"]),
                     *(escape(score_text(task["models"][model])) for model in found["models"])])  # fmt: skip
        for measure in sorted({name for summary in task["models"].values() for name in summary["parts"]}):
            values = [task["models"][model]["parts"].get(measure) for model in found["models"]]
            rows.append(["", escape(measure), "", *("–" if value is None else number(100 * value, 3) for value in values)])
    head = ["task", "measure", "items", *map(escape, found["models"])]
    return "<h2>Scores</h2>" + table(head, rows, numbers=tuple(range(2, len(head))))


def _differences(found: dict) -> str:
    rows = []
    for task in found["tasks"]:
        for pair in task["pairs"]:
            says = "unknown" if pair["p"] is None else "they differ" if pair["p"] < SIGNIFICANT else "no difference shown"
            p = "–" if pair["p"] is None else f"{pair['p']:.2g}"
            models, difference = " → ".join(map(escape, pair["models"])), f"{100 * pair['difference']:+.1f}"
            rows.append([escape(task["name"]), models, difference, p, str(pair["items"]), says])
    if not rows:
        return ""
    says = ('<p class="faint">On the same items: McNemar\'s exact test of right and wrong answers, the paired t test of graded '
            f"ones. Of many comparisons, about one in {round(1 / SIGNIFICANT)} differs by chance.</p>")  # fmt: skip
    return "<h2>Differences</h2>" + says + table(["task", "models", "difference", "p", "items", ""], rows, numbers=(2, 3, 4))


def _judges(found: dict) -> str:
    rows = [[escape(judge["task"]), escape(judge["model"]), escape(score_text(judge)), str(judge["items"]),
             escape(", ".join(f"{name}: {100 * value:.1f}" for name, value in judge["parts"].items()))]
            for judge in found["judges"]]  # fmt: skip
    if not rows:
        return ""
    says = '<p class="faint">How often the judges err on labelled answers: no score is more certain than its judge.</p>'
    return "<h2>Judges</h2>" + says + table(["task", "judge", "error, %", "answers", "of which, %"], rows, numbers=(2, 3))


def _lost(found: dict) -> str:
    rows = []
    for task in found["tasks"]:
        if task["duplicates"]:
            rows.append([escape(task["name"]), "", f"{task['duplicates']} items stand in the file again; counted once"])
        for model, summary in task["models"].items():
            if summary["fault"]:
                rows.append([escape(task["name"]), escape(model), f"not asked: {escape(summary['fault'])}"])
            for why, count in summary["not_counted"].items():
                rows.append([escape(task["name"]), escape(model), f"{count} not counted: {escape(why)}"])
    return "<h2>Not counted</h2>" + (table(["task", "model", "what"], rows) if rows else "<p>Every item counts.</p>")


def _settings(found: dict) -> str:
    rows = []
    for task in found["tasks"]:
        said = ", ".join(f"{name} {value}" for name, value in task["settings"].items() if name != "name")
        rows.append([escape(task["name"]), escape(said)])
    return "<h2>Settings</h2>" + table(["task", "settings"], rows)
