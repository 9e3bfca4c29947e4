"""A very small model and data for it, and functions that run train_llama3 on them."""

import hashlib
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

import llmc
import ranks
from hostlib import write_shard

BUILDS = llmc.build_folders()
ON_CPU = all("cuda" not in folder.name for folder in BUILDS.values())
TARGET = "cpu" if ON_CPU else "cuda"
MANY_RANKS = ON_CPU or all("on-cpu" in folder.name for folder in BUILDS.values())  # more than this machine may have GPUs
TRANSPORT = "MPI" if ON_CPU else "NCCL"
BOS, EOS, VOCAB = 256, 257, 260
T, ROWS = 32, 4
STARTED = []  # processes, which conftest.py ends with the test that started them

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCAB, "hidden_size": 64,
    "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 16, "hidden_act": "silu", "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0, "initializer_range": 0.02, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
}  # fmt: skip


def program(precision="bf16"):
    return BUILDS[precision] / "train_llama3"


def write_tokenizer(folder, specials=()):
    """A byte-level tokenizer without merges, and more special tokens behind its two; the SHA-256 of its file."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in ("<|begin_of_text|>", "<|end_of_text|>", *specials)])
    path = folder / "tokenizer.json"
    tokenizer.save(str(path))
    fields = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(fields))
    return hashlib.sha256(path.read_bytes()).digest()


def documents(rng, count):
    """Documents that walk through the ids in steps which each document keeps: easy to learn."""
    out = []
    while len(out) < count:
        start, step, length = rng.integers(0, 256), rng.integers(1, 4), rng.integers(10, 60)
        out += [BOS, *((start + step * np.arange(length)) % 256).tolist(), EOS]
    return np.array(out[:count])


class Workplace:
    """A folder with config.json, data/ and room for runs."""

    def __init__(self, folder, seed=1, specials=()):
        self.folder = pathlib.Path(folder)
        self.data = self.folder / "data"
        self.data.mkdir(exist_ok=True)
        self.sha = write_tokenizer(self.data, specials)
        rng = np.random.default_rng(seed)
        self.write("train_000.bin", documents(rng, 20_000))
        self.write("val_000.bin", documents(rng, 10 * T + 1))
        (self.data / "meta.json").write_text(json.dumps({"unigram_val_loss": 5.43210}))
        self.write_config()
        self.output = self.folder / "run"

    def write(self, name, tokens, **fields):
        return write_shard(self.data / name, tokens, **{"vocab": VOCAB - 2, "bos": BOS, "eos": EOS, "sha": self.sha, **fields})

    def write_config(self, **changes):
        (self.folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))

    def arguments(self, **changes):
        """Options as a list; --name value for name=value, without the value for True, none at all for None."""
        options = {
            "config": self.folder / "config.json", "train_data": self.data / "train_*.bin", "output": self.output,
            "steps": 5, "batch_size": ROWS, "seq_len": T, "warmup_steps": 0, "lr": "3e-3",
            "threads": 1 if ON_CPU else None,  # so small a model gains nothing by a second one
        }  # fmt: skip
        options.update(changes)
        out = []
        for name, value in options.items():
            if value is not None:
                out += ["--" + name.replace("_", "-")] + ([] if value is True else [str(value)])
        return out

    def start(self, precision="bf16", environment=None, **changes):
        command = [str(program(precision)), *self.arguments(**changes)]
        print(" ".join(command))
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        STARTED.append(subprocess.Popen(command, env={**os.environ, **(environment or {})}, **streams))
        return STARTED[-1]

    def run(self, *more, precision="bf16", code=0, limit_file_size=None, shell=None, **changes):
        """Runs the program to its end, expects that exit code, and returns its stdout and stderr. shell: a command line in
        which "$@" stands for the program and its arguments."""
        command = [str(program(precision)), *self.arguments(**changes), *more]
        print(" ".join(command))
        if limit_file_size is not None:
            shell = f"ulimit -f {limit_file_size}; " + (shell or '"$@"')
        if shell:
            command = ["bash", "-c", shell, "bash", *command]
        result = subprocess.run(command, capture_output=True, timeout=600, env=os.environ)
        out, err = (text.decode(errors="replace") for text in (result.stdout, result.stderr))
        print(out, err, file=sys.stderr)
        assert result.returncode == code, (result.returncode, err)
        return out, err

    def run_ranks(self, count, *more, precision="fp32", code=0, different=None, build=None, start={}, **changes):
        """The same as `count` ranks. different: {rank: a line of bash in which "$@" stands for that rank's program and
        arguments}, for the others it is exec "$@". build: another folder; start: more for ranks.run."""
        command = [build / "train_llama3" if build else program(precision), *self.arguments(**changes), *more]
        if different:
            own_rank = '"${OMPI_COMM_WORLD_RANK:-$RANK}"'
            lines = [f"[ {own_rank} = {rank} ] && {{ {line}; exit; }}" for rank, line in different.items()]
            command = ["bash", "-c", "\n".join([*lines, 'exec "$@"']), "bash", *command]
        print(count, "ranks:", " ".join(map(str, command)), start)
        result = ranks.run(command, ranks=count, timeout=600, **start)
        print(result.stdout, result.stderr, file=sys.stderr)
        assert result.returncode == code, (result.returncode, result.stderr)
        return result.stdout, result.stderr

    def ranks_refused(self, count, *words, code=2, **changes):
        """The run of many ranks must end with that code and one line on stderr, and touch nothing in the output folder."""
        before = snapshot(self.output)
        _, err = self.run_ranks(count, code=code, **changes)
        assert err.startswith("train_llama3: ") and err.count("\n") == 1 and err.endswith("\n"), err
        for word in words:
            assert str(word) in err, f"{word!r} not in {err}"
        assert snapshot(self.output) == before
        return err

    def refused(self, *words, code=2, more=(), **changes):
        """The run must end with that code and one line on stderr that has all the words, and touch nothing in the output folder."""
        before = snapshot(self.output)
        _, err = self.run(*more, code=code, **changes)
        assert err.startswith("train_llama3: ") and err.count("\n") == 1 and err.endswith("\n"), err
        for word in words:
            assert str(word) in err, f"{word!r} not in {err}"
        assert snapshot(self.output) == before
        return err

    def log(self, output=None):
        return read_log((output or self.output) / "log.jsonl")


def read_log(path):
    text = path.read_text()
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def losses(log):
    return [line["loss"] for line in log if "loss" in line]


def snapshot(folder):
    """Every file below the folder with its bytes; None where there is no folder; an empty folder counts as none, since
    the program may make it."""
    if not folder.is_dir():
        return None
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()} or None
