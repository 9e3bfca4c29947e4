"""Loading takes no second copy of the weights: the process's peak of resident memory, measured in a program of its own."""

import subprocess

import pytest
import safetensors.torch
import torch

import checkpoints
import llmc
import model as models

# embedding of 32 M elements: a tensor that is held whole would show, let alone the file
FIELDS = dict(models.TINY, vocab_size=16000, hidden_size=2048, intermediate_size=1024, num_hidden_layers=1,
              num_attention_heads=16, num_key_value_heads=4, head_dim=64, tie_word_embeddings=True)  # fmt: skip

# A piece as it is converted (2^20 elements: 4 MiB at most), the mapped pages of that piece (4 MiB, and what the kernel maps
# around a fault, 64 KiB), the header, libc's own. Twice that for what the allocator keeps.
MOST = 16 << 20


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large")
    m = models.Model(llmc.load("bf16"), FIELDS, 1, 8)
    m.fields = FIELDS
    m.lib.llama3_init_weights(m.handle, 1)
    checkpoints.write(m, folder / "store", 1)
    yield folder
    for path in folder.rglob("*.safetensors"):
        path.unlink()


def loaded(folder, checkpoint, training):
    program = checkpoints.compile_program("load_memory", folder)
    done = subprocess.run([program, checkpoint, str(int(training))], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    grown, size = map(int, done.stdout.split())
    print(f"{size / 2**20:.1f} MiB read, peak grew by {grown / 2**20:.1f} MiB")
    return grown, size


@pytest.mark.parametrize("training", [False, True])
def test_peak_of_a_load(written, training):
    if not llmc.load("bf16").on_cpu:
        pytest.skip("on a GPU the model is not in the process's memory")
    grown, size = loaded(written, written / "store/latest", training)
    assert size > (60 << 20) and grown < MOST


def test_peak_of_a_conversion(written):
    """The same weights in fp32."""
    if not llmc.load("bf16").on_cpu:
        pytest.skip("on a GPU the model is not in the process's memory")
    state = safetensors.torch.load_file(written / "store/latest/model.safetensors")
    wide = written / "wide"
    wide.mkdir()
    safetensors.torch.save_file({k: v.to(torch.float32) for k, v in state.items()}, wide / "model.safetensors")
    (wide / "config.json").write_bytes((written / "store/latest/config.json").read_bytes())
    grown, size = loaded(written, wide, False)
    assert size > (120 << 20) and grown < MOST
