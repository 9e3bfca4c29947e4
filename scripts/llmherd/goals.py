"""What a herd is run to show, and whether it does: losses below the n-gram model's, the larger the better, needles, the
forecast, questions."""

from llmdata.page import safe, table

from .output import Output


def goals(output: Output, numbers: dict) -> list[dict]:
    """Each has "goal", "holds" (None: not known yet) and "found"."""
    return [_below_baseline(output, numbers), _larger_is_better(output), _needles(output), _forecast(output, numbers),
            _questions(output, numbers)]  # fmt: skip


def _goal(goal: str, holds: bool | None, found: str) -> dict:
    return {"goal": goal, "holds": holds, "found": found}


def _below_baseline(output: Output, numbers: dict) -> dict:
    goal = "The largest model's loss is below the n-gram model's on every source"
    run = output.largest() if output.sizes else None
    if not numbers["baseline"] or not run or not run.done():
        return _goal(goal, None, "")
    losses = list(run.ends.values())[-1].losses
    pairs = {name: (losses[name], value) for name, value in numbers["baseline"].items() if name in losses}
    return _goal(goal, all(ours < value for ours, value in pairs.values()),
                 ", ".join(f"{name} {ours:.3f} ({value:.3f})" for name, (ours, value) in pairs.items()))  # fmt: skip


def _larger_is_better(output: Output) -> dict:
    goal, runs = "The larger a model, the lower its loss at the end of every stage", output.runs()
    if len(runs) < 2 or not all(run.done() for run in runs):
        return _goal(goal, None, "")
    wrong = [stage for stage in runs[0].stages
             if any(small.end(stage).loss <= large.end(stage).loss for small, large in zip(runs, runs[1:])
                    if small.end(stage) and large.end(stage))]  # fmt: skip
    return _goal(goal, not wrong, f"not at the end of {', '.join(wrong)}" if wrong else "all stages")


def _needles(output: Output) -> dict:
    goal = "Needles are found at the lengthened context, and not before"
    if not output.sizes:
        return _goal(goal, None, "")
    run, (before, after) = output.largest(), output.lengthening()
    ends = [run.end(name) for name in (before, after)]
    length = run.lengths[after]
    rates = [end.found(length) if end else None for end in ends]
    if None in rates:
        return _goal(goal, None, "")
    return _goal(goal, rates[0] < 0.5 <= rates[1], f"of {length:,} tokens {rates[0]:.0%} before, {rates[1]:.0%} after")


def _forecast(output: Output, numbers: dict) -> dict:
    goal = "The largest model's loss is in the interval of the forecast"
    trials = (numbers["scaling"] or {"trials": []})["trials"]
    trial = next((trial for trial in trials if trial["name"] in output.sizes[-1:]), None)
    if trial is None:
        return _goal(goal, None, "")
    found = f"{trial['loss']:.4f}; forecast {trial['value']:.4f}, {trial['low']:.4f} to {trial['high']:.4f}"
    return _goal(goal, trial["inside"], found)


def _questions(output: Output, numbers: dict) -> dict:
    """The same questions, of the model before post-training as a text to go on with, and of the last one in a chat. More is
    by more than both intervals."""
    goal = "The assistant answers more held-out questions than the model that it is made of"
    results, found, risen = output.json("evaluation/results.json"), [], []
    asked = [task for task in results["tasks"] if task["kind"] == "generate"] if numbers["benchmarks"] else []
    for file in dict.fromkeys(task["settings"]["file"] for task in asked):
        tasks = [task for task in asked if task["settings"]["file"] == file]
        before = next((task["models"].get(output.sizes[-1]) for task in tasks if not task["settings"].get("chat")), None)
        after = next((task["models"][results["models"][-1]] for task in tasks if task["settings"].get("chat")), None)
        if before and after and None not in (before["interval"], after["interval"]):
            found.append(f"{tasks[0]['name']} {100 * before['score']:.1f} to {100 * after['score']:.1f} %")
            risen.append(after["score"] - before["score"] > after["interval"] + before["interval"])
    return _goal(goal, all(risen) if found else None, ", ".join(found))


def page(found: list[dict]) -> str:
    words = {True: "<b>yes</b>", False: '<span class="failed">no</span>', None: "not&nbsp;known"}
    rows = [[safe(one["goal"]), words[one["holds"]], safe(one["found"])] for one in found]
    return table(["what it should show", "", "found"], rows)
