"""Training with --attention cudnn, on the stand-in for cuDNN where there is no GPU: near what this program's kernels give, the
same bits in every run, and refused, with the way out, where documents are masked."""

import ctypes
import json
import os
import re
import shutil
import subprocess

import compare
import numpy as np
import pytest
import torch
import trainrun
from llmcudnn import cudnn_build
from model import TINY, Error, Model, random_batch, transformers_model
from modelchecks import MODEL_LIMIT, check_loss, run_reference
from seeds import SEED

OWN, CUDNN, NONDETERMINISTIC = range(3)
FIELDS = TINY | dict(num_attention_heads=8, num_key_value_heads=2)


@pytest.fixture(scope="module")
def lib():
    return cudnn_build()[0]


# ---- the model


def step(lib, attention, batch, state, recompute="none"):
    """(loss, gradient norm, {parameter: gradient}) of one step."""
    model = Model(lib, FIELDS, *batch[0].shape, recompute=recompute, attention=attention)
    model.set_weights(state)
    model.accumulate([batch])
    return *model.result(), model.gradients()


@pytest.fixture
def state():
    return transformers_model(FIELDS).state_dict()


@pytest.mark.parametrize("recompute", ["none", "cheap", "block"])
@pytest.mark.parametrize("attention", [CUDNN, NONDETERMINISTIC])
def test_a_step(lib, state, attention, recompute):
    batch = random_batch(FIELDS["vocab_size"], 3, 70, documents=False)
    expected_losses, expected = run_reference(FIELDS, state, batch, torch.float64)
    their_losses, theirs = run_reference(FIELDS, state, batch, torch.bfloat16)
    loss, _, gradients = step(lib, attention, batch, state, recompute)
    check_loss(loss, batch, expected_losses, their_losses)
    assert set(gradients) == set(expected)
    for name, gradient in gradients.items():
        compare.check(name, gradient, expected[name], theirs[name], MODEL_LIMIT)
    own = step(lib, OWN, batch, state)[2]
    assert any(not torch.equal(gradient, own[name]) for name, gradient in gradients.items()), "cuDNN was not asked"


def test_masked_batches_are_our_kernels(lib, state):
    """A batch with documents has the bits that it has without cuDNN, whatever the model was made for."""
    batch = random_batch(FIELDS["vocab_size"], 3, 70)
    loss, norm, gradients = step(lib, CUDNN, batch, state)
    expected_loss, expected_norm, expected = step(lib, OWN, batch, state)
    assert (loss, norm) == (expected_loss, expected_norm)
    assert all(torch.equal(gradient, expected[name]) for name, gradient in gradients.items())


def test_the_workspace_is_planned(lib):
    def planned(attention):
        text, error = ctypes.create_string_buffer(1024), Error()
        model = Model(lib, FIELDS, 2, 256, attention=attention)
        code = lib.memory_text(text, ctypes.c_size_t(1024), lib.llama3_memory(model.handle), ctypes.byref(error))
        assert code == 0, error.message
        return json.loads(text.value)

    scores = 2 * 2 * 8 * 256**2
    assert planned(OWN)["cuDNN workspace"] == 0
    assert scores <= planned(CUDNN)["cuDNN workspace"] <= 2 * scores
    assert 0 < planned(NONDETERMINISTIC)["cuDNN workspace"] < scores / 2


# ---- the program


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.setitem(trainrun.BUILDS, "bf16", cudnn_build()[1])
    monkeypatch.setattr(trainrun, "ON_CPU", False)  # the program takes no --threads
    return trainrun.Workplace(tmp_path)


PLAIN = dict(document_mask="off", steps=4)


def run(work, name, **changes):
    out, _ = work.run(output=work.folder / name, **PLAIN | changes)
    return out, trainrun.losses(work.log(work.folder / name))


def test_training(work, monkeypatch):
    """Also with streams that run late."""
    out, losses = run(work, "cudnn", attention="cudnn", val_data=work.data / "val_*.bin", eval_every=2, sample_every=2)
    assert re.search(r"attention by cuDNN \d+\.\d+\.\d+ .*deterministic", out) and re.search(r"cuDNN workspace +\d", out)
    monkeypatch.setenv("LLMC_HOST_STREAMS", f"random:{SEED}")
    _, again = run(work, "again", attention="cudnn")
    _, own = run(work, "own")
    assert losses == again
    assert losses != own and np.allclose(losses, own, rtol=1e-3)
    other, near = run(work, "nondeterministic", attention="cudnn-nondeterministic")
    assert "every run has other bits" in other and np.allclose(near, own, rtol=1e-3)


def test_resume_tells_of_other_bits(work):
    run(work, "run", steps=2)
    work.output = work.folder / "run"
    work.refused("--attention cudnn (was own)", "--accept-changes", **PLAIN, resume="auto", attention="cudnn")
    run(work, "run", resume="auto", attention="cudnn", accept_changes=True)


@pytest.mark.parametrize("changes, words", [
    (dict(), ["--attention cudnn", "does not mask documents", "--document-mask off"]),
    (dict(task="sft", config=None, init_from="base"), ["--attention cudnn", "does not mask documents", "--task sft"]),
    (dict(eval_only=True, config=None, init_from="base"), ["--attention cudnn", "--eval-only"]),
])  # fmt: skip
def test_refused(work, changes, words):
    work.refused(*words, attention="cudnn", **changes)


def test_out_of_memory_names_the_way_out(work):
    """64 rows of scores of 16,384 tokens are beyond any GPU."""
    work.write_config(max_position_embeddings=16384)
    work.refused("out of memory", "--attention own", code=1, attention="cudnn", batch_size=64, seq_len=16384, **PLAIN)


def test_built_without_cudnn(tmp_path):
    if cudnn_build()[1] == trainrun.BUILDS["bf16"]:
        pytest.skip("the build under test has cuDNN")
    trainrun.Workplace(tmp_path).refused("--attention cudnn", "built without cuDNN", "USE_CUDNN=1", attention="cudnn", **PLAIN)


@pytest.mark.parametrize("settings, words", [
    (["TARGET=cpu"], ["USE_CUDNN=1", "TARGET=cuda"]), (["TARGET=cuda"], ["USE_CUDNN=1", "cudnn.h", "nvidia-cudnn-cu13"]),
    (["TARGET=cuda", "DEPS=deps"], ["USE_CUDNN=1", "cudnn_frontend.h", "nvidia-cudnn-frontend"]),
])  # fmt: skip
def test_make_says_what_is_missing(settings, words, tmp_path):
    """In a folder without a virtual environment; DEPS has cuDNN alone."""
    for path in (*trainrun.llmc.ROOT.glob("*.mk"), trainrun.llmc.ROOT / "Makefile"):
        shutil.copy(path, tmp_path)
    shutil.copytree(trainrun.llmc.ROOT / "scripts", tmp_path / "scripts")
    for name in ("include/cudnn.h", "lib/libcudnn.so"):
        (tmp_path / "deps/usr" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "deps/usr" / name).touch()
    command = ["make", "-n", "USE_CUDNN=1", "CUDA_HOME=/nowhere", *settings]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | {"PYTHON": "false"}, capture_output=True, text=True)
    assert done.returncode != 0 and all(word in done.stderr for word in words), done.stderr
