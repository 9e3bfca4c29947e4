"""Machine code as cuobjdump prints it: instructions of each kernel, what they read and write, and the hottest loop."""

import collections
import functools
import os
import pathlib
import re
import shutil
import subprocess
import sysconfig

WHEEL = "triton/backends/nvidia/bin/cuobjdump"  # PyPI's triton has the program
HEADING = re.compile(r"^\t(?:code for (sm_\w+)|\tFunction : (\S+))$", re.M)
INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(@\S+\s+)?([^;\s]+)\s*([^;]*?)\s*;", re.M)
MEMORY = re.compile(r"(LDGSTS|LDSM|LDG|STG|LDS|STS|LDL|STL|LD|ST)(?:\.|$)")
MATRIX = re.compile(r"[A-Z]*MMA\.\d")  # HMMA.16816.F32.BF16, not HFMA2.MMA
WIDTHS = {"U8": "8", "S8": "8", "U16": "16", "S16": "16", "64": "64", "128": "128"}  # bits a thread; none: 32

# One instruction: its address, whether a predicate guards it, the operation with its suffixes, the operands.
Instruction = collections.namedtuple("Instruction", "address guarded operation operands")


def find_cuobjdump():
    """Beside nvcc, or in triton's package; None if it is in neither."""
    nvcc = shutil.which("nvcc")
    home = os.environ.get("CUDA_HOME") or (nvcc and pathlib.Path(nvcc).resolve().parents[1])
    folders = [pathlib.Path(home) / "bin/cuobjdump"] if home else []
    folders.append(pathlib.Path(sysconfig.get_paths()["purelib"]) / WHEEL)
    return next((path for path in folders if path.exists()), None)


def cuobjdump(*arguments):
    return subprocess.run([find_cuobjdump(), *arguments], capture_output=True, text=True, check=True).stdout


@functools.cache
def kernel_name(symbol):
    """forward_kernel<true, 1, 4>, of a symbol or of what c++filt made of it: no result, scope or parameters."""
    if symbol.startswith("_Z"):
        symbol = subprocess.run(["c++filt", symbol], capture_output=True, text=True, check=True).stdout.strip()
    name = symbol.replace("(anonymous namespace)::", "").removeprefix("static ").removeprefix("void ")
    return name[: name.index("(")]


def read(path, wanted):
    """{(kernel, architecture): [Instruction]} of the kernels in an object file for which wanted(kernel)."""
    found, arch = {}, None
    _, *parts = HEADING.split(cuobjdump("--dump-sass", path))
    for new_arch, symbol, text in zip(parts[::3], parts[1::3], parts[2::3]):
        arch = new_arch or arch
        if symbol and wanted(kernel_name(symbol)):
            found[kernel_name(symbol), arch] = [
                Instruction(int(address, 16), bool(guard), operation, operands)
                for address, guard, operation, operands in INSTRUCTION.findall(text)
            ]
    return found


def memory_kind(operation):
    """LDG.128, STS.32, LDSM.x4...; None: it does not touch memory."""
    kind = MEMORY.match(operation)
    if not kind:
        return None
    parts = operation.split(".")
    if kind[1] == "LDSM":
        return f"LDSM.x{parts[-1]}"
    return f"{kind[1]}.{next((WIDTHS[part] for part in parts if part in WIDTHS), '32')}"


# ---- loops


def successors(body):
    """The instructions, as indices, that may be next after each. A call returns to the next one."""
    place = {instruction.address: i for i, instruction in enumerate(body)}
    after = []
    for i, (_, guarded, operation, operands) in enumerate(body):
        kind = operation.split(".")
        goes_on = guarded or kind[0] not in ("BRA", "EXIT", "RET", "BRX", "JMP") or "," in operands
        target = re.search(r"0x([0-9a-f]+)", operands) if kind[0] == "BRA" else None
        after.append([i + 1] * (goes_on and i + 1 < len(body)) + ([place[int(target[1], 16)]] if target else []))
    return after


def reached(start, edges, without=None):
    """The nodes that a walk along edges from start comes to, never through `without`."""
    seen, todo = set(), [start]
    while todo:
        node = todo.pop()
        if node in seen or node == without:
            continue
        seen.add(node)
        todo += edges[node]
    return seen


def loops(body):
    """Natural loops, as sets of indices: a branch goes back to an instruction without which it could not be reached."""
    after = successors(body)
    before = [[] for _ in body]
    alive = sorted(reached(0, after))
    for i in alive:
        for j in after[i]:
            before[j].append(i)
    found = {}
    for i in alive:
        for head in after[i]:
            if head < i and i not in reached(0, after, without=head):
                found.setdefault(head, {head}).update(reached(i, before, without=head))
    return list(found.values())


def hottest_loop(body):
    """The indices of the innermost loop with the most matrix instructions, or without any of the longest; of all instructions
    where nothing is repeated."""
    found = loops(body)
    if not found:
        return set(range(len(body)))
    most = max(matrix_count(body, loop) for loop in found)
    if most:
        return min((loop for loop in found if matrix_count(body, loop) == most), key=len)
    return max(found, key=len)


def matrix_count(body, indices):
    return sum(bool(MATRIX.match(body[i].operation)) for i in indices)


# ---- a usual trip through a loop

USEFUL = re.compile(r"[A-Z]*MMA\.\d|MUFU|LDGSTS")
# slots: instructions, each of which takes an issue slot; matrix, mufu: those of the tensor cores and of the special function
# unit; shared, global_: bytes that a thread moves to and from shared memory, and to and from global memory but for copies;
# copies: LDGSTS, from one to the other; copy_loop: instructions of inner loops that copy, which count once however often they run
Trip = collections.namedtuple("Trip", "slots matrix mufu shared global_ copies copy_loop")


def usual_trip(body, loop):
    """What a warp does in a usual trip through a loop. Of the ways through, it is the one with the most useful work, and of
    these the shortest: masks, which only tiles at an edge need, are jumped over, and so is what an unrolled inner loop leaves."""
    copying = [inner for inner in loops(body) if inner < loop and any(is_copy(body[i]) for i in inner)]
    looped = set().union(*copying)
    useful = {i for i in loop if USEFUL.match(body[i].operation)}
    if copying:
        useful -= {i for i in loop - looped if is_copy(body[i])}
    path = best_path(body, loop, useful)
    kinds = [memory_kind(body[i].operation) or "" for i in path]
    mufu = sum(body[i].operation.startswith("MUFU") for i in path)
    copies = sum(is_copy(body[i]) for i in path)
    shared, global_ = (sum(bytes_moved(kind, names) for kind in kinds) for names in (SHARED, GLOBAL))
    return Trip(len(path), matrix_count(body, path), mufu, shared, global_, copies, len(looped.intersection(path)))


def best_path(body, loop, useful):
    """From the loop's head to a branch back to it: the most useful instructions, then the fewest; inner loops once."""
    after, head = successors(body), min(loop)
    best = {}  # (useful ones from here on, less all of them, the next one)
    for i in sorted(loop, reverse=True):
        ways = [(*best[j][:2], j) for j in after[i] if j > i and j in best] + [(0, 0, None)] * (head in after[i])
        if ways:
            most, fewest, following = max(ways, key=lambda way: way[:2])
            best[i] = (most + (i in useful), fewest - 1, following)
    path = [head]
    while (following := best[path[-1]][2]) is not None:
        path.append(following)
    return path


def is_copy(instruction):
    return instruction.operation.startswith("LDGSTS")


SHARED, GLOBAL = ("LDSM", "LDS", "STS", "LDGSTS"), ("LDG", "STG", "LD", "ST")


def bytes_moved(kind, names):
    """Bytes a thread of an access as memory_kind() calls it, if it is one of those named; LDSM.x4 gives a thread 16."""
    name, _, width = kind.partition(".")
    if name not in names:
        return 0
    return 4 * int(width[1:]) if name == "LDSM" else int(width) // 8
