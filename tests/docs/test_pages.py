"""The commands of README.md and docs/ are run, shortened, and what the pages name is there: programs, options, files, links.

A page's blocks run one after the other in a folder that looks like a checkout, with what RULES says replaced. What a page
takes as given (texts, a published model, what another page has made) is put there by GIVEN. A block under the comment
<!-- not run: WHY --> is not run; its options are checked like all others."""

import functools
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
from random import Random

import numpy as np
import pytest

import docpages
import planted_text
import ranks
from docpages import PAGES, ROOT
from planted_web import Web
from trainrun import ON_CPU

pytestmark = pytest.mark.skipif(not ON_CPU, reason="of the cpu target")

# (pattern, what stands in its place); each is needed by some page
RULES = [
    (r"^(.*?)make ", r"\1make -n "),  # what the tests run on is built
    (r"build/cuda/", "build/cpu/"),
    (r"-np \d+", "-np 2"),
    (r"--ranks-after \"6 4\"", '--ranks-after "2 1"'),
    (r"--steps \d+", "--steps 4"),
    (r"--seq-len \d+", "--seq-len 256"),
    (r"--batch-size \d+", "--batch-size 2"),
    (r"--grad-accum \d+", "--grad-accum 2"),
    (r"--tokens-per-step \d+", "--tokens-per-step 1024"),
    (r"--save-every \d+", "--save-every 2"),
    (r"--eval-tasks-every \d+", "--eval-tasks-every 2"),
    (r"--average-from 9000 --average-every 10", "--average-from 2 --average-every 1"),
    (r"layers\.1\[0-5\]", "layers.1"),
    (r"--samples \d+", "--samples 3"),
    (r"--max-tokens 512", "--max-tokens 16 --keep-cut"),
    (r"(generate\.py .*?)(?=$|>|  #)", r"\1 --max-tokens 4 "),
]
# Three dots of a page stand for these options, less those that the command has.
DOTS = {
    "--config": "configs/quickstart.json", "--train-data": "'data/mine/train_*.bin'", "--output": "runs/dots_{}", "--steps": "4",
    "--batch-size": "2", "--seq-len": "256",
}  # fmt: skip
SMALL_MODEL = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
               "num_key_value_heads": 2, "head_dim": 16}  # fmt: skip
# members of docs/round_example.json, wherever they stand
SMALL_ROUND = {"seq_len": 256, "batch_size": 2, "tokens_per_step": 1024, "samples": 3, "max_tokens": 16, "rows": 4, "val_fraction": 0.2}
# options and files in the prose that are those of other programs
FOREIGN = {"--mpi", "--gpus-per-node", "--use_fast_math", "--args"}
FOREIGN_FILES = {"conversion/base.py", "convert_hf_to_gguf.py"}


# --- what the pages take as given ---------------------------------------------------------------------------------------


def jsonl(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def chat(question, answer):
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def texts(folder):
    (folder / "my_texts").mkdir()
    for number, page in enumerate([*sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("llmc/model/*.c"))]):
        (folder / f"my_texts/{number}.txt").write_text(page.read_text())


def model(folder, name):
    """A published model: what the README's run made, without what only the trainer reads."""
    shutil.copytree(done("README.md") / "runs/mine/checkpoint", folder / name, ignore=shutil.ignore_patterns("trainer"))


def made(folder, page, *names):
    """What an earlier page has made."""
    for name in names:
        shutil.copytree(done(page) / name, folder / name, symlinks=True)


def chats(folder, prefix=""):
    jsonl(folder / f"{prefix}chats.jsonl", *(chat(f"Count to {n}", "1 2 3") for n in range(24)))
    for name in ("pairs", "good_pairs", "preferences"):
        jsonl(folder / f"{prefix}{name}.jsonl", *({"prompt": f"{n}?", "chosen": f"Good {n}", "rejected": "Bad"} for n in range(24)))
    for name in ("prompts", "held_out"):
        jsonl(folder / f"{prefix}{name}.jsonl", *({"prompt": f"What is {n}?"} for n in range(24)))
    jsonl(folder / f"{prefix}skills.jsonl", chat("2 + 2?", "4"))


def given_data(folder):
    texts(folder)
    model(folder, "Llama-3.2-1B")
    chats(folder)
    chats(folder, "chats/")
    for path in (folder / "chats").iterdir():  # a folder of conversations
        if path.name not in ("chats.jsonl", "skills.jsonl"):
            path.unlink()


def given_finetune(folder):
    for name in ("Llama-3.2-1B", "runs/base/checkpoint", "runs/a/checkpoint", "runs/b/checkpoint", "runs/c/checkpoint", "A", "B", "C"):
        model(folder, name)
    made(folder, "README.md", "data/mine")
    made(folder, "docs/data.md", "data/chats", "data/pairs")
    chats(folder)
    chats(folder, "data/")


def given_evaluate(folder):
    texts(folder)
    made(folder, "README.md", "data/mine", "runs/mine")
    model(folder, "models/Llama-3.2-1B-Instruct")
    (folder / "questions.txt").write_text("What is a llama?\n\nWhat is not?\n")
    choice = {"activity_label": "Walking", "ctx_a": "A man walks.", "ctx_b": "he", "endings": ["stops.", "goes.", "is.", "flies."]}
    jsonl(folder / "hellaswag_val.jsonl", *(choice | {"label": n % 4} for n in range(6)))
    for name in ("mmlu_test", "mmlu_dev"):
        jsonl(folder / f"{name}.jsonl", *({"question": f"{n}?", "choices": list("wxyz"), "answer": n % 4} for n in range(8)))
    jsonl(folder / "articles.jsonl", {"text": "A llama is not a camel."}, {"text": "It is no alpaca."})
    for name in ("chats", "refusals", "borderline"):
        jsonl(folder / f"{name}.jsonl", *(chat(f"Count the {name} to {n}", "1 2 3") for n in range(24)))
    jsonl(folder / "labelled.jsonl", *({"prompt": f"Count to {n}.", "answer": "1 2 3", "unsafe": n % 2 == 0} for n in range(24)))


def given_scaling(folder):
    """Data, and runs that follow a law."""
    made(folder, "README.md", "data/mine")
    rows = [(budget, budget / (6 * n), 1.7 + 406 / n**0.34 + 410 / (budget / (6 * n)) ** 0.28) for budget in (1e18, 4e18, 1.6e19)
            for n in (budget / 1200) ** 0.5 * 4.0 ** np.arange(-2, 3)]  # fmt: skip
    (folder / "runs.csv").write_text("flops,tokens,loss\n" + "".join(f"{c},{d},{loss}\n" for c, d, loss in rows))
    (folder / "task.csv").write_text("flops,nll,accuracy\n" + "".join(f"1e{18 + k},{1.5 - k / 10},{0.3 + k / 10}\n" for k in range(5)))


def given_curate(folder):
    """A web, and examples of good texts, of others and of topics."""
    Web(1, 50).write_html(folder / "my_pages")
    random = Random(1)
    for name in ("good", "code", "crowd"):
        found = [planted_text.code(random) if name == "code" else "\n".join(planted_text.article(random, crowd=name == "crowd")) for _ in range(12)]
        jsonl(folder / f"my_{name}/texts.jsonl", *({"text": text} for text in found))
    jsonl(folder / "topics.jsonl", *({"text": planted_text.paragraph(random, topic=topic), "label": topic} for topic in ("sport", "music") for _ in range(12)))


GIVEN = {
    "README.md": texts,
    "docs/data.md": given_data,
    "docs/finetune.md": given_finetune,
    "docs/evaluate.md": given_evaluate,
    "docs/checkpoints.md": lambda folder: made(folder, "README.md", "data/mine"),
    "docs/ranks.md": lambda folder: made(folder, "README.md", "data/mine"),
    "docs/scaling.md": given_scaling,
    "docs/curate.md": given_curate,
}


# --- running ------------------------------------------------------------------------------------------------------------


def shortened(value):
    if isinstance(value, dict):
        return {name: SMALL_ROUND.get(name, shortened(inside)) for name, inside in value.items()}
    return [shortened(inside) for inside in value] if isinstance(value, list) else value


def short_sweep(plan):
    changes = {"sizes": [1, 2, 3, 4], "budgets": [8e10, 1.2e11], "tuning": {"batch": 256, "batch_exponent": 0, "lr": 1e-3, "lr_exponent": 0}, "val_rows": 8}
    return plan | changes | {"model": plan["model"] | {"width_per_layer": 16, "head_dim": 16}}


def checkout(folder):
    """Links to this checkout; data/, configs/ and docs/ are folders of its own, with a small model and a short round."""
    for path in ROOT.iterdir():
        if path.name not in ("data", "configs", "docs", "runs", ".git", ".venv"):
            (folder / path.name).symlink_to(path)
    (folder / ".venv").symlink_to(sys.prefix)
    (folder / "data").mkdir()
    for path in [*ROOT.glob("data/*.py"), ROOT / "data/llmdata", ROOT / "data/curate"]:
        (folder / "data" / path.name).symlink_to(path)
    for name in ("configs", "docs"):
        shutil.copytree(ROOT / name, folder / name)
    for name, change in (("configs/quickstart.json", lambda fields: fields | SMALL_MODEL), ("docs/round_example.json", shortened), ("docs/scaling_example.json", short_sweep)):
        (folder / name).write_text(json.dumps(change(json.loads((ROOT / name).read_text()))))


def short(text, number=0):
    """A block's commands as they are run."""
    lines = []
    for line in text.replace("\\\n", " ").splitlines():
        line = re.sub(r"\s+", " ", line) if not line.startswith(" ") else line
        for pattern, replacement in RULES:
            line = re.sub(pattern, replacement, line)
        if " ... " in line + " ":
            own = {option for _, option in docpages.options(line)}
            hidden = {"--config"} if "--init-from" in own else {"--steps"} if "--epochs" in own else set()
            dots = (f"{name} {value.format(f'{number}_{len(lines)}')}" for name, value in DOTS.items() if name not in own | hidden)
            line = (line + " ").replace(" ... ", f" {' '.join(dots)} ")
        lines.append(line)
    return "\n".join(lines)


def run_shell(text, folder, timeout=600):
    """Runs commands there until one fails; what they wrote, and their code."""
    script = "set -euo pipefail; trap 'echo \"failed: $BASH_COMMAND\" >&2' ERR\n" + text
    environment = ranks.alone({**ranks.SETTINGS, "HOME": str(folder), "PATH": f"{sys.prefix}/bin:{os.environ['PATH']}",
                               "HF_HUB_OFFLINE": "1", "MPLBACKEND": "agg"})  # fmt: skip
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(["bash", "-c", script], cwd=folder, env=environment, stdout=said, stderr=said, text=True,
                                   stdin=subprocess.DEVNULL, start_new_session=True)  # fmt: skip
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            code = f"none within {timeout} s"
        finally:
            ranks.kill(process)
        said.seek(0)
        return said.read(), code


def run_python(text, folder, where):
    """In this process, whose modules are loaded already."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        exec(compile(text, where, "exec"), {})
    finally:
        os.chdir(before)


def run_page(text, folder, page="page"):
    for block in docpages.blocks(text):
        if block.reason or block.language not in ("sh", "python"):
            continue
        if block.language == "python":
            run_python(block.text, folder, f"{page}, block in line {block.line}")
            continue
        said, code = run_shell(short(block.text, block.line), folder)
        assert code == 0, f"{page}, block in line {block.line}: exit code {code}\n{said[-4000:]}"


def done(page):
    """The folder in which a page's commands have run."""
    if page not in RUN:
        RUN[page] = run_whole(page)
    return RUN[page]


def run_whole(page):
    folder = pathlib.Path(tempfile.mkdtemp(prefix=pathlib.Path(page).stem + "_", dir=BASE[0]))
    checkout(folder)
    GIVEN.get(page, lambda _: None)(folder)
    run_page((ROOT / page).read_text(), folder, page)
    return folder


BASE, RUN = [], {}


@pytest.fixture(scope="module", autouse=True)
def base(tmp_path_factory):
    BASE[:] = [tmp_path_factory.mktemp("pages")]
    RUN.clear()
    yield
    shutil.rmtree(BASE[0])


# Each in one test, whose pages take what those before them have made.
CHAINS = [
    ["README.md", "docs/checkpoints.md", "docs/evaluate.md", "docs/herd.md", "docs/kernels.md", "docs/map.md", "docs/memory.md",
     "docs/ranks.md", "docs/recipes.md", "docs/scaling.md", "docs/serve.md"],
    ["docs/data.md", "docs/finetune.md"],
    ["docs/curate.md"],
]


@pytest.mark.parametrize("pages", CHAINS, ids=lambda pages: pathlib.Path(pages[0]).stem)
def test_commands(pages):
    for page in pages:
        done(page)


def test_every_page_is_run():
    assert sorted(page for pages in CHAINS for page in pages) == sorted(PAGES)


def test_rules_are_needed():
    """A rule that no page needs any more goes."""
    lines = [line for page in PAGES for block in docpages.blocks((ROOT / page).read_text()) if block.language == "sh" and not block.reason
             for line in block.text.replace("\\\n", " ").splitlines()]  # fmt: skip
    assert [pattern for pattern, _ in RULES if not any(re.search(pattern, line) for line in lines)] == []


# --- what the pages name ------------------------------------------------------------------------------------------------


@functools.cache
def known_options(program):
    """Options of a program, by its --help; of shell scripts and benchmarks by their source."""
    path = ROOT / program
    if program.endswith(".sbatch"):
        return known_options("train_llama3")
    if path.suffix == ".sh":
        return set(re.findall(r"(?:^ +| = )\"?(--[\w-]+)\"?(?:\)| ])", path.read_text(), re.M))
    if path.parent.name == "bench":
        return set(re.findall(r"add_argument\(\s*\"(--[\w-]+)\"", path.read_text()))
    command = [sys.executable, path] if path.suffix == ".py" else [ROOT / "build/cpu" / program]
    told = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout
    return set(docpages.OPTION.findall(told))


def wrong_options(text):
    found = [f"{program} {option}" for program, option in docpages.options("".join(b.text for b in docpages.blocks(text) if b.language == "sh"))
             if option not in known_options(program)]  # fmt: skip
    programs = {*ALL_PROGRAMS, *(str(path.relative_to(ROOT)) for path in [*ROOT.glob("dev/bench/*.py"), ROOT / "dev/coverage.py"])}
    known = set().union(*(known_options(program) for program in programs if pathlib.Path(program).stem in text), FOREIGN)
    return found + [option for option in docpages.options_named(text) if option not in known]


ALL_PROGRAMS = ["train_llama3", "average_llama3", "merge_lora",
                *(str(path.relative_to(ROOT)) for folder in ("data", "scripts") for path in sorted(ROOT.glob(f"{folder}/*.*"))
                  if path.suffix in (".py", ".sh") and not path.is_symlink() and path.name != "moved.py")]  # fmt: skip


@functools.cache
def files():
    """Paths of all files that git would keep."""
    told = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(told.stdout.splitlines())


def tracked(path):
    return str(path.relative_to(ROOT)) in files()


@functools.cache
def file_names():
    """Names of all files of the checkout."""
    return {pathlib.Path(path).name for path in files()}


def is_there(name):
    if name in FOREIGN_FILES or (ROOT / name).exists():
        return True
    if docpages.TOP.match(name):
        return any(ROOT.glob(re.sub(r"[A-Z]{4,}", "*", name).removesuffix("/")))
    return "/" in name or name in file_names()


def missing_files(text):
    return [name for name in docpages.files_named(text) if not is_there(name)]


@functools.cache
def sources():
    """Makefiles, scripts, programs, the library and the stand-ins, as one text."""
    paths = [ROOT / "Makefile", *ROOT.glob("*.mk"), *ROOT.glob("*.cu"), *ROOT.glob("scripts/**/*"), *ROOT.glob("llmc/**/*"), *ROOT.glob("dev/standins/*"),
             ROOT / "tests/support/ranks.py"]  # fmt: skip
    return "\n".join(path.read_text() for path in paths if path.suffix in ("", ".mk", ".sh", ".sbatch", ".c", ".cu", ".cpp", ".h", ".py") and path.is_file())


def unknown_functions(text):
    """Of the functions that the prose names with ()."""
    return [name for name in docpages.functions_named(text) if not re.search(rf"\b{name}\(", sources())]


def unknown_variables(text):
    return [name for name in docpages.variables_named(text) if not re.search(rf"\b{name}\b", sources())]


def wrong_links(text, page):
    found = []
    for link in docpages.links(text):
        name, _, heading = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        if not target.exists() or heading and heading not in docpages.anchors(target.read_text()):
            found.append(link)
    return found


@pytest.mark.parametrize("page", [*PAGES, "BENCHMARKS.md"])
def test_names(page):
    text = (ROOT / page).read_text()
    assert wrong_options(text) == [] and missing_files(text) == [] and wrong_links(text, page) == []
    assert unknown_variables(text) == [] and unknown_functions(text) == []
    assert {block.language for block in docpages.blocks(text)} <= {"sh", "python", ""}


def test_map_has_every_folder():
    text = (ROOT / "docs/map.md").read_text()
    folders = [path.parent.relative_to(ROOT) for pattern in ("[a-z]*/*", "llmc/*/*") for path in ROOT.glob(pattern) if tracked(path)]
    assert sorted({f"{folder}/" for folder in folders if f"`{folder}/`" not in text}) == []


def test_map_has_the_order_of_layers():
    order = re.findall(r'^    "(\w+)",', (ROOT / "tests/test_layers.py").read_text(), re.M)
    assert re.findall(r"^\| `llmc/(\w+)/`", (ROOT / "docs/map.md").read_text(), re.M) == order


def test_readme_is_short():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 200 and max(map(len, lines)) <= 120


# --- the tests can fail -------------------------------------------------------------------------------------------------

PLANTED = """# A page

`scripts/plot.py --tittle` draws a run, `llmc/modell/llama3.c` and `nobody.c` compute it in `llama3_forwards()`: [here](nowhere.md), [there](#a-pag).

```sh
scripts/plot.py runs/mine \\
    --outptu loss.png && build/cpu/train_llama3 --config configs/tinny.json --stepz 3
```

<!-- not run: takes hours -->
```sh
STEPPS=3 mpirun -np 8 --foreign build/cuda/train_llama3 --sav-every 3
```
"""


def test_planted_names_are_found():
    assert wrong_options(PLANTED) == ["scripts/plot.py --outptu", "train_llama3 --stepz", "train_llama3 --sav-every", "--tittle"]
    assert missing_files(PLANTED) == ["configs/tinny.json", "llmc/modell/llama3.c", "nobody.c"]
    assert unknown_variables(PLANTED) == ["STEPPS"] and unknown_functions(PLANTED) == ["llama3_forwards"]
    assert wrong_links(PLANTED, "README.md") == ["nowhere.md", "#a-pag"]


def test_planted_commands_fail(tmp_path):
    with pytest.raises(AssertionError, match=r"block in line 2: exit code 7(.|\n)*failed: cat"):
        run_page("```sh\ntrue | bash -c 'exit 7' | cat\n```\n", tmp_path)
    with pytest.raises(ZeroDivisionError):
        run_page("```python\n1 / 0\n```\n", tmp_path)
    run_page("<!-- not run: it fails -->\n```sh\nfalse\n```\n```\nfalse\n```\n", tmp_path)
