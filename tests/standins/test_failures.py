"""What the cuda target's host code says when the device refuses: one line that names the place, and exit code 1."""

import json
import sys

import pytest

import oncpu
import trainrun

# a matrix product that fails, in a process of its own as it ends it: a[24,48], b[40,48], d[24,40] in bf16 on the device
PRODUCT = """
import ctypes
lib = ctypes.CDLL({library!r})
def device(count):
    memory = ctypes.c_void_p()
    assert lib.cudaMalloc(ctypes.byref(memory), ctypes.c_size_t(2 * count)) == 0
    return memory
a, b, d, host = device(24 * 48), device(40 * 48), device(24 * 40), ctypes.create_string_buffer(4096)
lib.matmul({arguments})
print("a product was made")
"""


def product(arguments, code=1, **environment):
    """The lines that matmul(arguments) ends its process with."""
    oncpu.need()
    arguments += ", None" if arguments.count(",") == 9 else ""
    text = PRODUCT.format(library=str(oncpu.ON_CPU / "libllmc.so"), arguments=arguments)
    done = oncpu.run([sys.executable, "-c", text], code=code, **environment)
    assert (done.stdout == "a product was made\n") == (code == 0)
    return done.stderr.splitlines()


@pytest.mark.parametrize("access", ["ctypes.memset(a, 0, 1)", "ctypes.string_at(b, 1)", "ctypes.string_at(d.value + 24 * 40 * 2 - 1, 1)"])
def test_the_host_cannot_touch_device_memory(access):
    """Its first and last bytes, and only where the guard is on."""
    arguments = f"d, 0, a, b, 24, 40, 48, False, True, False, {access} and None"
    lines = product(arguments, LLMC_HOST_STREAMS="lazy", LLMC_STANDIN_GUARD="1")
    assert lines[0].startswith("llmc: the host touches device memory at 0x")
    assert product(arguments, code=0, LLMC_HOST_STREAMS="lazy") == []


def test_guard_wants_streams_that_wait():
    assert product("", code=2, LLMC_HOST_STREAMS="eager", LLMC_STANDIN_GUARD="1") == ["llmc: LLMC_STANDIN_GUARD wants LLMC_HOST_STREAMS=lazy or random:SEED"]


def test_product_is_made():
    assert product("d, 0, a, b, 24, 40, 48, False, True, False", code=0) == []


@pytest.mark.parametrize("arguments, line", [
    ("d, 0, a, b, 24, 40, 48, False, True, True", "m=24 n=40 k=48 b^T: accumulates only into fp32: an unsupported value"),
    ("d, 0, host, b, 24, 40, 48, False, True, False", "m=24 n=40 k=48 b^T: cublasLtMatmul: the GPU program failed"),
    ("d, 0, a, b, 48, 40, 24, True, True, False", "m=48 n=40 k=24 a^T b^T: cublasLtMatmul: the GPU program failed"),
    ("d, 0, a, b, 24, 40, 0, False, True, False", "m=24 n=40 k=0 b^T: choice of an algorithm: an unsupported value"),
], ids=["accumulates", "host memory", "too large for d", "no k"])  # fmt: skip
def test_failing_products(arguments, line):
    """The shape as the caller gave it, and what failed."""
    assert product(arguments)[-1].startswith(f"llmc: matmul of {line}")


def test_no_device_for_products():
    oncpu.need()
    text = "import ctypes; ctypes.CDLL({!r}).matmul_prepare()".format(str(oncpu.ON_CPU / "libllmc.so"))
    done = oncpu.run([sys.executable, "-c", text], code=1, LLMC_HOST_DEVICES="0")
    assert done.stderr.splitlines()[-1] == "llmc: cublasLtCreate: the library was not initialized"


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    oncpu.need()
    return trainrun.Workplace(tmp_path_factory.mktemp("failures"))


def arguments(work, name):
    return [oncpu.ON_CPU / "train_llama3", *work.arguments(output=work.folder / name, steps=2, eval_every=1, threads=None, sample_every=1,
                                                          sample_tokens=4, val_data=work.data / "val_*.bin")]  # fmt: skip


def test_every_allocation_fails_once(work):
    """Whichever it is, the run ends with code 1 and one line that says what was out of memory, before a step was made."""
    failed = []
    for nth in range(1, 100):
        name = f"memory{nth}"
        done = oncpu.run(arguments(work, name), code=None, LLMC_STANDIN_NO_MEMORY=str(nth))
        if done.returncode == 0:
            break
        assert done.returncode == 1 and done.stderr.count("\n") == 1 and "out of memory" in done.stderr, (nth, done.stderr)
        assert done.stderr.startswith(("train_llama3: ", "llmc: llmc/")) and trainrun.snapshot(work.folder / name / "checkpoint") is None
        failed.append(done.stderr)
    assert done.returncode == 0 and len(failed) >= 5
    assert any("matmul_cublaslt.cu" in line and "cudaMalloc" in line for line in failed), "the product's workspace is one of them"


def test_no_device(work):
    for command in (arguments(work, "none"), [oncpu.ON_CPU / "test_llama3", "--small"]):
        done = oncpu.run(command, code=None, LLMC_HOST_DEVICES="0")
        assert done.returncode in (1, 2) and "no " in done.stderr and done.stderr.count("\n") <= 2, done.stderr


@pytest.mark.parametrize("device, name", [("h100", "NVIDIA H100 80GB HBM3"), ("a100", "NVIDIA A100-SXM4-80GB"),
                                          ("rtx4090", "NVIDIA GeForce RTX 4090")])  # fmt: skip
def test_devices(work, device, name):
    """A run says which device it was given, and keeps the name."""
    done = oncpu.run(arguments(work, device), LLMC_HOST_DEVICE=device)
    assert name in done.stdout and "% of peak" in done.stdout
    assert json.loads((work.folder / device / "checkpoint/trainer/state.json").read_text())["device"] == name
