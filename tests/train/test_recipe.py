"""--recipe: a run of several stages is bit for bit what runs of their own would be; it can be taken up inside every kind of stage,
and reads no window twice or never."""

import json
import math
import random
import shlex
import shutil
import signal
import subprocess
from ctypes import byref, c_double, c_uint64, c_void_p

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

import llmc
import ranks
import mixtures
from hostlib import batch_at, call, library, path_bytes, pointer, write_shard
from reciperuns import ENDS, RecipeStepper, RecipeWork, lines, stages, weights
from trainrun import BOS, EOS, ON_CPU, VOCAB, Workplace, program
from waiting import wait_until

library.permutation_key.restype = c_uint64
library.permutation_key.argtypes = [c_uint64, c_uint64]
LAST = ENDS["anneal"]
EVALUATIONS = ("val_loss", "task", "val_loss_averaged", "stage_ended", "exhausted")


@pytest.fixture
def work(tmp_path):
    return RecipeWork(tmp_path)


def everything(work, output=None):
    return [lines(work, "loss", output), *(lines(work, kind, output) for kind in EVALUATIONS)]


# ---- the whole run, and the same taken up inside any stage


@pytest.fixture(scope="module", params=[1, 2])
def whole(request, tmp_path_factory):
    """A run with a checkpoint after every step."""
    work = RecipeWork(tmp_path_factory.mktemp("whole"))
    work.ranks = request.param
    out, err = work.run_ranks(work.ranks, save_every=1, keep_last=0)
    assert err == "" and f"done after {LAST} steps" in out
    work.out = out
    return work


def test_stages_follow_one_another(whole):
    log = lines(whole, "loss")
    assert [line["step"] for line in log] == list(range(1, LAST + 1))
    for name, end in ENDS.items():
        assert max(line["step"] for line in log if line["stage"] == name) == end
    assert [line["tokens"] for line in log] == np.cumsum([128] * 6 + [256] * 16).tolist()
    read = [{name: source["tokens"] for name, source in line["sources"].items()} for line in log]
    assert [sum(r.values()) for r in read] == [line["tokens"] for line in log] and read[5]["code"] == 0
    for stage, end in list(ENDS.items())[:-1]:
        assert f"step {end}: stage {list(ENDS).index(stage) + 2} of 5 begins, {list(ENDS)[list(ENDS).index(stage) + 1]}: " in whole.out
    assert "step 17: stage checked ends 4 steps early: all its conditions hold" in whole.out
    # every n-th step of the run, and the end of each stage
    assert [line["step"] for line in lines(whole, "val_loss")] == [3, 6, 9, 11, 12, 15, 16, 17, 18, 20, 22]
    tasks = [(line["step"], line["task"]) for line in lines(whole, "task")]
    assert tasks == [(16, "other"), (17, "quiz")]  # the last stage names none


def test_learning_rates(whole):
    """Of the run by its tokens; of the last stage by its own pieces."""
    tokens, rates = np.cumsum([128] * 6 + [256] * 11), []
    for t in tokens:
        rates.append(3e-3 * t / 512 if t <= 512 else 3e-4 + 2.7e-3 * 0.5 * (1 + math.cos(math.pi * min(t - 512, 4096) / 4096)))
    rates += [1e-3 * (1 - k / 5) for k in range(1, 6)]
    assert [line["lr"] for line in lines(whole, "loss")] == pytest.approx(rates, rel=6e-7, abs=1e-12)  # seven digits of a float


@pytest.mark.parametrize("whole, step", [(1, s) for s in (3, 6, 8, 11, 13, 15, 16, 17, 18, 21)] + [(2, s) for s in (8, 13, 16, 17, 21)], indirect=["whole"])
def test_the_same_bits_taken_up_anywhere(whole, step):
    """In the middle and at the end of each stage, within the run of samples of an average, before and after an early end."""
    output = whole.folder / f"from_{step}"
    whole.run_ranks(whole.ranks, resume=whole.checkpoint(step), output=output, save_every=5)
    assert everything(whole, output) == [[line for line in kind if line["step"] > step] for kind in everything(whole)]
    assert weights(output) == weights(whole.output)
    assert whole.state(LAST, output)["stage"] == whole.state(LAST)["stage"]


# ---- against runs without a recipe


class Batches:
    """The rows of a recipe's spans, out of the mixture itself, by spans that are written down here."""

    def __init__(self, work, block, seed):
        sources = [(name, work.data / f"{name}_*.bin") for name in work.recipe["sources"]]
        given = (mixtures.MixtureSource * len(sources))(*((n.encode(), path_bytes(p), 0) for n, p in sources))
        self.handle, self.count = c_void_p(), len(sources)
        call("mixture_open", byref(self.handle), given, self.count, block, seed, VOCAB, None)

    def span(self, rows, T, weights, at_end, mask):
        """[rows, T + 1] tokens. A target that is ignored is the next document's first token."""
        doubles = [(c_double * self.count)(*values) for values in (weights, at_end)]
        call("mixture_begin", self.handle, byref(mixtures.MixtureSpan(rows, *doubles, T, mask)), None)
        arrays = [np.full((rows, T), -9999, np.int32) for _ in range(4)]
        call("mixture_fetch", self.handle, 0, rows, byref(batch_at(*map(pointer, arrays))))
        tokens, targets = arrays[:2]
        return np.concatenate([tokens, np.where(targets[:, -1:] < 0, BOS, targets[:, -1:])], axis=1)


def write_windows(work, folder, rows, first, seed, rng):
    """Shards of one window each, so that a plain run reads those rows from its sample number `first` on, in their order."""
    folder.mkdir()
    count = first + len(rows)
    for sample in range(count):
        window = library.permutation_at(sample, count, library.permutation_key(seed, 0))
        tokens = rows[sample - first] if sample >= first else rng.integers(0, 256, rows.shape[1])
        write_shard(folder / f"{window:05}.bin", tokens, vocab=VOCAB - 2, bos=BOS, eos=EOS, sha=work.sha)
    shutil.copy(work.data / "tokenizer.json", folder)
    return folder / "*.bin"


RAMP = [  # name, steps, T, tokens a step, rows of a micro-batch, web's and code's share at both ends, mask, learning rate
    ("first", 5, 16, 128, 4, (1, 0), (1, 0), True, 3e-3),
    ("batch", 4, 16, 256, 4, (0.8, 0.2), (0.2, 0.8), True, 2e-3),
    ("length", 4, 64, 512, 2, (0.2, 0.8), (0.2, 0.8), True, 2e-3),
    ("unmasked", 3, 32, 192, 3, (0.5, 0.5), (0.5, 0.5), False, 1e-3),
]


def as_stage(name, steps, T, tokens, rows, weights, at_end, mask, rate):
    shares = zip(("web", "code"), weights, at_end)
    mixture = [{"source": s, "weight": w, "weight_at_end": e} for s, w, e in shares if w or e]
    return {"name": name, "steps": steps, "seq_len": T, "tokens_per_step": tokens, "batch_size": rows, "mixture": mixture,
            "document_mask": mask, "learning_rate": [{"shape": "constant", "from": rate}]}  # fmt: skip


def test_a_ramp_has_the_bits_of_separate_runs(work):
    """Each stage as a run of its own without a recipe, resumed from the one before, on files of the same windows."""
    seed = 7
    work.write_recipe(stages=[as_stage(*stage) for stage in RAMP])
    work.run(eval_tasks=None, seed=seed)
    batches, position, losses, before, step = Batches(work, 64, seed), 0, [], "never", 0
    for i, (name, steps, T, tokens, B, *shares, mask, rate) in enumerate(RAMP):
        rows = batches.span(steps * tokens // T, T, *shares, mask)
        first = -(-position // tokens) * tokens // T  # a resumed run goes on at the first of its steps that is all unread
        output = work.folder / f"plain_{i}"
        step, position = step + steps, first * T + steps * tokens
        plain = Workplace.arguments  # the options of a run without a recipe
        options = dict(train_data=write_windows(work, work.folder / f"windows_{i}", rows, first, seed, work.rng), output=output,
                       steps=step, seq_len=T, batch_size=B, tokens_per_step=tokens, document_mask="on" if mask else "off", lr=rate,
                       final_lr_fraction=1, warmup_steps=0, seed=seed, resume=before, accept_changes=True)  # fmt: skip
        done = subprocess.run([program("fp32"), *plain(work, **options)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        losses += lines(work, "loss", output)
        before = output / "checkpoint"
    ours = lines(work, "loss")
    for key in ("step", "loss", "lr", "grad_norm"):
        assert [line[key] for line in ours] == [line[key] for line in losses], key
    assert weights(work.output) == weights(output)


def test_a_ramp_has_the_bits_of_recipes_of_fewer_stages(work):
    """Each stage begins in a process of its own, from the checkpoint of a run whose recipe ended there. The longest rows come
    first, since the lengths' common multiple decides on the order of the data."""
    all_stages = [as_stage(*stage) for stage in RAMP[2:] + RAMP[:2]]
    work.write_recipe(stages=all_stages)
    work.run(output=work.folder / "whole", eval_tasks=None)
    for count in range(1, len(RAMP) + 1):
        work.write_recipe(stages=all_stages[:count])
        work.run(resume="auto", accept_changes=True, eval_tasks=None)
    assert everything(work) == everything(work, work.folder / "whole")
    assert weights(work.output) == weights(work.folder / "whole")


# ---- nothing is read twice or never


def places(work, rows):
    """{source: [(shard, first position, T)]} of rows, by their content, in the order of reading."""
    known = {}
    for name, shards in work.tokens.items():
        for shard, tokens in enumerate(shards):
            for at in range(0, len(tokens) - 16, 16):
                known[tuple(tokens[at : at + 16])] = name, shard, at
    found = {name: [] for name in work.tokens}
    for row in rows:
        name, shard, at = known[tuple(row[:16])]
        T = len(row) - 1
        tokens = work.tokens[name][shard]
        assert np.array_equal(row[:T], tokens[at : at + T]) and at + T < len(tokens)
        assert row[T] in (tokens[at + T], -1)  # -1: a target that is ignored
        found[name].append((shard, at, T))
    return found


def test_no_window_is_read_twice_or_left_out(work):
    """Across a ramp of the batch, longer rows, an early end and many epochs, all read back from the trainer's own batches; and
    taken up inside each stage the rest of the rows is the same."""
    lib = llmc.load("fp32")
    whole = RecipeStepper(lib, work, save_every=1, keep_last=0).rest()
    log = lines(work, "loss")
    assert [sum(len(row) - 1 for row in step) for step in whole] == np.diff([0] + [line["tokens"] for line in log]).tolist()
    found = places(work, [row for step in whole for row in step])
    for name, read in found.items():
        last = log[-1]["sources"][name]
        assert sum(T for _, _, T in read) == last["tokens"]
        counts = [np.zeros(len(tokens), int) for tokens in work.tokens[name]]
        for shard, at, T in read:
            counts[shard][at : at + T] += 1
        most = math.ceil(last["epochs"])
        assert max(c.max() for c in counts) <= most, name
        # passed over: less than a window at each shard's end, and where rows grew less than a block of 64, in each epoch
        left_out = sum((most - 1) * len(c) - np.minimum(c, most - 1).sum() for c in counts)
        assert left_out <= most * (64 * len(counts) + 64), name
    for step in (3, 8, 13, 16, 19):
        rest = RecipeStepper(lib, work, done=step, resume=work.checkpoint(step), output=work.folder / f"from_{step}").rest()
        assert all(np.array_equal(a, b) for a, b in zip(rest, whole[step:], strict=True)), step


# ---- killed, other numbers of ranks


@pytest.mark.parametrize("count", [1, 2])
def test_killed_again_and_again(work, count):
    """The log has each step once, with the bits of a run that was never killed."""
    work.run_ranks(count, output=work.folder / "whole", eval_tasks=work.data / "*.eval")
    log, kills = work.output / "log.jsonl", 0

    def written():
        return log.stat().st_size if log.exists() else 0

    for _ in range(200):
        before = written()
        process = ranks.start([program("fp32"), *work.arguments(save_every=1, resume="auto")], ranks=count)
        more = random.randint(1, 1500)
        try:
            wait_until(lambda: process.poll() is not None or written() >= before + more, "the run goes on")
        finally:
            ranks.kill(process)
        if process.returncode == 0:
            break
        kills += 1
        if kills > 6:  # that was enough
            work.run_ranks(count, save_every=1, resume="auto")
            break
    assert kills >= 1 and work.checkpoint(LAST).exists()
    assert everything(work) == everything(work, work.folder / "whole")
    assert weights(work.output) == weights(work.folder / "whole")


@pytest.mark.parametrize("first, then, step", [(1, 2, 8), (2, 1, 13), (1, 2, 16), (2, 1, 20)])
def test_other_ranks(work, first, then, step):
    """The same rows, and the same losses but for rounding: fp32, a sum of some hundred terms in another order."""
    work.run_ranks(first, save_every=1, keep_last=0)
    output = work.folder / "other"
    out, err = work.run_ranks(then, resume=work.checkpoint(step), output=output)
    assert err == "" and f"this run is of {then} rank" in out
    ours, theirs = lines(work, "loss", output), [line for line in lines(work, "loss") if line["step"] > step]
    assert [line["sources"] for line in ours] == [line["sources"] for line in theirs]
    assert [line["loss"] for line in ours] == pytest.approx([line["loss"] for line in theirs], rel=1e-5)
    assert work.state(LAST, output)["stage"] == work.state(LAST)["stage"]


# ---- what a stage has


def test_validation_by_source(work):
    """Against --eval-only, with the configuration that the checkpoint has: RoPE and length of the last stage."""
    work.write_config(initializer_range=0.2)  # so that positions matter
    work.run()
    last = lines(work, "val_loss")[-1]
    config = json.loads((work.output / "checkpoint/config.json").read_text())
    scaling = config.get("rope_scaling") or config["rope_parameters"]
    assert (scaling.get("rope_type"), scaling["factor"]) == ("llama3", 4)
    for name, loss in last["val_losses"].items():
        model = work.folder / f"only_{name}"
        options = dict(config=None, output=model, recipe=None, eval_tasks=None, seed=None, eval_batches=2)
        work.run("--eval-only", init_from=work.output / "checkpoint", seq_len=64, batch_size=1,
                 val_data=work.data / f"val_{name}.bin", **options)  # fmt: skip
        assert lines(work, "val_loss", model)[-1]["val_loss"] == pytest.approx(loss, rel=1e-6)  # floats added up in other groups
    assert min(last["val_losses"].values()) <= last["val_loss"] <= max(last["val_losses"].values())


def write_without_masks(work):
    """The same recipe, but that stage 4 sees across documents, which transformers does too."""
    changed = stages()
    changed[3]["document_mask"] = False
    path = work.folder / "unmasked.json"
    path.write_text(json.dumps({**work.recipe, "stages": changed}))
    return path


def test_rope_of_each_checkpoint(work):
    """config.json has what the stage rotates by, from its first step on; transformers computes the same loss with it."""
    work.write_config(initializer_range=0.2)  # so that positions matter
    work.run(save_every=1, keep_last=0)
    for step, theta, factor in [(11, 10000, None), (12, 50000, 4), (22, 50000, 4)]:
        rope = AutoConfig.from_pretrained(work.checkpoint(step)).rope_parameters
        assert (rope["rope_theta"], rope.get("factor")) == (theta, factor)
    model = AutoModelForCausalLM.from_pretrained(work.checkpoint(15), dtype=torch.float64).eval()
    other = work.folder / "rows"
    stepper = RecipeStepper(llmc.load("fp32"), work, done=15, resume=work.checkpoint(15), output=other, accept_changes=True,
                            recipe=write_without_masks(work))  # fmt: skip
    rows = torch.tensor(np.array(stepper.step())).long()
    stepper.close()
    with torch.no_grad():
        logits = model(rows[:, :-1]).logits
    targets = torch.cat([rows[:, 1:-1], rows[:, -1:]], dim=1)
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).item()
    assert lines(work, "loss", other)[0]["loss"] == pytest.approx(loss, rel=1e-5)


def test_the_average_is_of_its_stage(work):
    """Of the steps 20 and 22; the stage before had one of its own, of which nothing is left."""
    recipe = stages()
    recipe[2]["average"] = {"last_steps": 3}
    recipe[3]["average"] = None
    work.write_recipe(stages=recipe)
    work.run(save_every=1, keep_last=0)
    averaged = {line["step"]: line["averaged_steps"] for line in lines(work, "val_loss_averaged")}
    assert averaged == {15: 3, 22: 2}
    for step, samples in ((15, (13, 14, 15)), (22, (20, 22))):
        models = [load_file(work.checkpoint(s) / "trainer/optimizer.safetensors") for s in samples]
        for name in (key for key in models[0] if key.startswith("master.")):
            mean = torch.stack([m[name] for m in models]).double().mean(0)
            found = models[-1][name.replace("master.", "average.")]
            assert torch.allclose(found.double(), mean, rtol=0, atol=len(samples) * 2.0**-24 * mean.abs().max().item()), name
    assert not (work.checkpoint(17) / "averaged").exists()


def test_a_jump_of_the_loss_between_stages_is_no_spike(work):
    """Random tokens after many steps of a single one: all updates are made."""
    work.write("flat_0.bin", np.concatenate([[BOS], np.full(2000, 7)]))
    work.recipe["sources"]["flat"] = {"train": str(work.data / "flat_0.bin")}
    recipe = stages()[:1]
    recipe[0].update(steps=400, mixture=[{"source": "flat", "weight": 1}], evaluate=None)
    work.write_recipe(stages=[*recipe, {"name": "other", "steps": 3, "mixture": [{"source": "web", "weight": 1}]}])
    work.run(on_spike="skip", eval_tasks=None, lr=None)
    losses = [line["loss"] for line in lines(work, "loss")]
    assert losses[399] < 0.5 * losses[400] and lines(work, "spike") == lines(work, "skipped") == []


def test_a_source_is_used_up(work):
    """It is told once, and its share goes to the others."""
    work.recipe["sources"]["code"]["max_epochs"] = 1
    work.write_recipe(stages=stages(at_least=2))
    out, _ = work.run(save_every=1, keep_last=0)
    (line,) = lines(work, "exhausted")
    assert line["exhausted"] == "code" and out.count("source code is used up (max_epochs 1)") == 1
    steps = {entry["step"]: entry["sources"] for entry in lines(work, "loss")}
    assert max(steps) == 26  # a share of right answers above 1 ends nothing
    assert steps[line["step"]]["code"]["tokens"] == steps[26]["code"]["tokens"] == line["tokens"] <= 699
    assert steps[26]["web"]["tokens"] - steps[25]["web"]["tokens"] == 256
    after = work.folder / "after"
    work.run(resume=work.checkpoint(line["step"] + 1), output=after)
    assert lines(work, "exhausted", after) == [] and lines(work, "loss", after)[-1] == lines(work, "loss")[-1]


# ---- conditions


@pytest.mark.parametrize("count, met", [(1, 0), (1, 1), (1, 2), (2, 1), (2, 2)])
def test_all_conditions_must_hold(work, count, met):
    """`met` of two conditions hold, whichever; a stage that nothing ends has all its steps, and one that is the last ends the run."""
    recipe = stages()[:4]
    limits = [0 if i < met else 1.5 for i in range(2)]
    random.shuffle(limits)
    recipe[3]["ends_when"] = {"every": 2, "all": [{"task": t, "metric": "acc", "at_least": x} for t, x in zip(("quiz", "other"), limits)]}
    work.write_recipe(stages=recipe)
    out, err = work.run_ranks(count)
    last = 17 if met == 2 else 21
    assert err == "" and f"done after {last} steps" in out and work.checkpoint(last).exists()
    assert [line["stage_ended"] for line in lines(work, "stage_ended")] == ["checked"] * (met == 2)
    assert lines(work, "val_loss")[-1]["step"] == last
    checks = [line["step"] for line in lines(work, "task") if line["task"] == "quiz" and line["step"] > 15]
    assert checks == ([17] if met == 2 else [17, 19, 21])
    out, _ = work.run_ranks(count, resume="auto")
    assert "done: " in out


def test_shares_between_checks(work):
    """They change linearly over the stage, however often it might end."""
    stage = {"name": "only", "steps": 7, "seq_len": 16, "tokens_per_step": 512, "batch_size": 4, "evaluate": None, "ends_when": stages(2)[3]["ends_when"],
             "mixture": [{"source": "web", "weight": 3, "weight_at_end": 1}, {"source": "code", "weight": 1, "weight_at_end": 3}]}  # fmt: skip
    work.write_recipe(stages=[stage])
    work.run()
    batches, expected = Batches(work, 16, 7), []
    for first in (0, 2, 4, 6):
        last = min(first + 2, 7)
        web = [0.75 - 0.5 * at / 7 for at in (first, last)]
        rows = batches.span((last - first) * 32, 16, (web[0], 1 - web[0]), (web[1], 1 - web[1]), True)
        expected += [places(work, rows[at : at + 32]) for at in range(0, len(rows), 32)]
    found = [{name: source["tokens"] for name, source in line["sources"].items()} for line in lines(work, "loss")]
    total = {name: np.cumsum([16 * len(step[name]) for step in expected]).tolist() for name in work.tokens}
    assert [{name: total[name][step] for name in total} for step in range(7)] == found
    assert abs(found[-1]["web"] / 3584 - 0.5) < 0.01 and found[0]["web"] / 512 > 0.7


def test_a_signal_before_the_conditions_are_looked_at(work):
    """Evaluations that a signal leaves out are made up for, and the stage ends by them."""
    recipe = stages()
    recipe[0]["evaluate"] = {"every": 3, "tasks": ["other"], "tasks_every": 100}
    recipe[3]["evaluate"] = {"every": 4, "tasks": ["a*"], "tasks_every": 17}
    work.write_recipe(stages=recipe)
    work.write_evaluation("a")
    work.run(output=work.folder / "whole")
    for count in (300, 3000, 30000):  # they come before quiz and take time: more of it where this process was too slow
        for i in range(count):
            (work.data / f"a{i:05}.eval").write_bytes((work.data / "quiz.eval").read_bytes())
        process = work.start(precision="fp32", overwrite=True)
        log = work.output / "log.jsonl"
        wait_until(lambda: process.poll() is not None or (log.exists() and '"task":"a0' in log.read_text().replace(" ", "")), "evaluations")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=600)
        if not lines(work, "stage_ended"):
            break
    assert lines(work, "loss")[-1]["step"] == 17
    for file in work.data.glob("a0*.eval"):
        file.unlink()
    work.run(resume="auto")
    assert lines(work, "loss") == lines(work, "loss", work.folder / "whole")
    assert lines(work, "stage_ended") == lines(work, "stage_ended", work.folder / "whole") != []
    assert weights(work.output) == weights(work.folder / "whole")


# ---- memory


SHIM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
// Memory of the device, and pinned memory of the host, on the CPU target alone are aligned to 256 bytes.
int posix_memalign(void **to, size_t alignment, size_t bytes) {
    int (*real)(void **, size_t, size_t) = (int (*)(void **, size_t, size_t))dlsym(RTLD_NEXT, "posix_memalign");
    struct stat log;
    if (alignment == 256) {
        const int trains = stat(getenv("SHIM_LOG"), &log) == 0 && log.st_size > 0;
        FILE *file = fopen(getenv("SHIM_TELLS"), "a");
        fprintf(file, "%s %zu\\n", trains ? "training" : "before", bytes);
        fclose(file);
    }
    return real(to, alignment, bytes);
}
"""


@pytest.mark.skipif(not ON_CPU, reason="counts what the CPU target's cudaMalloc asks for")
def test_no_memory_of_the_device_is_taken_after_the_first_step(work, tmp_path):
    (tmp_path / "shim.c").write_text(SHIM.replace("\\\\", "\\"))
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", tmp_path / "shim.so", tmp_path / "shim.c", "-ldl"], check=True)
    tells = tmp_path / "tells"
    environment = {"LD_PRELOAD": str(tmp_path / "shim.so"), "SHIM_LOG": str(work.output / "log.jsonl"), "SHIM_TELLS": str(tells)}
    process = work.start(precision="fp32", environment=environment, sample_every=4)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    told = tells.read_text().split("\n")
    assert sum(line.startswith("before") for line in told) > 5
    assert [line for line in told if line.startswith("training")] == []


# ---- refused before the first step


def change(path, value):
    """A member of the recipe, by the keys to it; None: without it."""

    def apply(work):
        *keys, last = path
        at = work.recipe
        for key in keys:
            at = at[key]
        if value is None:
            del at[last]
        else:
            at[last] = value(work) if callable(value) else value

    return apply


BAD = {
    "no shards": (change(["sources", "code", "train"], lambda w: str(w.data / "none_*.bin")), ["code", "none_*.bin", "shard"]),
    "no validation shards": (change(["sources", "code", "val"], lambda w: str(w.data / "none.bin")), ["sources.code.val", "none.bin"]),
    "another tokenizer": (lambda w: w.write("code_0.bin", w.tokens["code"][0], sha=bytes(32)), ["code_0.bin", "tokenizer"]),
    "another vocabulary": (lambda w: w.write("web_1.bin", w.tokens["web"][1] % 200, vocab=300), ["web_1.bin", "300"]),
    "too long": (change(["stages", 2, "rope_scaling"], None), ["recipe.json:", "stages[2].seq_len", "64", "32"]),
    "does not divide": (change(["stages", 1, "tokens_per_step"], 200), ["recipe.json:", "stages[1].tokens_per_step", "200", "64"]),
    "used up": (lambda w: [w.recipe["sources"][n].update(max_epochs=0.6) for n in ("web", "code")],
                ["recipe.json", "stages[", "web (2600 tokens, max_epochs 0.6)", "code (700 tokens, max_epochs 0.6)"]),
    "validation shorter than the longest row": (lambda w: w.write("val_code.bin", w.tokens["code"][0][:60]), ["val_code.bin", "60", "65"]),
    "trained and validated": (change(["sources", "web", "val"], lambda w: str(w.data / "code_0.bin")), ["code_0.bin"]),
    "shard shorter than the longest row": (lambda w: w.write("code_0.bin", w.tokens["code"][0][:50]), ["code", "50", "65"]),
    "no such task": (lambda w: (w.data / "quiz.eval").unlink(), ["stages[3].ends_when.all[0].task", "quiz", "*.eval"]),
    "no such task to evaluate": (change(["stages", 3, "evaluate", "tasks"], ["other", "oth", "*z"]),
                                 ["stages[3].evaluate.tasks[1]", "--eval-tasks", "*.eval", "'oth'"]),
    "nothing to validate on": (lambda w: [w.recipe["sources"][n].pop("val") for n in ("web", "code")], ["stages[0].evaluate.every", "val"]),
    "no such metric": (change(["stages", 3, "ends_when", "all", 0, "metric"], "bits_per_byte"),
                       ["stages[3].ends_when.all[0].metric", "bits_per_byte"]),
}  # fmt: skip


@pytest.mark.parametrize("bad, count", [(bad, 1) for bad in BAD] + [(bad, 2) for bad in ("another tokenizer", "used up", "no such task")])
def test_refused_before_the_first_step(work, bad, count):
    apply, words = BAD[bad]
    work.write_config(max_position_embeddings=32)
    apply(work)
    work.write_recipe()
    work.ranks_refused(count, *words)


def test_options_beside_a_recipe(work):
    work.refused("stages[3].evaluate.tasks[0]", "--eval-tasks GLOB", "missing", eval_tasks=None)
    work.refused("--sample-tokens 17", "16", "stages[0]", sample_every=1, sample_tokens=17)
    work.refused("--recipe", "--seq-len", seq_len=16)
    work.write_recipe(stages=stages()[:2])
    work.refused("--eval-tasks", "*.eval", "recipe.json", "evaluate.tasks")


def test_what_divides_on_one_rank_only(work):
    work.recipe["stages"][1]["tokens_per_step"] = 192
    work.write_recipe(stages=work.recipe["stages"][:2])
    work.run(output=work.folder / "one", eval_tasks=None)
    work.ranks_refused(2, "recipe.json:", "stages[1].tokens_per_step", 192, 128, "2 ranks")


def test_ranks_with_other_recipes(work):
    other = work.folder / "other.json"
    changed = json.loads(work.path.read_text())
    changed["stages"][4]["steps"] = 6
    other.write_text(json.dumps(changed))
    work.ranks_refused(2, "rank 1", "--recipe", different={1: f'exec "$@" --recipe {other}'})
    plain = shlex.join(map(str, Workplace.arguments(work, output=work.output, eval_tasks=work.data / "*.eval", eval_batches=None, seed=7, steps=None, batch_size=None, seq_len=None, warmup_steps=None, lr=None, train_data=work.data / "web_*.bin")))  # fmt: skip
    work.ranks_refused(2, "rank 1", "--recipe", "none", eval_batches=None, different={1: f'exec "$1" {plain}'})


# ---- a recipe that was changed under a running run


def test_a_changed_recipe_is_refused(work):
    """By path and both values; what has no influence on the run may change."""
    work.run(save_every=8)
    recipe = json.loads(json.dumps(work.recipe))
    resume = work.checkpoint(8)
    changes = [
        (lambda r: r["stages"][1]["mixture"][0].update(weight=0.7), "stages[1].mixture[0].weight"),
        (lambda r: r["stages"][4].update(steps=6), "stages[4].steps"),
        (lambda r: r["sources"]["code"].update(max_epochs=3), "sources.code.max_epochs"),
        (lambda r: r["learning_rate"][1].update(to=1e-4), "learning_rate[1].to"),
    ]
    for apply, path in changes:
        changed = json.loads(json.dumps(recipe))
        apply(changed)
        work.recipe = changed
        work.write_recipe()
        work.refused("recipe.json", path, "--accept-changes", resume=resume, output=work.folder / "new")
    work.recipe = recipe
    work.write_recipe(notes=["another note"])
    work.run(resume=resume, output=work.folder / "new")
    assert weights(work.folder / "new") == weights(work.output)


def test_changes_that_are_accepted(work):
    """Other weights from the middle of a stage on: what was read stays read, and the rest has the new shares."""
    lib = llmc.load("fp32")
    whole = RecipeStepper(lib, work, save_every=1, keep_last=0).rest()
    work.recipe["stages"][1]["mixture"] = [{"source": "code", "weight": 1}]
    work.recipe["stages"][2]["steps"] = 3
    work.write_recipe()
    options = dict(resume=work.checkpoint(8), output=work.folder / "changed", accept_changes=True)
    out, _ = work.run(**options)
    assert "changed   " in out and "stages[1].mixture" in out and "done after 21 steps" in out
    log = {line["step"]: line for line in lines(work, "loss", options["output"])}
    assert [log[s]["stage"] for s in (9, 11, 12, 14, 15)] == ["wide", "wide", "long", "long", "checked"]
    before = lines(work, "loss")[7]["sources"]
    assert log[11]["sources"]["web"] == before["web"] and log[11]["sources"]["code"]["tokens"] == before["code"]["tokens"] + 3 * 256
    rest = RecipeStepper(lib, work, done=8, **{**options, "output": work.folder / "again"}).rest()
    found = places(work, [row for step in whole[:8] + rest[:3] for row in step])["code"]
    assert len(found) > 43 and len(set(found[:43])) == 43  # an epoch has so many windows


def test_another_length_is_accepted(work):
    """The order of the data begins anew, as its blocks are others."""
    work.run(save_every=8)
    work.recipe["stages"].append({"name": "more", "steps": 2, "seq_len": 96, "tokens_per_step": 192, "average": None})
    work.recipe["stages"][2]["rope_scaling"]["factor"] = 8
    work.write_recipe()
    new = work.folder / "new"
    out, _ = work.run(resume=work.checkpoint(8), output=new, accept_changes=True, save_every=1, keep_last=0)
    assert "done after 24 steps" in out
    for name in work.tokens:
        before, after = work.state(8)["stage"]["now"][name], work.state(9, new)["stage"]["began"][name]
        assert after["place"] == before["place"] * 64 // 192 and after["offset"] == after["windows"] == 0
        assert after["tokens"] == before["tokens"]


def test_sources_in_another_order(work):
    """The order decides between sources that are equally far behind: the running span is another then."""
    work.run(save_every=8)
    work.recipe["sources"] = dict(reversed(work.recipe["sources"].items()))
    work.write_recipe()
    new = dict(resume=work.checkpoint(8), output=work.folder / "new")
    work.refused("--accept-changes", **new)
    work.run(**new, accept_changes=True, save_every=1, keep_last=0)
    assert work.state(9, new["output"])["stage"]["span_step"] == 8
    assert work.state(9, new["output"])["stage"]["began"] == work.state(8)["stage"]["now"]


def test_runs_with_and_without_a_recipe(work):
    work.run(save_every=8)
    plain = dict(recipe=None, eval_batches=None, train_data=work.data / "web_*.bin", eval_tasks=None, seq_len=16, batch_size=4, steps=3)
    work.refused("--recipe FILE", "is of a run with a recipe", resume=work.checkpoint(8), output=work.folder / "new", **plain)
    work.run(output=work.folder / "plain", **plain)
    work.refused("--recipe", "--init-from", resume=work.folder / "plain", output=work.folder / "new")
    work.recipe["stages"][1]["name"] = "other"
    work.write_recipe()
    work.refused("stages", "'wide'", resume=work.checkpoint(8), output=work.folder / "new", accept_changes=True)


def test_the_example_of_the_manual(work):
    """It is a recipe as the reader takes it."""
    page = (llmc.ROOT / "docs/recipes.md").read_text()
    work.path.write_text(page[page.index('{\n  "name"') :].split("```")[0])
    out, err = work.run("--dry-run", config=None, eval_tasks=None, eval_batches=None)
    assert err == "" and all(name in out for name in ("larger batch", "annealing", "needle_8192"))
