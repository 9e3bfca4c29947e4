"""Parts of the report on data and pretraining: (HTML, numbers) each; None while there is nothing to show."""

from llmdata.page import figure, number, safe, table
from llmdata.shares import bar, count, funnel, share
from llmplot.heat_map import Scores, picture
from llmround.charts import svg_text
from llmscale import charts as scaling_charts
from llmscale.fit_tables import between, four
from llmscale.fitted import fit_all
from llmscale.forecast import Trial, forecast
from llmscale.plan_tables import si
from llmscale.planning import plan_runs
from llmscale.points import points_of_sweep, rows_of_sweep
from llmscale.settings import read_settings

from . import charts
from .output import Output
from .runs import NEEDLE, HerdRun

Part = tuple[str, dict] | None


def pictures(found: list[str]) -> str:
    return f'<div class="charts">{"".join(found)}</div>'


def curation(output: Output) -> Part:
    """What each step left, and the languages."""
    found = output.json("curated/statistics.json")
    if not found or not found["order"]:
        return None
    steps = {name: found["steps"][name] for name in found["order"]}
    sizes = {"read": steps[found["order"][0]]["total"]["in"]} | {name: step["total"]["out"] for name, step in steps.items()}
    last = list(steps.values())[-1]["by"]["language"]
    most = max((sizes[3] for sizes in last.values()), default=0)
    rows = [[safe(name or "(not known)"), count(n[3]) + bar(n[3], most), count(n[4])]
            for name, n in sorted(last.items(), key=lambda item: -item[1][3]) if n[3]]  # fmt: skip
    languages = table(["language", "documents left", "tokens left"], rows, "shares", (1, 2)) if rows else ""
    return funnel(sizes) + languages, {"left": sizes, "languages": {name: n[3:] for name, n in last.items()}}


def sources(output: Output) -> Part:
    """Tokens of each source, and what the largest model has read of it."""
    found = {name: meta for name in output.settings["sources"] if (meta := output.json(f"shards/{name}/meta.json"))}
    if not found:
        return None
    total, read = sum(meta["train_tokens"] for meta in found.values()), output.largest().sources
    rows, numbers = [], {}
    for name, meta in found.items():
        took = read.get(name, {"tokens": None, "epochs": None})
        rows.append([safe(name), count(meta["train_documents"]), f"{count(meta['train_tokens'])} <span class=faint>"
                     f"{share(meta['train_tokens'], total)}</span>{bar(meta['train_tokens'], total)}", count(meta["val_tokens"]),
                     count(took["tokens"]) if took["tokens"] else "–", number(took["epochs"], 3)])  # fmt: skip
        numbers[name] = {key: meta[key] for key in ("train_documents", "train_tokens", "val_tokens")} | {"read": took}
    head = ["source", "documents", "tokens", "held out", f"read by {safe(output.sizes[-1])}", "epochs"]
    return table(head, rows, "shares", (1, 2, 3, 4, 5)) + _mixture(output), numbers


def _mixture(output: Output) -> str:
    rows = []
    for name, mixture in output.mixtures().items():
        whole = sum(mixture.values())
        rows.append([safe(name), safe(", ".join(f"{source} {share(weight, whole)}" for source, weight in mixture.items()))])
    return table(["stage of the recipe", "mixture, in tokens"], rows)


def baseline(output: Output) -> Part:
    found = output.json("baseline/ngram.json")
    if not found:
        return None
    run, rows, numbers = output.largest(), [], {}
    last = list(run.ends.values())[-1].losses if run.ends else {}
    for name, one in found["sources"].items():
        gap = last[name] - one["loss"] if name in last else None
        rows.append([safe(name), count(one["tokens"]), four(one["loss"]), number(last.get(name)),
                     "–" if gap is None else f"{gap:+.4f}"])  # fmt: skip
        numbers[name] = one["loss"]
    says = (f"<p>An n-gram model of order {found['order']} with Kneser-Ney smoothing, trained on the {count(found['tokens'])} tokens "
            "of the same shards, on the same held-out tokens; nats per token.</p>")  # fmt: skip
    head = ["source", "held-out tokens", "n-gram", safe(run.name), "difference"]
    return says + table(head, rows, numbers=(1, 2, 3, 4)), numbers


# ---- scaling law


def scaling(output: Output) -> Part:
    """The laws of the sweep, its forecast, and beside it what the largest model reached. A sweep may allow no forecast."""
    made = output.json("scaling/forecast.json") or {"forecasts": [], "fit": output.json("scaling/fit.json")}
    if not made["fit"]:
        return None
    settings = read_settings(output.folder / "files/scaling.json")
    points = points_of_sweep(settings, rows_of_sweep(settings, plan_runs(settings)))
    budgets = [one["budget"] for one in made["forecasts"]]
    points.tests += output.measured(settings) if budgets else []
    fitted = fit_all(points, made["fit"]["seed"], max(budgets, default=None))
    rng = fitted.rng()
    beyond = [forecast(fitted.isoflop, fitted.parametric, points.cost, budget, fitted.largest, rng) for budget in budgets]
    shown = [figure("Loss of each budget over its tokens", scaling_charts.parabolas(fitted)),
             figure("Loss over FLOPs: the sweep, the forecast for the best size, and the largest model",
                    scaling_charts.loss_of_budget(fitted, beyond))]  # fmt: skip
    if fitted.isoflop.tokens:
        shown.insert(1, figure("Best number of tokens over FLOPs", scaling_charts.power_law(fitted, "tokens", beyond)))
    trials = fitted.trials()
    says = f"<p>{len(points)} runs of {len(points.budgets())} budgets. {safe(fitted.disagreement_text)}</p>"
    numbers = {"parametric": made["fit"]["parametric"],
               "trials": [{"name": t.name, "loss": t.loss, "inside": t.inside, **vars(t.forecast)} for t in trials]}  # fmt: skip
    return says + pictures(shown) + _trials(output, trials), numbers


def _trials(output: Output, trials: list[Trial]) -> str:
    if not trials:
        return "<p>No run tests a forecast.</p>"
    rows = [[safe(t.name), f"{t.budget:.3g}", si(t.parameters), si(t.tokens), four(t.loss), between(t.forecast, four),
             "inside" if t.inside else "outside"] for t in trials]  # fmt: skip
    note = (f"<p class=faint>The loss of {safe(output.sizes[-1])} is that at the end of the recipe's stage {safe(output.main)}, with "
            "each source counted by its held-out tokens, as the sweep counts.</p>")  # fmt: skip
    head = ["run", "FLOPs", "parameters", "tokens", "loss", "forecast of its loss", "interval of 90 %"]
    return table(head, rows, numbers=(1, 2, 3, 4, 5)) + note


# ---- the herd


def curves(output: Output) -> Part:
    runs = [run for run in output.runs() if run.ends]
    if not runs:
        return None
    ngram = (output.json("baseline/ngram.json") or {"sources": {}, "order": 0})
    name = f"{ngram['order']}-gram"
    svg = charts.training({run.name: run.training() for run in runs}, [end.tokens for end in runs[-1].ends.values()])
    shown = [figure("Training loss, smoothed; dotted lines: ends of stages", svg)]
    for source in sorted({source for run in runs for end in run.ends.values() for source in end.losses}):
        of_ngram = ngram["sources"].get(source, {}).get("loss")
        svg = charts.validation({run.name: run.validation(source) for run in runs}, of_ngram, name)
        shown.append(figure(f"Validation loss: {source}", svg))
    names = ("loss", "losses", "averaged", "tokens", "accuracy")
    numbers = {run.name: {stage: {name: getattr(end, name) for name in names} for stage, end in run.ends.items()}
               for run in runs}  # fmt: skip
    return pictures(shown) + _ends(runs), numbers


def _ends(runs: list[HerdRun]) -> str:
    """Losses at the ends of the stages, then accuracies where there are any."""
    heads = [f"{safe(run.name)}<br><span class=faint>{si(run.parts.count('all'))}, {run.flops():.2g} FLOPs</span>"
             for run in runs]  # fmt: skip
    rows = [[safe(stage), *(number(run.end(stage) and run.end(stage).loss, 5) for run in runs)] for stage in runs[0].stages]
    note = ("<p class=faint>Validation loss at the end of each stage, nats per token, over the held-out texts of all sources in "
            "rows of the stage's length; parameters are counted with embeddings.</p>")  # fmt: skip
    columns = tuple(range(1, len(runs) + 1))
    html = note + table(["stage", *heads], rows, numbers=columns)
    for task in sorted({task for run in runs for end in run.ends.values() for task in end.accuracy}):
        rows = [[safe(stage), *(number(run.end(stage) and run.end(stage).accuracy.get(task), 3) for run in runs)]
                for stage in runs[0].stages]  # fmt: skip
        html += table([f"{safe(task)}, share right", *(safe(run.name) for run in runs)], rows, numbers=columns)
    return html


def needles(output: Output) -> Part:
    run = output.largest()
    ends = {stage: end for stage, end in run.ends.items() if end.needles}
    if not ends:
        return None
    before, after = output.lengthening()
    panels = [Scores(f"end of {name}", ends[name].needles, {length: ends[name].step for length in ends[name].needles})
              for name in dict.fromkeys((before, after)) if name in ends]  # fmt: skip
    caption = f"Needles that {run.name} finds, before and after its rows grow"
    shown = [figure(caption, svg_text(picture(panels, NEEDLE)))] if panels else []
    lengths = sorted({length for end in ends.values() for length in end.needles})
    rows = [[safe(one.name), safe(stage), *(number(end.found(length), 3) for length in lengths)]
            for one in output.runs() for stage, end in one.ends.items() if end.needles]  # fmt: skip
    head = ["size", "end of stage", *(f"{length:,} tokens" for length in lengths)]
    numbers = {one.name: {stage: {str(length): end.found(length) for length in end.needles} for stage, end in one.ends.items()}
               for one in output.runs()}  # fmt: skip
    return f'<div class="wide">{"".join(shown)}</div>' + table(head, rows, numbers=tuple(range(2, 2 + len(lengths)))), numbers


def annealing(output: Output) -> Part:
    """Losses by source before the last stage and after it, and those of the mean of its weights."""
    rows, numbers = [], {}
    for run in output.runs():
        before, after = run.before(run.stages[-1]), run.end(run.stages[-1])
        if not before or not after:
            continue
        for name in ["all", *after.losses]:
            was, now = (end.loss if name == "all" else end.losses.get(name) for end in (before, after))
            mean = number(after.averaged, 5) if name == "all" else ""
            change = f"{now - was:+.4f}" if was else "–"
            rows.append([safe(run.name), safe(name), number(was, 5), number(now, 5), change, mean])
        numbers[run.name] = {"before": before.losses, "after": after.losses, "loss": [before.loss, after.loss],
                             "averaged": after.averaged}  # fmt: skip
    if not rows:
        return None
    head = ["size", "source", "before", "after", "change", "mean of weights"]
    return table(head, rows, numbers=(2, 3, 4, 5)), numbers
