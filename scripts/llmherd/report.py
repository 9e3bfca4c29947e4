"""Writes one page about a herd in the order of the Llama 3 paper, and its numbers as JSON. It needs no other file, all text from
models and data is escaped, and it can be written at any moment: what is not made yet says so, and by which command it is made."""

from pathlib import Path

from llmdata.errors import Fault, InputError
from llmdata.output import write_json, write_text
from llmdata.page import safe, whole
from llmdata.shares import STYLE as SHARES

from . import assistant, cost, goals, pretraining
from .output import Output, said

STYLE = SHARES + """
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; } .wide figure { max-width: none; flex-basis: 100%; } .wide img { width: auto; max-width: 100%; }
.waiting { color: var(--faint); font-style: italic; } .failed { color: var(--lost); font-weight: 600; }
pre.made { font-size: .72rem; padding: .5rem .7rem; border-left: 3px solid var(--line); }
nav { columns: 3 14rem; font-size: .9rem; margin: 1rem 0; } nav a { display: block; color: inherit; }
figure { margin-bottom: .8rem; }
@media (max-width: 48rem) { .charts { display: block; } }
@media print { nav { display: none; } pre { break-inside: avoid; } table { display: table; } .charts { display: flex; }
figure { flex-basis: 40%; } }
"""
# (heading, name in report.json, the stages that make it, the part)
PARTS = [
    ("Curation: what each step left", "curation", ["raw_*", "curate"], pretraining.curation),
    ("Sources and mixture", "sources", ["tokenizer", "shards", "items"], pretraining.sources),
    ("An n-gram model as baseline", "baseline", ["baseline"], pretraining.baseline),
    ("Scaling law: forecast and result", "scaling", ["scaling"], pretraining.scaling),
    ("The herd: loss curves", "herd", ["herd_*"], pretraining.curves),
    ("Long context: needles", "needles", ["herd_*"], pretraining.needles),
    ("Annealing, before and after", "annealing", ["herd_*"], pretraining.annealing),
    ("Post-training", "post_training", ["post_training"], assistant.post_training),
    ("Benchmarks", "benchmarks", ["evaluation"], assistant.benchmarks),
    ("Safety", "safety", ["evaluation"], assistant.safety),
]


class Report:
    """`stages` are all of the herd's, in order, with their notes in OUTPUT/stages/."""

    def __init__(self, folder: Path, stages: list):
        self.output, self.stages = Output(folder), stages

    def write(self) -> None:
        parts, numbers = [], {}
        for heading, name, made_by, part in PARTS:
            html, numbers[name] = self._part(part)
            parts.append(f'<h2 id="{name}">{safe(heading)}</h2>{html}{self._commands(made_by)}')
        found = goals.goals(self.output, numbers)
        head = [goals.page(found), cost.summary(self.output, self.stages)]
        settled = "".join(head) + self._contents() + "".join(parts) + cost.page(self.output, self.stages) + self._settings()
        name = str(self.output.settings.get("name", self.output.folder.name))
        write_json(self.output.folder / "report.json", {**numbers, "goals": found, "times": cost.times(self.output, self.stages)})
        write_text(self.output.folder / "report.html", whole(name, f"A herd: {name}", self._below(), settled, STYLE))

    def _part(self, part) -> tuple[str, dict | None]:
        """What is half made must not keep the rest from being shown."""
        try:
            found = part(self.output)
        except (InputError, Fault, OSError, ValueError, LookupError) as error:
            return f'<p class="failed">Cannot be shown: {safe(f"{type(error).__name__}: {error}", 600)}</p>', None
        return found or ('<p class="waiting">Not yet; this makes it:</p>', None)

    def _commands(self, names: list[str]) -> str:
        chosen = [stage for stage in self.stages if any(stage.name == name or name.endswith("*") and stage.name.startswith(name[:-1])
                                                        for name in names)]  # fmt: skip
        lines = "\n".join(said(step.command) for stage in chosen for step in stage.steps)
        return f'<pre class="made">{safe(lines)}</pre>' if lines else ""

    def _contents(self) -> str:
        links = [(name, heading) for heading, name, _, _ in PARTS] + [("cost", "Throughput and cost"), ("settings", "Settings")]
        return f'<nav>{"".join(f"<a href=#{name}>{safe(heading)}</a>" for name, heading in links)}</nav>'

    def _below(self) -> str:
        known = self.output.settings
        return safe(", ".join(f"{name} {known[name]}" for name in ("seed", "target", "precision", "ranks") if known.get(name) is not None))

    def _settings(self) -> str:
        path = self.output.folder / "settings.json"
        text = path.read_text("utf-8", errors="replace") if path.is_file() else "none yet"
        return f'<h2 id="settings">Settings</h2><pre>{safe(text)}</pre>'
