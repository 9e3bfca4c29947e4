"""Writes one page about a herd in the order of the Llama 3 paper, and its numbers as JSON. It needs no other file, and all text
from models and data is escaped. It can be written at any moment: what is not made yet says so, with the command that makes it."""

from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Callable

from llmdata.errors import Fault, InputError
from llmdata.output import write_json, write_text
from llmdata.page import safe, whole
from llmdata.shares import STYLE as SHARES

from . import assistant, cost, goals, pretraining
from .output import Output, said

STYLE = SHARES + """
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; } .wide figure { max-width: none; flex-basis: 100%; } 
.wide img { width: auto; max-width: 100%; }
.waiting { color: var(--faint); font-style: italic; } .failed { color: var(--lost); font-weight: 600; }
pre.made { font-size: .72rem; padding: .5rem .7rem; border-left: 3px solid var(--line); }
nav { columns: 3 14rem; font-size: .9rem; margin: 1rem 0; } nav a { display: block; color: inherit; }
figure { margin-bottom: .8rem; }
@media (max-width: 48rem) { .charts { display: block; } }
@media print { nav { display: none; } pre { break-inside: avoid; } table { display: table; } .charts { display: flex; }
figure { flex-basis: 40%; } }
"""


@dataclass(frozen=True)
class Part:
    """`name` is that in report.json. `makers` are the stages whose commands stand below it; those of `reads` it reads, too."""

    heading: str
    name: str
    makers: tuple[str, ...]
    make: Callable[[Output], pretraining.Part]
    reads: tuple[str, ...] = ()


PARTS = [
    Part("Curation: what each step left", "curation", ("raw_*", "curate"), pretraining.curation),
    Part("Sources and mixture", "sources", ("tokenizer", "shards", "items"), pretraining.sources, ("herd_*",)),
    Part("An n-gram model as baseline", "baseline", ("baseline",), pretraining.baseline, ("herd_*",)),
    Part("Scaling law: forecast and result", "scaling", ("scaling",), pretraining.scaling, ("herd_*",)),
    Part("The herd: loss curves", "herd", ("herd_*",), pretraining.curves, ("baseline",)),
    Part("Long context: needles", "needles", ("herd_*",), pretraining.needles),
    Part("Annealing, before and after", "annealing", ("herd_*",), pretraining.annealing),
    Part("Post-training", "post_training", ("post_training",), assistant.post_training),
    Part("Benchmarks", "benchmarks", ("evaluation",), assistant.benchmarks),
    Part("Safety", "safety", ("evaluation",), assistant.safety),
]


class Report:
    """`stages` are all of the herd's, in order, with their notes in OUTPUT/stages/. It may be written again and again: a part
    whose stages have not run since is kept as it was."""

    def __init__(self, folder: Path, stages: list):
        self.folder, self.stages, self.kept = folder, stages, {}

    def write(self) -> None:
        self.output = Output(self.folder)
        parts, numbers = [], {}
        for part in PARTS:
            html, numbers[part.name] = self._part(part)
            parts.append(f'<h2 id="{part.name}">{safe(part.heading)}</h2>{html}{self._commands(part.makers)}')
        found = goals.goals(self.output, numbers)
        body = [goals.page(found), cost.summary(self.stages), self._contents(), *parts, cost.page(self.output, self.stages),
                self._settings()]  # fmt: skip
        name = str(self.output.settings.get("name", self.folder.name))
        write_json(self.folder / "report.json", {**numbers, "goals": found, "times": cost.times(self.output, self.stages)})
        write_text(self.folder / "report.html", whole(name, f"A herd: {name}", self._below(), "".join(body), STYLE))

    def _part(self, part: Part) -> tuple[str, dict | None]:
        notes = [cost.read_note(stage) for stage in self._stages(part.makers + part.reads)]
        if not any(notes) or self.kept.get(part.name, [None])[0] != notes:
            self.kept[part.name] = notes, self._make(part)
        return self.kept[part.name][1]

    def _make(self, part: Part) -> tuple[str, dict | None]:
        """What is half made must not keep the rest from being shown."""
        try:
            found = part.make(self.output)
        except (InputError, Fault, OSError, ValueError, LookupError) as error:
            return f'<p class="failed">Cannot be shown: {safe(f"{type(error).__name__}: {error}", 600)}</p>', None
        waiting = "Not yet; this makes it:" if self._stages(part.makers) else "No part of this herd."
        return found or (f'<p class="waiting">{waiting}</p>', None)

    def _stages(self, names: tuple[str, ...]) -> list:
        return [stage for stage in self.stages if any(fnmatch(stage.name, name) for name in names)]

    def _commands(self, names: tuple[str, ...]) -> str:
        lines = "\n".join(said(step.command) for stage in self._stages(names) for step in stage.steps)
        return f'<pre class="made">{safe(lines)}</pre>' if lines else ""

    def _contents(self) -> str:
        links = [(part.name, part.heading) for part in PARTS] + [("cost", "Throughput and cost"), ("settings", "Settings")]
        return f'<nav>{"".join(f"<a href=#{name}>{safe(heading)}</a>" for name, heading in links)}</nav>'

    def _below(self) -> str:
        known = self.output.settings
        shown = [f"{name} {known[name]}" for name in ("seed", "target", "precision", "ranks") if known.get(name) is not None]
        return safe(", ".join(shown))

    def _settings(self) -> str:
        path = self.folder / "settings.json"
        text = path.read_text("utf-8", errors="replace") if path.is_file() else "none yet"
        return f'<h2 id="settings">Settings</h2><details><summary>As it ran</summary><pre>{safe(text)}</pre></details>'
