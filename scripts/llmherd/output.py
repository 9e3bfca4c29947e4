"""The folder of a herd, as far as it has been made, for the report."""

import json
import shlex
import sys
from pathlib import Path

from llmscale.settings import Settings
from llmtext.generator import ROOT

from .runs import HerdRun


class Output:
    def __init__(self, folder: Path):
        self.folder = folder
        self.settings: dict = self.json("settings.json") or {}
        self.recipe: dict = self.json("files/recipe.json") or self.settings.get("recipe", {"stages": []})
        self.sizes = list(self.settings.get("models", {}))
        self._runs: dict[str, HerdRun] = {}

    def json(self, name: str) -> dict | None:
        """None where there is none yet, or half of one."""
        try:
            return json.loads((self.folder / name).read_text("utf-8"))
        except (OSError, ValueError):
            return None

    def run(self, size: str) -> HerdRun:
        if size not in self._runs:
            config = self.json(f"files/{size}.json")
            self._runs[size] = HerdRun(size, self.folder / "herd" / size, config, self.recipe["stages"])
        return self._runs[size]

    def runs(self) -> list[HerdRun]:
        return [self.run(size) for size in self.sizes]

    def largest(self) -> HerdRun:
        return self.run(self.sizes[-1])

    @property
    def main(self) -> str:
        """The stage of the recipe that the sweep forecasts."""
        return self.settings.get("scaling", {}).get("stage", "main")

    def lengthening(self) -> tuple[str, str]:
        """The stage before the one with the longest rows, and that one."""
        run = self.largest()
        longest = max(run.lengths.values())
        place = next(place for place, name in enumerate(run.stages) if run.lengths[name] == longest)
        return run.stages[max(0, place - 1)], run.stages[place]

    def mixtures(self) -> dict[str, dict[str, float]]:
        """Weights of each stage, at its end."""
        found, last = {}, dict.fromkeys(self.recipe.get("sources", {}), 1.0)
        for stage in self.recipe["stages"]:
            if "mixture" in stage:
                last = {one["source"]: one.get("weight_at_end", one["weight"]) for one in stage["mixture"]}
            found[stage["name"]] = last
        return found

    def measured(self, sweep: Settings) -> list[dict]:
        """The largest model at the end of that stage as a run of the sweep that tests its forecast. The sweep's rows are drawn from
        the held-out tokens of all sources, so a source counts by these."""
        run, end = self.largest(), self.largest().end(self.main)
        if end is None:
            return []
        weights = {name: (self.json(f"shards/{name}/meta.json") or {}).get("val_tokens", 0) for name in end.losses}
        loss = sum(end.losses[name] * weight for name, weight in weights.items()) / sum(weights.values())
        flops = run.flops(self.main)
        return [{"name": run.name, "budget": flops, "flops": flops, "parameters": run.parts.count(sweep.count),
                 "tokens": end.tokens, "loss": loss}]  # fmt: skip


def said(command: list) -> str:
    """As a person types it in the project's folder."""
    words = [str(word) for word in command]
    return shlex.join(word.removeprefix(f"{ROOT}/") for word in words if word != sys.executable)
