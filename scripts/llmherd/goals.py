"""What a herd is run to show, and whether it does: losses below the n-gram model's, the larger the better, needles, the
forecast, questions."""

from llmdata.page import safe, table

from .output import Output

CLEARLY = 0.1  # of the questions


def goals(output: Output, numbers: dict) -> list[dict]:
    """Each has "goal", "holds" (None: not known yet) and "found"."""
    return [_below_baseline(output, numbers), _larger_is_better(output), _needles(output), _forecast(output, numbers),
            _choices(output), _answers(output, numbers)]  # fmt: skip


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


def _choices(output: Output) -> dict:
    goal = "The largest model chooses clearly more right answers after the last stage of pretraining than after the first"
    if not output.sizes or not output.largest().done() or len(output.largest().ends) == 1:
        return _goal(goal, None, "")
    first, *_, last = (end.accuracy for end in output.largest().ends.values())
    rises = {task: (first[task], last[task]) for task in first if task in last}
    return _goal(goal, all(after - before > CLEARLY for before, after in rises.values()) if rises else None,
                 ", ".join(f"{task} {before:.1%} to {after:.1%}" for task, (before, after) in rises.items()))  # fmt: skip


def _answers(output: Output, numbers: dict) -> dict:
    """Of what is asked in a chat, that which is drawn several times: of the likeliest answers all may be right early. More is
    by more than both intervals."""
    goal, results, found, risen = "The last assistant draws more right answers than the first", None, [], []
    if numbers["benchmarks"]:
        results = output.json("evaluation/results.json")
    for task in results["tasks"] if results else []:
        if not task["settings"].get("chat") or task["settings"].get("samples", 1) == 1:
            continue
        asked = [score for name, score in task["models"].items() if name not in output.sizes and score["interval"] is not None]
        if len(asked) > 1:
            before, after = asked[0], asked[-1]
            found.append(f"{task['name']} {before['score']:.1%} to {after['score']:.1%}")
            risen.append(after["score"] - before["score"] > after["interval"] + before["interval"])
    return _goal(goal, all(risen) if found else None, ", ".join(found))


def page(found: list[dict]) -> str:
    words = {True: "<b>yes</b>", False: '<span class="failed">no</span>', None: "not&nbsp;known"}
    rows = [[safe(one["goal"]), words[one["holds"]], safe(one["found"])] for one in found]
    return table(["what it should show", "", "found"], rows)
