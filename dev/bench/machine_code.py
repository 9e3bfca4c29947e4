#!/usr/bin/env python3
"""What nvcc made of the kernels in which a GPU would spend its time, for each architecture: registers and spills, the widths of
loads and stores, the matrix instructions, the length of the hottest loop.

    make TARGET=cuda && dev/bench/machine_code.py      # writes dev/bench/results/machine-code/

tests/kernels/test_machine_code.py compares a build with that record. It needs no GPU, only nvcc's result and cuobjdump, of the
CUDA toolkit or of PyPI's triton.
"""

import collections
import concurrent.futures
import json
import os
import pathlib
import re
import subprocess

import sass

ROOT = pathlib.Path(__file__).resolve().parents[2]
RECORD = ROOT / "dev/bench/results/machine-code"
# Attention for heads of 64 and 128 without excluded keys, RMSNorm of rows of 1040 to 4096 (forward: to 16384), cross-entropy of
# more than 4096 tokens, decoding with 1, 4 and 8 query heads of a key/value head
HOT = re.compile(
    r"attention_forward_kernel<ForwardTiles<(64|128)>, false>|attention_gradients_kernel<Backward<(64|128)>, false>|"
    r"attention_d_kernel<(8|16)>|split_kernel<(1|4|8), 128>|combine_kernel|append_kernel|"
    r"forward_kernel<(false|true), true, 1, 4, 512>|backward_kernel<true, 1, 4, 128>|sum_groups_kernel<128>|"
    r"(forward|backward)_kernel<1>|swiglu_(forward|backward)_kernel|rope_kernel|embedding_(forward|backward)_kernel|"
    r"adamw_kernel|sum_squares_kernel<256>|add_gradients_kernel|bf16_round_rows_kernel|bf16_sum_rows_kernel<.*>"
)
USAGE = re.compile(
    r"Compiling entry function '(?P<kernel>.*?)' for '(?P<arch>\w+)'\n.*\n\s+(?P<frame>\d+) bytes stack frame, "
    r"(?P<spilled>\d+) bytes spill stores.*\n.*Used (?P<registers>\d+) registers(?P<rest>.*)"
)
BOUNDS = re.compile(r"\.entry (\w+)\([^)]*\)\s*\.maxntid (\d+), 1, 1")

# shared: bytes of static shared memory; frame: bytes of local memory, spilled ones included; spilled: bytes stored
Usage = collections.namedtuple("Usage", "registers shared frame spilled")


def is_hot(kernel):
    return bool(HOT.fullmatch(kernel))


def read_usage(build):
    """{(kernel, architecture): Usage} by ptxas' reports in a build folder."""
    found = {}
    for path in sorted(build.glob("obj/llmc/*/*.ptxas")):
        for match in USAGE.finditer(path.read_text()):
            shared = re.search(r"(\d+) bytes smem", match["rest"])
            usage = Usage(int(match["registers"]), int(shared[1]) if shared else 0, int(match["frame"]), int(match["spilled"]))
            found[sass.kernel_name(match["kernel"]), match["arch"]] = usage
    return found


def read_bounds(build):
    """{kernel: its __launch_bounds__}, as the PTX has them."""
    found = {}
    for path in build.glob("obj/llmc/kernels/*.cu.o"):
        for symbol, threads in BOUNDS.findall(sass.cuobjdump("--dump-ptx", path)):
            found[sass.kernel_name(symbol)] = int(threads)
    return found


def describe(body):
    """Of a kernel's instructions: how often each kind of access and of matrix instruction stands there, the loop, and, where it
    has matrix instructions, a usual trip through it."""
    kinds = collections.Counter(filter(None, (sass.memory_kind(i.operation) for i in body)))
    matrix = collections.Counter(i.operation for i in body if sass.MATRIX.match(i.operation))
    loop = sass.hottest_loop(body)
    trip = {"trip": sass.usual_trip(body, loop)._asdict()} if sass.matrix_count(body, loop) else {}
    return {
        "instructions": len(body),
        "loop": len(loop),
        "loop_matrix": sass.matrix_count(body, loop),
        "divisions": sum(i.operation.startswith("I2F") and ".RP" in i.operation for i in body),  # of integers
        "matrix": dict(sorted(matrix.items())),
        "memory": dict(sorted(kinds.items())),
    } | trip


def read_build(build):
    """{(kernel, architecture): row of the table} of the hot kernels."""
    usage, code = read_usage(build), {}
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:  # cuobjdump takes seconds for attention
        for of_file in pool.map(lambda path: sass.read(path, is_hot), build.glob("obj/llmc/kernels/*.cu.o")):
            code |= of_file
    return {key: usage[key]._asdict() | describe(body) for key, body in sorted(code.items())}


def nvcc_version():
    home = os.environ.get("CUDA_HOME")
    said = subprocess.run([f"{home}/bin/nvcc" if home else "nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    return re.search(r"V([\d.]+)", said)[1]


def read_record():
    """The recorded version of nvcc, and the rows as read_build gives them."""
    record = json.loads((RECORD / "machine_code.json").read_text())
    return record["nvcc"], {(row.pop("kernel"), row.pop("arch")): row for row in record["kernels"]}


# ---- the record's files


def as_json(version, rows):
    """One line a kernel and architecture."""
    lines = [json.dumps({"kernel": kernel, "arch": arch} | row) for (kernel, arch), row in rows.items()]
    return f'{{"nvcc": "{version}", "kernels": [\n' + ",\n".join(lines) + "\n]}\n"


def widths(memory, operation):
    """"2x128 1x32" for {"LDG.128": 2, "LDG.32": 1}."""
    found = [(int(kind.split(".")[1]), count) for kind, count in memory.items() if kind.split(".")[0] == operation]
    return " ".join(f"{count}x{width}" for width, count in sorted(found, reverse=True))


def as_markdown(version, rows):
    lines = [
        "# Machine code of the hot kernels",
        "",
        f"bf16 build by nvcc {version}; written by `dev/bench/machine_code.py`, not measured on a GPU. Loads, copies to shared memory",
        "and stores: how many instructions of how many bits a thread, in the whole kernel. Loop: instructions of the hottest loop,",
        "and how many of them are matrix instructions; of the whole kernel where it has no loop.",
        "",
        "| kernel | | registers | spilled bytes | loads | copies | stores | matrix | loop |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (kernel, arch), row in rows.items():
        memory = row["memory"]
        cells = [f"`{kernel}`", arch, row["registers"], row["spilled"], widths(memory, "LDG"), widths(memory, "LDGSTS"),
                 widths(memory, "STG"), sum(row["matrix"].values()) or "", f"{row['loop']} ({row['loop_matrix']})"]  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def main():
    version, rows = nvcc_version(), read_build(ROOT / "build/cuda")
    RECORD.mkdir(parents=True, exist_ok=True)
    (RECORD / "machine_code.json").write_text(as_json(version, rows))
    (RECORD / "README.md").write_text(as_markdown(version, rows))


if __name__ == "__main__":
    main()
