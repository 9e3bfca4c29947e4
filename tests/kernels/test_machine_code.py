"""The hot kernels' machine code has not become worse than the record in dev/bench/results/machine-code, which
dev/bench/machine_code.py writes. Another version of nvcc than the record's may choose other registers, loads and loops: then
only that matrix instructions are there is checked."""

import functools
import pathlib
import re

import pytest

import machine_code
import sass

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = ROOT / "build/cuda"
SLACK = 1.02  # of the instructions in a loop
# Bytes of local memory that a bf16 kernel may take, for spilled registers: this table may only shrink
FRAMES = {"attention_gradients_kernel<Backward<256>, false>": 8, "attention_forward_kernel<ForwardTiles<128>, true>": 8}
# Loads and stores of two and four bytes in kernels without matrix instructions, which memory bounds: none of tensors, which are
# read and written 16 bytes at a time (AdamW's parameters 8); only what is a number a row, a token or a launch
NARROW = {
    "adamw_kernel": {"LDG.32": 6},  # whether to apply it, the norm, the step's rates
    "append_kernel": {"LDG.32": 4, "STG.16": 16},  # row, position, pages; a key's elements, which lie KV_CACHE_BLOCK apart
    "attention_d_kernel<8>": {"STG.32": 5},  # D, a number a row; counters
    "attention_d_kernel<16>": {"STG.32": 5},
    "backward_kernel<1>": {"LDG.16": 1, "LDG.32": 5, "STG.32": 1},  # target and its logit, weight, gradient of the loss; loss
    "backward_kernel<true, 1, 4, 128>": {"LDG.32": 1},  # rstd
    "combine_kernel": {"LDG.32": 33},  # positions, the splits' maxima
    "embedding_backward_kernel": {"LDG.32": 13},  # tokens and their order
    "embedding_forward_kernel": {"LDG.32": 1},  # tokens
    "forward_kernel<1>": {"LDG.16": 1, "LDG.32": 2, "STG.32": 1},  # target and its logit; loss
    "forward_kernel<false, true, 1, 4, 512>": {"STG.32": 1},  # rstd
    "forward_kernel<true, true, 1, 4, 512>": {"STG.32": 1},
    "rope_kernel": {"LDG.32": 3},  # where documents begin, excluded keys
    "split_kernel<1, 128>": {"LDG.32": 4, "STG.32": 2},  # position, row, pages; maximum and sum
    "split_kernel<4, 128>": {"LDG.32": 4, "STG.32": 2},
    "split_kernel<8, 128>": {"LDG.32": 4, "STG.32": 2},
    "sum_squares_kernel<256>": {"LDG.32": 1, "STG.32": 1},  # what is left of a count that is no multiple of 4; the block's sum
}
MATRIX_KERNEL = re.compile(r"attention_(forward|gradients)_kernel")
built = pytest.mark.skipif(not any(BUILD.glob("obj/**/*.cu.o")), reason="no build/cuda: make TARGET=cuda")


@functools.cache
def rows():
    if not sass.find_cuobjdump():
        pytest.skip("no cuobjdump, which the CUDA toolkit and PyPI's triton have")
    return machine_code.read_build(BUILD)


def same_nvcc():
    recorded, _ = machine_code.read_record()
    if machine_code.nvcc_version() != recorded:
        pytest.skip(f"the record is nvcc {recorded}'s, this is {machine_code.nvcc_version()}")


def narrow(memory):
    """{operation: [accesses of at most 8, 16, 32, 64 bits]}"""
    counts = {}
    for kind, count in memory.items():
        operation, width = kind.split(".")
        if operation != "LDSM":
            of_operation = counts.setdefault(operation, [0] * 4)
            for i, limit in enumerate((8, 16, 32, 64)):
                of_operation[i] += count if int(width) <= limit else 0
    return counts


def losses(before, now):
    """What has become worse in a row of the table."""
    found = [f"{kind} is gone" for kind in before["matrix"] if kind not in now["matrix"]]
    if now["loop"] > before["loop"] * SLACK:
        found.append(f"{now['loop']} instructions in the loop, {before['loop']} before")
    recorded = narrow(before["memory"])
    for operation, counts in narrow(now["memory"]).items():
        old = recorded.get(operation, [0] * 4)
        if any(new > most for new, most in zip(counts, old)):
            found.append(f"{operation} of at most 8, 16, 32, 64 bits: {counts}, {old} before")
    return found


@built
def test_hot_kernels_lose_nothing():
    same_nvcc()
    _, recorded = machine_code.read_record()
    archs = {arch for _, arch in rows()}
    assert archs & {arch for _, arch in recorded}, f"the record has none of {archs}"
    missing = [key for key in recorded if key[1] in archs and key not in rows()]
    assert missing == [], "gone or renamed: dev/bench/machine_code.py makes a new record"
    unknown = [key for key in rows() if key not in recorded and key[1] in {arch for _, arch in recorded}]
    assert unknown == [], "not in the record: dev/bench/machine_code.py makes a new one"
    worse = {key: found for key, row in rows().items() if key in recorded and (found := losses(recorded[key], row))}
    assert worse == {}


def too_narrow(kernel, memory):
    """Accesses of global memory that NARROW does not allow the kernel."""
    allowed = NARROW.get(kernel, {})
    found = {kind: count for kind, count in memory.items() if re.fullmatch(r"(LDG|STG)\.(8|16|32)", kind)}
    return {kind: count for kind, count in found.items() if count > allowed.get(kind, 0)}


@built
def test_tensors_are_accessed_in_wide_units():
    same_nvcc()
    bound_by_memory = {key: row for key, row in rows().items() if not row["matrix"]}
    assert len(bound_by_memory) >= 15
    assert {key: found for key, row in bound_by_memory.items() if (found := too_narrow(key[0], row["memory"]))} == {}
    assert set(NARROW) <= {kernel for kernel, _ in rows()}, "no such kernel"


@built
def test_attention_has_matrix_instructions():
    """On any architecture, by any nvcc; in the loop, not beside it."""
    attention = {key: row for key, row in rows().items() if MATRIX_KERNEL.match(key[0])}
    assert len(attention) >= 6
    assert [key for key, row in attention.items() if not row["loop_matrix"]] == []


@built
def test_local_memory():
    """Of every kernel, spilled registers and arrays that registers do not hold."""
    same_nvcc()
    usage = machine_code.read_usage(BUILD)
    assert len(usage) > 50, "the reports are not read"
    assert {key: used.frame for key, used in usage.items() if used.frame > FRAMES.get(key[0], 0)} == {}


@built
def test_kernels_call_nothing():
    """No assert and no printf: they would take registers and a stack from every thread."""
    symbols = [sass.cuobjdump("--dump-elf-symbols", path) for path in BUILD.glob("obj/llmc/kernels/*.cu.o")]
    assert len(symbols) > 10 and all("STO_ENTRY" in text for text in symbols)
    assert re.findall(r"\S*(?:assertfail|vprintf|malloc)\S*", "".join(symbols)) == []


# ---- the reader

LISTING = """
\tcode for sm_90a
\t\tFunction : _Z11some_kernelPf
        /*0000*/                   LDG.E.U16 R1, desc[UR4][R2.64] ;   /* 0x0 */
        /*0010*/                   BSSY B0, 0x60 ;                    /* 0x0 */
        /*0020*/                   LDSM.16.MT88.4 R4, [R1] ;          /* 0x0 */
        /*0030*/                   HMMA.16816.F32.BF16 R4, R4, R8, R4 ;/* 0x0 */
        /*0040*/               @P0 BRA 0x30 ;                         /* 0x0 */
        /*0050*/              @!P1 BRA 0x10 ;                         /* 0x0 */
        /*0060*/                   STG.E.128 desc[UR4][R2.64], R4 ;   /* 0x0 */
        /*0070*/               @P2 BRA 0xa0 ;                         /* 0x0 */
        /*0080*/                   EXIT ;                             /* 0x0 */
        /*0090*/                   HFMA2.MMA R9, -RZ, RZ, 0, 2.3 ;    /* 0x0 */
        /*00a0*/                   LDGSTS.E.BYPASS.LTC128B.128 [R1], desc[UR4][R2.64] ;  /* 0x0 */
        /*00b0*/                   BRA 0x60 ;                         /* 0x0 */
        /*00c0*/                   BRA 0xc0 ;                         /* 0x0 */
"""


def test_listing_is_read(monkeypatch):
    monkeypatch.setattr(sass, "cuobjdump", lambda *_: LISTING)
    read = sass.read("any.o", lambda kernel: kernel == "some_kernel")
    assert list(read) == [("some_kernel", "sm_90a")]
    row = machine_code.describe(read["some_kernel", "sm_90a"])
    assert row["instructions"] == 13
    assert row["matrix"] == {"HMMA.16816.F32.BF16": 1}
    assert row["memory"] == {"LDG.16": 1, "LDGSTS.128": 1, "LDSM.x4": 1, "STG.128": 1}
    assert (row["loop"], row["loop_matrix"]) == (2, 1)
    assert sass.read("any.o", lambda kernel: False) == {}


def test_loops_are_those_of_the_control_flow(monkeypatch):
    monkeypatch.setattr(sass, "cuobjdump", lambda *_: LISTING)
    body = sass.read("any.o", lambda kernel: True)["some_kernel", "sm_90a"]
    # one in another, and one whose end lies behind the way out; 80 leaves it, and nothing comes to 90 and c0
    assert sorted(map(sorted, sass.loops(body))) == [[1, 2, 3, 4, 5], [3, 4], [6, 7, 10, 11]]


# 10 to d0 is the loop; 20 jumps over a mask at 30; a copy loop at 50 and 60, what it leaves at 80; 90 is the work
TRIPS = """
\tcode for sm_80
\t\tFunction : _Z11some_kernelPf
        /*0000*/                   MOV R1, R2 ;
        /*0010*/                   LDSM.16.M88.4 R4, [R1] ;
        /*0020*/               @P0 BRA 0x40 ;
        /*0030*/                   LDS R9, [R1] ;
        /*0040*/               @P1 BRA 0x90 ;
        /*0050*/                   LDGSTS.E.BYPASS.128 [R1], desc[UR4][R2.64] ;
        /*0060*/               @P2 BRA 0x50 ;
        /*0070*/               @P3 BRA 0x90 ;
        /*0080*/                   LDGSTS.E.BYPASS.128 [R1], desc[UR4][R2.64] ;
        /*0090*/                   HMMA.16816.F32.BF16 R4, R4, R8, R4 ;
        /*00a0*/                   MUFU.EX2 R4, R4 ;
        /*00b0*/                   STS [R1], R4 ;
        /*00c0*/                   STG.E.64 desc[UR4][R2.64], R4 ;
        /*00d0*/               @P4 BRA 0x10 ;
        /*00e0*/                   EXIT ;
"""


def trip_of(monkeypatch, listing):
    monkeypatch.setattr(sass, "cuobjdump", lambda *_: listing)
    body = sass.read("any.o", lambda kernel: True)["some_kernel", "sm_80"]
    return sass.usual_trip(body, sass.hottest_loop(body))


def test_a_usual_trip(monkeypatch):
    trip = trip_of(monkeypatch, TRIPS)
    assert trip == sass.Trip(slots=11, matrix=1, mufu=1, shared=16 + 16 + 4, global_=8, copies=1, copy_loop=2)
    trip = trip_of(monkeypatch, TRIPS.replace("@P2 BRA 0x50", "@P2 MOV R1, R1"))  # then the second copy is one like the first
    assert trip == sass.Trip(slots=12, matrix=1, mufu=1, shared=16 + 2 * 16 + 4, global_=8, copies=2, copy_loop=0)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"matrix": {}}, "HMMA.16816 is gone"),
        ({"loop": 103}, "103 instructions in the loop"),
        ({"memory": {"LDG.128": 1, "LDG.16": 8, "STG.64": 1}}, "LDG of at most"),
        ({"memory": {"LDG.128": 2, "STG.64": 1, "STL.32": 1}}, "STL of at most"),
        ({"memory": {"LDG.128": 2, "STG.16": 1}}, "STG of at most"),
        ({"memory": {"LDG.128": 9, "STG.128": 9}, "loop": 102, "matrix": {"HMMA.16816": 1, "IMMA.16816": 1}}, None),
    ],
)
def test_losses_are_found(change, words):
    before = {"matrix": {"HMMA.16816": 2}, "loop": 100, "memory": {"LDG.128": 2, "STG.64": 1}}
    found = losses(before, before | change)
    assert len(found) == (words is not None) and all(words in text for text in found), found


def test_narrow_accesses_are_found():
    assert too_narrow("rope_kernel", {"LDG.128": 6, "LDG.32": 3, "LDS.32": 9, "STG.64": 2}) == {}
    assert too_narrow("rope_kernel", {"LDG.32": 4, "LDG.16": 1, "STG.8": 1}) == {"LDG.32": 4, "LDG.16": 1, "STG.8": 1}
    assert too_narrow("swiglu_forward_kernel", {"LDG.32": 1}) == {"LDG.32": 1}
