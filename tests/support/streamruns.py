"""Short runs of the programs that together come to every kind of work that is queued on a stream, each with the facts by which
two runs of it are compared: LLMC_HOST_STREAMS must change none of them.

    runs = StreamRuns(folder, "build/cpu")
    facts = runs.facts("pretrain", "random:7")            # {what: value}; "fault" where a program failed
    runs.verdict("pretrain", "lazy", skip="0x1234")       # what a call that is left out changes
"""

import hashlib
import itertools
import json
import os
import shutil
import subprocess

import llmc
import ranks
from finetuning import LORA, Finetuning
from trainrun import CONFIG, T

NOT_COMPARED = ("seconds", "per_second", "bytes", "spike")
TIMEOUT = 60  # of a program whose ranks may wait for each other in vain
SKIPPED = "is skipped\n"
NOTHING_DUE = {"eval_every": None, "val_data": None, "eval_batches": None, "checksum_every": 0}  # but checkpoints


def numbers(log):
    """Every line of log.jsonl, without times; when a checkpoint that is written in the background is done, is no fact either."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    kept = [{k: v for k, v in line.items() if not any(word in k for word in NOT_COMPARED)} for line in lines]
    return [line for line in kept if "checkpoint" not in line]


def found_in(folder):
    """{file: its numbers or hash}"""
    facts = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name == "log.jsonl":
            facts[name] = numbers(path)
        elif path.is_file() and (path.suffix == ".safetensors" or path.name.startswith("reference_")):
            facts[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return facts


class StreamRuns(Finetuning):
    def __init__(self, folder, build):
        super().__init__(folder, precision="bf16", steps=3)
        self.build = llmc.ROOT / build
        self.over_mpi = "cuda" not in self.build.name
        self.count, self.eager = itertools.count(), {}
        self.graphs = "on"  # --cuda-graph of GRAPHS; without graphs nothing else changes

    # ---- runs: each a list of commands, as (ranks, words)

    def train(self, output, many=1, **changes):
        short = {"steps": 3, "batch_size": 2, "save_every": 2, "eval_every": 2, "eval_batches": 2, "checksum_every": 1}
        files = {"val_data": self.data / "val_*.bin", "output": output, "threads": 1 if self.over_mpi else None}
        return many, [self.build / "train_llama3", *self.arguments(**{**short, **files, **changes})]

    def finetune(self, task, output, many=1, **changes):
        data = shutil.copytree(self.chat if task == "sft" else self.prefs, output / "data")  # where reference_*.bin is written
        files = {"train_data": data / "train_*.bin", "val_data": data / "val_*.bin"}
        return self.train(output / "run", many, **{**self.task(task), "steps": 3, "eval_every": 2, **files, **changes})

    def tool(self, name, output, *words):
        return 1, [self.build / name, "--output", output, *words]

    def pretrain(self, output):
        """Accumulation, validation, samples, saving in the background, a timeline; then resumed."""
        run = {"grad_accum": 3, "sample_every": 2, "sample_tokens": 6}
        trace = {"trace": output / "trace.json", "trace_steps": "1:2"}
        yield self.train(output / "run", **run, **trace, steps=4)
        yield self.train(output / "run", **run, steps=6, resume="auto", schedule_steps=4)

    def recomputed(self, output):
        """Blocks that are computed again, a mean of the weights, and the tool that makes means."""
        yield self.train(output / "run", recompute="block", average_from=1, steps=4, keep_last=0)
        models = [output / f"run/checkpoints/step_0000000{i}" for i in (2, 4)]
        yield self.tool("average_llama3", output / "mean", *models)

    def graph(self, output):
        """Micro-batches that are launched as graphs: a step's first, one in between, its last, and one that is both; with other work
        of the model between them, batches of documents and not, and each way to recompute."""
        between = {"cuda_graph": self.graphs, "sample_every": 3, "sample_tokens": 6, "average_from": 2, "recompute": "block"}
        yield self.train(output / "three", **between, grad_accum=3, steps=7)
        late = {"cuda_graph": self.graphs, **NOTHING_DUE}
        yield self.train(output / "one", **late, steps=8, document_mask="off", optimizer_state="host")
        yield self.train(output / "two", **late, grad_accum=2, steps=6, recompute="cheap", save_every=5)
        yield self.train(output / "two", **late, grad_accum=2, steps=9, schedule_steps=6, resume="auto")

    def graph_dpo(self, output):
        yield self.finetune("dpo", output, cuda_graph=self.graphs, steps=6, grad_accum=2)

    def graph_lora(self, output):
        yield self.finetune("sft", output, cuda_graph=self.graphs, steps=6, **LORA)

    def graph_reward(self, output):
        yield self.finetune("reward", output, cuda_graph=self.graphs, steps=6)

    def saved(self, output):
        """Nothing but the checkpoints waits for the device after a step."""
        yield self.train(output / "run", steps=2, save_every=1, **NOTHING_DUE)

    def rounded(self, output):
        """Moments in bf16, no master weights; resumed."""
        run = {"moments": "bf16", "master_weights": "none"}
        yield self.train(output / "run", **run)
        yield self.train(output / "run", **run, steps=5, resume="auto", schedule_steps=3)

    def ahead(self, output):
        """Each step begins before the one before is observed, as nothing is due that needs it: with updates that are left out
        because of what is observed, then with a checkpoint in between, checksums and a mean of the weights."""
        rest = {**NOTHING_DUE, "grad_accum": 2}
        spikes = {"on_spike": "skip", "spike_deviations": 0.2, "lr": "1e-5"}  # so that losses vary about their mean
        yield self.train(output / "run", **rest, **spikes, steps=60, save_every=0)
        mean = {"average_from": 2, "average_every": 3}
        yield self.train(output / "other", **{**rest, **mean, "checksum_every": 2}, steps=9, save_every=4)

    def offloaded(self, output):
        """The optimizer's state in host memory, of which a mean is made; resumed, with steps that begin before the one before
        is observed."""
        run = {"optimizer_state": "host", "average_from": 1}
        yield self.train(output / "run", **run)
        yield self.train(output / "run", **{**run, **NOTHING_DUE}, steps=6, resume="auto", schedule_steps=3)

    def inputs_on_host(self, output):
        """The inputs of six blocks wait in host memory, with validation and samples between the steps; then of those that are
        trained, without recomputation."""
        deep = output / "deep.json"
        deep.write_text(json.dumps({**CONFIG, "num_hidden_layers": 6}))
        run = {"config": deep, "activations": "host", "grad_accum": 2}
        yield self.train(output / "run", **run, recompute="block", sample_every=2, sample_tokens=6)
        yield self.train(output / "part", **run, train_only="model.layers.[1-5].*", recompute="cheap", **NOTHING_DUE)

    def scored(self, output):
        yield self.train(output / "run", config=None, init_from=self.base, eval_only=True, steps=None, train_data=None,
                         warmup_steps=None, lr=None, save_every=None, eval_every=None,
                         checksum_every=None)  # fmt: skip

    def sft(self, output):
        yield self.finetune("sft", output, grad_accum=2)

    def lora(self, output):
        yield self.finetune("sft", output, **LORA)
        yield self.tool("merge_lora", output / "merged", "--adapter", output / "run/checkpoint")

    def dpo(self, output):
        yield self.finetune("dpo", output, grad_accum=2)

    def reward(self, output):
        yield self.finetune("reward", output)

    def two_ranks(self, output):
        yield self.train(output / "run", 2, zero=2, grad_accum=2, sample_every=2, sample_tokens=6)
        yield self.train(output / "run", 2, zero=2, grad_accum=2, steps=5, resume="auto", schedule_steps=3)

    def two_ranks_bf16(self, output):
        """Gradients travel as bf16; resumed in another division."""
        yield self.train(output / "run", 2, zero=2, grad_accum=2, grad_reduce="bf16")
        yield self.train(output / "run", 2, zero=0, grad_accum=2, grad_reduce="bf16", steps=5, resume="auto", schedule_steps=3)

    def four_ranks_bf16(self, output):
        yield self.train(output / "run", 4, zero=1, batch_size=1, grad_accum=2, shard_group=2, grad_reduce="bf16")

    def two_ranks_mpi_bf16(self, output):
        yield self.train(output / "run", 2, zero=1, transport="mpi", grad_reduce="bf16")

    def two_ranks_zero0(self, output):
        yield self.train(output / "run", 2, zero=0, grad_accum=2)

    def two_ranks_zero1(self, output):
        yield self.train(output / "run", 2, zero=1, trace=output / "trace.json", trace_steps="1:2")

    def many_collectives(self, output):
        """More of them in a step than can be queued at once."""
        yield self.train(output / "run", 2, zero=2, steps=2, batch_size=1, grad_accum=60)

    def two_ranks_mpi(self, output):
        """Device memory goes through the host's, unless it is that."""
        yield self.train(output / "run", 2, zero=2, transport="mpi")

    def two_ranks_ahead(self, output):
        yield self.train(output / "run", 2, zero=2, steps=6, save_every=4, **NOTHING_DUE)

    def two_ranks_dpo(self, output):
        yield self.finetune("dpo", output, 2, zero=2)

    def four_ranks(self, output):
        yield self.train(output / "run", 4, zero=1, batch_size=1, grad_accum=2, shard_group=2)

    def four_ranks_zero2(self, output):
        yield self.train(output / "run", 4, zero=2, batch_size=1, tokens_per_step=8 * T, shard_group=2)

    def compared(self, output):
        """test_llama3, which judges itself."""
        yield 1, [self.build / "test_llama3", "--small", "--seed", 5]

    GRAPHS = ["graph", "graph_dpo", "graph_lora", "graph_reward"]
    ALONE = ["pretrain", "ahead", "saved", "recomputed", "rounded", "offloaded", "inputs_on_host", "scored", "sft", "lora", "dpo",
             "reward", *GRAPHS]  # fmt: skip
    RANKS = ["two_ranks", "two_ranks_zero0", "two_ranks_zero1", "two_ranks_mpi", "two_ranks_ahead", "two_ranks_bf16",
             "two_ranks_mpi_bf16", "four_ranks_bf16", "many_collectives", "two_ranks_dpo", "four_ranks", "four_ranks_zero2"]  # fmt: skip

    # ---- running

    def execute(self, many, command, environment):
        environment = {**ranks.SETTINGS, **environment, "ASAN_OPTIONS": "detect_leaks=0"}
        if many > 1:
            return ranks.run(command, many, TIMEOUT, environment)
        return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=TIMEOUT, env=ranks.alone(environment))

    def facts(self, run, mode, skip=""):
        """{file: contents}, and what was said: "stderr" has the calls that were left out."""
        output = self.folder / f"{run}{next(self.count)}"
        output.mkdir()
        environment = {"LLMC_HOST_STREAMS": mode, **({"LLMC_HOST_SKIP": skip} if skip else {})}
        facts = {"stderr": ""}
        try:
            for many, command in getattr(self, run)(output):
                done = self.execute(many, command, environment)
                facts["stderr"] += done.stderr
                if done.returncode != 0:
                    facts["fault"] = f"code {done.returncode}"
                    return facts
            return {**facts, **found_in(output)}
        except subprocess.TimeoutExpired as expired:
            said = expired.stderr or ""
            return {**facts, "stderr": facts["stderr"] + (said if isinstance(said, str) else said.decode()), "fault": "does not end"}
        finally:
            shutil.rmtree(output)

    def expected(self, run):
        """Of eager execution, without graphs."""
        if run not in self.eager:
            self.graphs = "off"
            self.eager[run] = self.facts(run, "eager")
            self.graphs = "on"
            assert "fault" not in self.eager[run] and (run == "compared" or len(self.eager[run]) > 1), self.eager[run]
        return self.eager[run]

    def differences(self, run, facts):
        """What is not as in eager execution, in a few words; "" if nothing."""
        expected = self.expected(run)
        if "fault" in facts:
            told = [line for line in facts["stderr"].splitlines() if not line.endswith(SKIPPED.strip())]
            return f"{facts['fault']}: {told[-1] if told else ''}"
        return ", ".join(name for name in {**expected, **facts} if name != "stderr" and facts.get(name) != expected.get(name))

    def verdict(self, run, mode, skip):
        """(whether the run came to the call, what noticed that it was left out or "")"""
        facts = self.facts(run, mode, skip)
        return SKIPPED in facts["stderr"], self.differences(run, facts)
