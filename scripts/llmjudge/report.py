"""The result of all runs that have ended, as JSON and as a short page of Markdown."""

from .gain import CONFIDENCE, MOST_SEEDS, Gain, gain_of, seeds_needed
from .runs import WITH, WITHOUT, Run, Settings

SMALL_GAINS = (0.001, 0.003, 0.01)  # parts of the validation loss


def pairs_of(runs: list[Run]) -> list[tuple[dict, dict]]:
    """The results of seeds of which both runs have ended: without and with the candidate."""
    found: dict[int, dict[str, dict]] = {}
    for run in runs:
        if result := run.result():
            found.setdefault(run.seed, {})[run.arm] = result
    return [(pair[WITHOUT], pair[WITH]) for _, pair in sorted(found.items()) if len(pair) == 2]


def gains_of(pairs: list[tuple[dict, dict]]) -> list[Gain]:
    names = pairs[0][0]["measures"]
    return [gain_of(name, *([result["measures"][name] for result in side] for side in zip(*pairs))) for name in names]


def as_json(settings: Settings, pairs: list[tuple[dict, dict]], wanted: float | None) -> dict:
    gains = gains_of(pairs)
    return {
        "seeds": [without["seed"] for without, _ in pairs],
        "confidence": CONFIDENCE,
        "share": settings.share,
        "tokens": settings.steps * settings.tokens_per_step,
        "gains": [gain.as_dict() for gain in gains],
        "seeds_needed": [{"val_loss_gain": size, "seeds": seeds_needed(gains[0].deviation, size)} for size in sizes(gains[0], wanted)],
        "runs": [result for pair in pairs for result in pair],
    }


def sizes(loss: Gain, wanted: float | None) -> list[float]:
    return sorted([*(part * loss.without for part in SMALL_GAINS), *([wanted] if wanted else [])])


def as_page(settings: Settings, pairs: list[tuple[dict, dict]], wanted: float | None) -> str:
    gains = gains_of(pairs)
    loss = gains[0]
    tokens = settings.steps * settings.tokens_per_step
    lines = [
        f"# {settings.candidate}",
        "",
        f"{settings.model}, annealed from {settings.lr:g} to 0 over {tokens:,} tokens, with {100 * settings.share:g} % of the "
        f"candidate and without; {loss.seeds} seeds. A gain is positive where the candidate makes the measure better; in brackets the "
        f"{100 * CONFIDENCE:g} % interval (Student's t over the seeds' pairs).",
        "",
        "| measure | without | with | gain | the candidate |",
        "| --- | --- | --- | --- | --- |",
    ]
    for gain in gains:
        lines.append(f"| {gain.measure} | {gain.without:.4f} | {gain.with_candidate:.4f} | {gain.mean:+.4f} "
                     f"[{gain.low:+.4f}, {gain.high:+.4f}] | {gain.verdict} |")  # fmt: skip
    lines += ["", f"The gain in validation loss varies by {loss.deviation:.4f} from seed to seed. So many seeds would show a gain of"]
    for size in sizes(loss, wanted):
        lines.append(f"- {size:.4f} ({100 * size / loss.without:.2g} % of the loss): {seeds_needed(loss.deviation, size) or f'more than {MOST_SEEDS}'}")
    return "\n".join(lines) + "\n"
