"""One flipped bit in the weights of a checkpoint, and every program that opens the model names the file."""

import random
import shutil
import subprocess
import sys

import pytest

from trainrun import ON_CPU, T, Workplace, program
from checkout import script


@pytest.fixture(scope="module")
def divided(tmp_path_factory):
    """A checkpoint of three ranks with its mean over steps, and adapters beside it."""
    work = Workplace(tmp_path_factory.mktemp("divided"))
    work.run_ranks(3, precision="bf16", steps=3, batch_size=4, average_from=1)
    work.run(init_from=work.output / "checkpoint", config=None, output=work.folder / "lora", steps=1, lora_rank=8)
    return work


def opening(work, model):
    """Commands that open a model's folder, by what they do."""
    precision = ["--precision=bf16", "--target", "cpu" if ON_CPU else "cuda"]
    none = {name: None for name in ("config", "train_data", "output", "steps", "warmup_steps", "lr")}
    average, merge = (program().with_name(name) for name in ("average_llama3", "merge_lora"))
    return {
        "begin": [program(), *work.arguments(init_from=model, config=None, steps=1, output=work.folder / "begun", overwrite=True)],
        "evaluate": [program(), *work.arguments(**none | {"eval_only": True, "init_from": model, "val_data": work.data / "val_*.bin",
                                                          "seq_len": T, "batch_size": 2})],
        "generate": [sys.executable, script("generate"), "--model", model, "--prompt=a", "--max-tokens=2", *precision],
        "average": [average, "--output", work.folder / "mean", "--overwrite", model, model],
        "merge": [merge, "--output", work.folder / "merged", "--overwrite", "--adapter", work.folder / "lora/checkpoint", "--base", model],
    }  # fmt: skip


def outcome(command):
    return subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize("inside", ["", "averaged"])
def test_damaged_weights_are_no_model_to_begin_with(divided, tmp_path, inside):
    """One bit of a checkpoint's weights, in whichever file, and the number is still one: everything that opens the model names
    the file."""
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(divided.output / "checkpoint", checkpoint)
    model = checkpoint / inside
    files = sorted(model.glob("model*.safetensors"))
    assert len(files) == (1 if inside else 3)
    for path in files:
        content = path.read_bytes()
        damaged = bytearray(content)
        at = len(content) - 2 * random.randrange(1, 1000)  # of bf16, the lower byte
        damaged[at] ^= 1 << random.randrange(7)
        path.write_bytes(damaged)
        for name, command in opening(divided, model).items():
            done = outcome(command)
            assert done.returncode == 2 and done.stderr.count("\n") == 1, (name, done.stderr)
            assert path.name in done.stderr and "checksum is" in done.stderr and "damaged" in done.stderr, (name, done.stderr)
        path.write_bytes(content)
    for name, command in opening(divided, model).items():
        assert outcome(command).returncode == 0, name
    path.write_bytes(damaged)
    shutil.rmtree(checkpoint / "trainer")  # then it is anybody's
    assert outcome(opening(divided, model)["evaluate"]).returncode == 0


def test_damaged_adapters(divided, tmp_path):
    adapter = tmp_path / "lora"
    shutil.copytree(divided.folder / "lora/checkpoint", adapter)
    content = bytearray((adapter / "adapter_model.safetensors").read_bytes())
    content[-2 * random.randrange(1, 200)] ^= 1 << random.randrange(7)
    (adapter / "adapter_model.safetensors").write_bytes(content)
    for command in (["average_llama3", adapter, adapter], ["merge_lora", "--adapter", adapter]):
        done = outcome([program().with_name(command[0]), "--output", tmp_path / "out", *command[1:]])
        assert done.returncode == 2 and "adapter_model.safetensors: checksum is" in done.stderr, done.stderr
        assert done.stderr.count("\n") == 1 and not (tmp_path / "out").exists()
