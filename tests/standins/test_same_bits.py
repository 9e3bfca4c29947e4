"""TARGET=cuda-on-cpu, the cuda target's host code over stand-ins, computes the cpu target's bits: losses, weights, moments,
evaluations, samples; with streams that run at once, late, and interleaved, and with device memory that the host cannot touch."""

import random

import pytest

import trainrun
from evaluation import completions, prepare, text, write_rows
from finetuning import LORA, Finetuning
from oncpu import CPU, ON_CPU, need, run
from seeds import SEED

WAYS = {
    "cpu": (CPU, {}),
    "eager": (ON_CPU, {"LLMC_HOST_STREAMS": "eager"}),
    "random": (ON_CPU, {"LLMC_HOST_STREAMS": f"random:{random.Random(SEED).randrange(1, 1 << 30)}"}),
    "hidden": (ON_CPU, {"LLMC_HOST_STREAMS": "lazy", "LLMC_STANDIN_GUARD": "1"}),
}
# what the log says of times, and the checkpoint's size: its files name the build
OWN = {"tokens_per_second", "wait_seconds", "write_seconds", "bytes"}


class Place(Finetuning):
    """Each run is made in every way, in a folder of its own."""

    def both(self, name, **options):
        """{way: what the run left} of one command."""
        found = {}
        for way, (build, environment) in WAYS.items():
            output = self.folder / way / name
            run([build / "train_llama3", *self.arguments(**options | {"output": output, "threads": None})], **environment)
            found[way] = self.left(output)
        return found

    def left(self, output):
        """The log, and weights, master weights and moments."""
        log = [{key: value for key, value in line.items() if key not in OWN} for line in self.log(output)]
        files = {path.name: path.read_bytes() for path in sorted((output / "checkpoint").rglob("*.safetensors"))}
        return log, files


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    need()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainrun, "BUILDS", {"bf16": CPU, "fp32": CPU})
        return Place(tmp_path_factory.mktemp("bits"), precision="bf16")


def assert_same(found):
    log, files = found["cpu"]
    assert any("loss" in line or "task" in line for line in log)
    for way, (other_log, other_files) in found.items():
        assert other_log == log, way
        assert other_files.keys() == files.keys() and all(other_files[name] == files[name] for name in files), way


def test_pretraining(place):
    """Accumulation, validation, samples, two checkpoints; then taken up again from the first."""
    common = dict(batch_size=2, grad_accum=2, eval_every=4, sample_every=5, sample_tokens=6, save_every=6, warmup_steps=3,
                  schedule_steps=12, val_data=place.data / "val_*.bin")  # fmt: skip
    assert_same(place.both("run", steps=7, **common))
    found = place.both("run", steps=12, resume="auto", **common)
    assert_same(found)
    assert [line["step"] for line in found["random"][0] if "resumed" in line] == [7]


@pytest.mark.parametrize("task, changes", [("sft", {}), ("dpo", LORA), ("reward", {})], ids=["sft", "dpo-lora", "reward"])
def test_finetuning(place, task, changes):
    assert_same(place.both(task, **place.task(task, steps=4, eval_every=2, **changes)))


def test_evaluations(place):
    """Scores of choices and documents of a model as it is."""
    for name, rows in {"choice": completions(6, 5, 3), "documents": [{"text": text(n)} for n in (1, 5, 20)]}.items():
        source = write_rows(place.folder / f"{name}.jsonl", rows)
        prepare(source, "--tokenizer", place.data, "--output", place.data / f"{name}.eval")
    options = dict(steps=2, eval_tasks=place.data / "*.eval", eval_tasks_every=1)
    found = place.both("eval", **options)
    assert_same(found)
    assert len([line for line in found["eager"][0] if "task" in line]) == 4
