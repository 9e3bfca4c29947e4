"""Writes one page of HTML about a round. It needs no other file, and all text from models and data is escaped."""

import json
import shlex
from html import escape
from pathlib import Path

from llmdata import text_file
from llmdata.messages import text_of
from llmdata.output import write_text
from llmdata.page import figure, is_number, number, table, whole
from llmdata.progress import duration
from llmtext.prompts import read_prompts

from . import charts
from .stages import ANSWER, BASE, HELD_OUT, Plan, Stage

MOST_SAMPLES = 12  # so many held-out prompts are shown


def read_lines(path: Path) -> list[dict]:
    rows = []
    for _, line, _ in text_file.read_lines(path) if path.is_file() else []:
        try:
            row = json.loads(line.decode("utf-8", errors="replace"))
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def points(log: list[dict], name: str) -> charts.Points:
    """(step, value) of one key. A step that was repeated after a stop counts once, with its last value."""
    both = [entry for entry in log if is_number(entry.get(name)) and is_number(entry.get("step"))]
    return sorted({entry["step"]: entry[name] for entry in both}.items())


def last(found: charts.Points) -> float | None:
    return found[-1][1] if found else None


class Report:
    def __init__(self, plan: Plan):
        self.plan, self.round = plan, plan.round
        self.trained = [stage for stage in plan.stages if any(step.trains for step in stage.steps)]
        self.logs = {stage.name: read_lines(stage.folder / "run" / "log.jsonl") for stage in self.trained}

    def write(self, path: Path) -> None:
        write_text(path, self.html())

    def html(self) -> str:
        name, given = str(self.round.output), self.round
        parts = [self.stages(), self.held_out(), self.sampling(), self.training(), self.settings()]
        below = f"from {escape(str(given.model))}, {escape(given.target)}, {escape(given.precision)}"
        return whole(name, f"One round of post-training: {name}", below, "".join(parts))

    # ---- parts of the page

    def stages(self) -> str:
        rows, total = [], 0.0
        for stage in self.plan.stages:
            note = read_note(stage)
            total += note.get("seconds", 0.0)
            steps = ", ".join(f"{name} {duration(step['seconds'])}" for name, step in note.get("steps", {}).items())
            rows.append([escape(stage.title), duration(note.get("seconds", 0.0)), escape(steps), *self.validation(stage)])
        rows.append(["all", duration(total), "", "", ""])
        return "<h2>Stages</h2>" + table(["stage", "time", "of it", "held-out data before", "after"], rows, numbers=(1,))

    def validation(self, stage: Stage) -> list[str]:
        if stage not in self.trained:
            return ["", ""]
        before = stage.folder / "before.txt"
        text = escape(before.read_text("utf-8", errors="replace").strip()) if before.is_file() else ""
        log = self.logs[stage.name]
        after = [f"{label} {number(last(points(log, name)))}" for label, name in
                 (("loss", "val_loss"), ("accuracy", "val_accuracy"), ("margin", "val_margin")) if points(log, name)]  # fmt: skip
        if after and not text:
            text = {"dpo": "margin 0: it is its own reference", "reward_model": "chance: its head is random"}[stage.name]
        return [f'<span class="text">{text}</span>', escape(", ".join(after))]

    def held_out(self) -> str:
        if not self.round.held_out:
            return ""
        models = [stage for stage in self.plan.stages if any(step.name == ANSWER for step in stage.steps)]
        models.sort(key=lambda stage: stage.name != BASE)
        rows = {stage.name: by_prompt(read_lines(stage.folder / HELD_OUT)) for stage in models}
        prompts = [p.messages for p in read_prompts(self.round.held_out, self.round.held_out_options.get("system"))[0]]
        return (f"<h2>Held-out prompts</h2><p>{len(prompts)} prompts that were not used in training, answered with "
                f"{escape(self._held_out_options())}.</p>"
                f"{self._mean_scores(rows)}{self._samples(prompts, rows, models[-1])}")  # fmt: skip

    def _mean_scores(self, rows: dict[str, dict]) -> str:
        scores = scores_in_common(rows)
        if not scores[BASE]:
            return ""
        names = ["before" if name == BASE else self.plan.find(name).title for name in scores]
        svg = charts.bars(names, [sum(values) / len(values) for values in scores.values()], "mean score")
        caption = f"Mean score by the reward model, stage by stage, of {len(scores[BASE])} prompts that all of them answered"
        return f'<div class="charts">{figure(caption, svg)}</div>'

    def _held_out_options(self) -> str:
        step = next(step for stage in self.plan.stages for step in stage.steps if step.name == ANSWER)
        shown = [f"{name} {step.arguments[step.arguments.index('--' + name) + 1]}" for name in ("temperature", "max-tokens")]
        return ", ".join(shown)

    def _samples(self, prompts: list[list[dict]], rows: dict[str, dict], last: Stage) -> str:
        answers = [[answer(rows[name].get(json.dumps(prompt))) for name in (BASE, last.name)] for prompt in prompts]
        shown = [[said(prompt), *both] for prompt, both in zip(prompts, answers)]
        note = f'<p class="faint">The first {MOST_SAMPLES} of {len(prompts)}.</p>' if len(prompts) > MOST_SAMPLES else ""
        return table(["prompt", "before", f"after {escape(last.title)}"], shown[:MOST_SAMPLES], "samples") + note

    def sampling(self) -> str:
        if not self.round.prompts:
            return ""
        rows = read_lines(self.plan.folder("rejection_sampling") / "best.jsonl")
        scores = [score for row in rows for score in row["scores"] if is_number(score)]
        if not scores:
            return "<h2>Rejection sampling</h2><p>No answer was chosen.</p>"
        best, pairs = [row["score"] for row in rows], read_lines(self.plan.folder("rejection_sampling") / "pairs.jsonl")
        text = (f"<h2>Rejection sampling</h2><p>{len(rows)} prompts have an answer. The mean score of {len(scores)} answers that "
                f"could be chosen is {number(sum(scores) / len(scores))}, that of the best {number(sum(best) / len(best))}. "
                f"{len(pairs)} pairs of a best and a worst answer were made.</p>")  # fmt: skip
        return text + f'<div class="charts">{figure("Scores", charts.histogram(scores, best))}</div>'

    def training(self) -> str:
        return "".join(self._curves(stage) for stage in self.trained)

    def _curves(self, stage: Stage) -> str:
        log = self.logs[stage.name]
        loss, val = points(log, "loss"), points(log, "val_loss")
        pictures = [figure("Loss", charts.curves([("training", loss, charts.BLUE)], val, "loss"))] if loss or val else []
        for caption, name in (("Accuracy: share of pairs whose chosen answer has the higher reward", "accuracy"),
                              ("Margin: reward of the chosen answer minus that of the rejected one", "margin")):  # fmt: skip
            if points(log, name):
                training = [("training", points(log, name), charts.BLUE)]
                pictures.append(figure(caption, charts.curves(training, points(log, f"val_{name}"), name)))
        rewards = [(label, points(log, name), colour) for label, name, colour in
                   (("chosen answer", "reward_chosen", charts.GREEN),
                    ("rejected answer", "reward_rejected", charts.BLUE))]  # fmt: skip
        if any(found for _, found, _ in rewards):
            pictures.append(figure("Rewards", charts.curves(rewards, [], "reward")))
        speed = points(log, "tokens_per_second")
        note = f"{loss[-1][0]} steps" if loss else "no step"
        note += f", {sum(y for _, y in speed) / len(speed):.0f} tokens/s" if speed else ""
        start = escape(str(stage.init_from))
        return (f'<h2>Training: {escape(stage.title)}</h2><p class="faint">{note}, from {start}</p>'
                f'<div class="charts">{"".join(pictures)}</div>')  # fmt: skip

    def settings(self) -> str:
        steps = [(stage, step) for stage in self.plan.stages for step in stage.steps]
        commands = "\n\n".join(f"# {stage.title} ({step.name})\n{shlex.join(step.command)}" for stage, step in steps)
        return (f"<h2>Settings</h2><p class=\"faint\">{escape(str(self.round.path))}</p>"
                f"<pre>{escape(self.round.text.strip())}</pre>"
                f"<details><summary>Commands</summary><pre>{escape(commands)}</pre></details>")  # fmt: skip


def read_note(stage: Stage) -> dict:
    try:
        return json.loads(stage.note.read_text("utf-8"))
    except (OSError, ValueError):
        return {}


def by_prompt(rows: list[dict]) -> dict[str, dict]:
    return {json.dumps(row["messages"][:-1]): row for row in rows}


def scores_in_common(rows: dict[str, dict]) -> dict[str, list[float]]:
    """Scores by stage, of the prompts that all stages answered with a score, so that means can be compared."""
    scored = {name: {prompt: row["score"] for prompt, row in found.items() if is_number(row.get("score"))}
              for name, found in rows.items()}  # fmt: skip
    common = set.intersection(*(set(found) for found in scored.values()))
    return {name: [score for prompt, score in found.items() if prompt in common] for name, found in scored.items()}


def said(messages: list[dict]) -> str:
    text = "\n\n".join(text_of(m) if m["role"] == "user" else f"[{m['role']}] {text_of(m)}" for m in messages)
    return f'<div class="text">{escape(text)}</div>'


def answer(row: dict | None) -> str:
    if row is None:
        return '<span class="faint">no answer</span>'
    score = f' <div class="faint">score {number(row["score"], 3)}</div>' if is_number(row.get("score")) else ""
    return f'<div class="text">{escape(row["messages"][-1]["content"])}</div>{score}'
