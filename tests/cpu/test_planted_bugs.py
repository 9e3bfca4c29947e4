"""Every check of the CPU target is shown the kind of bug that it claims to catch (tests/cpu/planted/*.cu), and the same
kernel without the bug, about which it must say nothing.

  seeds      the output moves with the order of threads, or is not a number
  report     the CPU target stops with exit code 1 and a line that names kernel, block, thread and place
  checked_report  the same in a build with sanitizers, the place in the stack that it prints
  address    AddressSanitizer names file and line (SANITIZE=address,undefined)
  undefined  UndefinedBehaviorSanitizer names file and line (the same build)
  race       ThreadSanitizer names file and line (SANITIZE=thread)
  reference  the result is not that of the reference, by the rule of tests/support/compare.py
"""

import re

import numpy
import pytest
import torch

import compare
import programs

FILES = ("missing_barrier", "divergent_barrier", "races", "memory", "alignment")
N = 130  # elements in races.cu

# A missing barrier shows in each order in which some reader precedes its writer. Where one lane reads what one lane wrote
# (`pair`), that is half of all orders: 20 of them leave a chance of one in a million.
SEEDS = tuple(range(21))
FEW_SEEDS = (0, 1, 12345)  # what tests of kernels use

REPORT = r"llmc: kernel {kernel}.*, block \(0,0,0\): .*thread \(\d+,0,0\)"

# (file, bug, check, what it says): {line} stands for the place of the line marked `// BUG name`
CAUGHT = [
    ("missing_barrier", "reverse", "seeds", "not a number"),
    ("missing_barrier", "reverse", "race", "data race"),
    ("missing_barrier", "tiles", "seeds", "moves"),
    ("missing_barrier", "tiles", "race", "data race"),
    ("missing_barrier", "broadcast", "seeds", "moves"),
    ("missing_barrier", "broadcast", "race", "data race"),
    ("missing_barrier", "pair", "seeds", "moves"),
    ("missing_barrier", "pair", "race", "data race"),
    ("divergent_barrier", "loop", "report", "a barrier is not reached by all threads: .*{line}, .* has returned"),
    ("divergent_barrier", "early_return", "report", "a barrier is not reached by all threads: .*{line}, .* has returned"),
    ("divergent_barrier", "two_barriers", "report", "threads meet at different barriers: .*{line}"),
    ("divergent_barrier", "shuffle", "report", "a barrier is not reached by all threads: .*{line}, .* has returned"),
    ("races", "tail_scale", "reference", "relative error"),
    ("races", "tail_scale", "race", "data race"),
    ("races", "tail_copy", "race", "data race"),
    ("races", "tail_sum", "reference", "relative error"),
    ("races", "count", "race", "data race"),
    ("races", "blocks", "race", "data race"),
    ("races", "shift", "seeds", "moves"),
    ("races", "shift", "race", "data race"),
    ("memory", "greater", "address", "heap-buffer-overflow"),
    ("memory", "greater_read", "address", "heap-buffer-overflow"),
    ("memory", "static_shared", "address", "use-after-poison"),
    ("memory", "dynamic_shared", "address", "use-after-poison"),
    ("memory", "before_shared", "address", "use-after-poison"),
    ("memory", "local_array", "undefined", "index .* out of bounds"),
    ("memory", "accumulate", "seeds", "not a number"),
    ("memory", "unwritten_sum", "seeds", "not a number"),
    ("memory", "unwritten_max", "seeds", "moves"),
    ("memory", "int_offset", "undefined", "signed integer overflow"),
    ("memory", "unsigned_offset", "reference", "relative error"),
    ("alignment", "async_from", "report", "cp.async reads at 0x.*, which is not a multiple of 16"),
    ("alignment", "async_to", "report", "cp.async writes at 0x.*, which is not a multiple of 16"),
    ("alignment", "ldmatrix", "report", "ldmatrix reads at 0x.*, which is not a multiple of 16"),
    ("alignment", "load_16", "checked_report", "thread .0,0,0.: reads or writes at 0x.*, which is not a multiple of 16"),
    ("alignment", "store_8", "checked_report", "thread .0,0,0.: reads or writes at 0x.*, which is not a multiple of 8"),
    ("alignment", "four_words", "checked_report", "thread .0,0,0.: reads or writes at 0x.*, which is not a multiple of 16"),
    ("alignment", "pointwise", "checked_report", "thread .1,0,0.: reads or writes at 0x.*, which is not a multiple of 16"),
]


@pytest.fixture(scope="module")
def planted():
    """{(file, build): program}, all built at once."""
    kinds = list(programs.BUILDS)
    folders = {kind: programs.build_all([f"cpu/planted/{file}" for file in FILES], kind) for kind in kinds}
    return {(file, kind): folders[kind] / "cpu/planted" / file for file in FILES for kind in kinds}


def place(file, bug):
    """tests/cpu/planted/FILE.cu:LINE of the bug."""
    path = f"tests/cpu/planted/{file}.cu"
    lines = (programs.ROOT / path).read_text().splitlines()
    found = [i + 1 for i, line in enumerate(lines) if line.endswith(f"// BUG {bug}")]
    assert len(found) <= 1, f"{bug} is marked {len(found)} times"
    return f"{path}:{found[0]}" if found else path


def numbers(done):
    assert done.returncode == 0, done.stderr
    return numpy.array(done.stdout.split(), dtype=numpy.float64)


# ---- each check: None, or what it says about the kernel


def check_seeds(planted, file, bug, twin, seeds=None):
    first = None
    for seed in seeds or (SEEDS if bug == "pair" else FEW_SEEDS):
        out = numbers(programs.run(planted[file, "plain"], bug, twin, seed=seed))
        if not numpy.isfinite(out[:100]).all():
            return "not a number"
        first = out if first is None else first
        if not numpy.array_equal(out, first):
            return "moves"
    return None


def check_report(planted, file, bug, twin):
    said = None
    for seed in FEW_SEEDS:
        done = programs.run(planted[file, "plain"], bug, twin, seed=seed)
        assert done.returncode in (0, 1) and done.stderr.count("\n") == done.returncode, done.stderr
        if done.returncode == 0:
            return None
        said = done.stderr
        assert re.search(REPORT.format(kernel=f"{bug}_kernel"), said) or "different barriers" in said, said
    return said


def check_checked_report(planted, file, bug, twin):
    done = programs.run(planted[file, "checked"], bug, twin)
    return summary(done, REPORT.format(kernel=f"{bug}_kernel") + ".*", file, bug)


def check_address(planted, file, bug, twin):
    done = programs.run(planted[file, "checked"], bug, twin)
    return summary(done, r"ERROR: AddressSanitizer.*", file, bug)


def check_undefined(planted, file, bug, twin):
    done = programs.run(planted[file, "checked"], bug, twin)
    return summary(done, r"runtime error.*", file, bug)


def check_race(planted, file, bug, twin):
    done = programs.run(planted[file, "race"], bug, twin)
    return summary(done, r"WARNING: ThreadSanitizer.*", file, bug)


def summary(done, pattern, file, bug):
    if done.returncode == 0:
        return None
    found = re.search(pattern, done.stderr)
    assert found, done.stderr
    assert place(file, bug) in done.stderr, f"{place(file, bug)} is not named:\n{done.stderr}"
    return found.group(0)


def references():
    x = (torch.arange(N) * 7919 + 13) % 1009 / 505.0 - 0.999
    x = x.to(torch.float32).double()
    return {
        "tail_scale": x * 0.5,
        "tail_sum": x.sum().expand(N),
        "unsigned_offset": torch.arange(65, dtype=torch.float64).repeat_interleave(128),
    }


def check_reference(planted, file, bug, twin):
    out = numbers(programs.run(planted[file, "plain"], bug, twin))
    try:
        compare.check(bug, torch.tensor(out).float(), references()[bug])
    except AssertionError as error:
        return str(error)
    return None


CHECKS = {
    "seeds": check_seeds,
    "report": check_report,
    "checked_report": check_checked_report,
    "address": check_address,
    "undefined": check_undefined,
    "race": check_race,
    "reference": check_reference,
}


NAMES = [f"{bug}-{check}" for _, bug, check, _ in CAUGHT]
each_bug = pytest.mark.parametrize("file, bug, check, says", CAUGHT, ids=NAMES)


@each_bug
def test_bug_is_caught(planted, file, bug, check, says):
    said = CHECKS[check](planted, file, bug, "bug")
    assert said is not None, f"{check} does not catch {file}: {bug}"
    print(f"{bug}, {check}: {said}")
    assert re.search(says.format(line=re.escape(place(file, bug))), said), said


@each_bug
def test_fixed_twin_passes(planted, file, bug, check, says):
    said = CHECKS[check](planted, file, bug, "fixed")
    assert said is None, f"{check} blames the right kernel of {file}: {bug}: {said}"


# ---- wrong scale


def exact_and_torch(operation, dtype):
    """An operation in float64 and as PyTorch's own in dtype, on inputs of that dtype."""
    x, w = torch.randn(64, 256).to(dtype), torch.randn(256).to(dtype)
    operations = {
        "silu": lambda x, w: torch.nn.functional.silu(x) * w,
        "rms_norm": lambda x, w: torch.nn.functional.rms_norm(x, (256,), w, 1e-5),
        "softmax": lambda x, w: torch.softmax(x * w, dim=-1),
        "linear": lambda x, w: x @ (w[:, None] * x.T[:, :1]),
    }
    return operations[operation](x.double(), w.double()), operations[operation](x, w)


@pytest.mark.parametrize("operation", ["silu", "rms_norm", "softmax", "linear"])
@pytest.mark.parametrize("dtype, scale", [(torch.bfloat16, 1.01), (torch.bfloat16, 0.99), (torch.float32, 1.0001)])
def test_wrong_scale_is_rejected(operation, dtype, scale):
    """1 % in bf16, 0.01 % in fp32; the right result passes by the same rule."""

    @compare.judged
    def check(scale):
        exact, torchs = exact_and_torch(operation, dtype)
        compare.check(operation, (exact * scale).to(dtype), exact, torchs if dtype == torch.bfloat16 else None)

    check(1.0)
    with pytest.raises(AssertionError, match="relative error"):
        check(scale)


def result_with_errors(ours, theirs):
    """A result, float64's and PyTorch's of which the relative errors are these."""
    exact = torch.randn(200, dtype=torch.float64)
    noise = torch.randn(2, 200, dtype=torch.float64)
    ours, theirs = (exact + n * (size * exact.norm() / n.norm()) for n, size in zip(noise, (ours, theirs)))
    return ours, exact, theirs


@pytest.mark.parametrize("errors, draws, passes", [
    ([1.19], 1, True), ([1.7, 0.8, 0.8], 3, True), ([1.3] * 10, 10, True), ([1.6] * 10, 10, False),
    ([1.3, 1.7] * 5, 10, False), ([5.1] + [0.8] * 9, 10, False)])
def test_rule_over_several_draws(errors, draws, passes):
    """errors: ours in each draw, PyTorch's being 1 (in 1000)."""
    made = []

    @compare.judged
    def check():
        compare.check("clear", *result_with_errors(0.5e-3, 1e-3))
        compare.check("x", *result_with_errors(1e-3 * errors[len(made)], 1e-3))
        made.append(1)

    if passes:
        check()
    else:
        with pytest.raises(AssertionError, match="x: relative error .* 10 draws"):
            check()
    assert len(made) == draws


@pytest.mark.parametrize("scale, passes", [(1.0, True), (1 + 1e-6, True), (1.0001, False)])
def test_single_numbers_that_cancel(scale, passes):
    """A fp32 number next to nothing, made of terms that cancel, is judged together with those of other draws."""
    made = []

    @compare.judged
    def check():
        terms = torch.randn(2, dtype=torch.float64) if made else torch.tensor([1.0, -1.0 + 1e-4], dtype=torch.float64)
        made.append(1)
        compare.check("sum", (terms.sum(0, keepdim=True) * scale + terms[:1] * 1e-8).float(), terms.sum(0, keepdim=True))

    if passes:
        check()
    else:
        with pytest.raises(AssertionError, match=f"sum: relative error .* of {compare.FEW_DRAWS} draws"):
            check()
    assert len(made) > 1


def test_nan_and_shape_are_rejected():
    exact = torch.ones(4, 4, dtype=torch.float64)
    bad = exact.float()
    bad[3, 3] = float("nan")
    with pytest.raises(AssertionError, match="not finite"):
        compare.check("x", bad, exact)
    with pytest.raises(AssertionError, match="shape"):
        compare.check("x", exact.float()[:3], exact)
