"""Asynchronous streams change no bit of a run; and each call that orders work is needed: left out, some run notices.

In scripts/soak.sh there are more seeds, every call is left out, and those of NEEDLESS must go unnoticed."""

import random

import pytest

import callsites
import llmc
from seeds import SEED, how_often, seed_of
from streamruns import StreamRuns

BUILDS = ["build/cpu", "build/cuda-on-cpu"]
# in CI: three seeds in the first build, one in the second; the other runs have one seed in the first build
ALL_MODES = ("pretrain", "ahead", "graph", "two_ranks_zero0", "two_ranks_zero1", "two_ranks", "two_ranks_bf16", "four_ranks_zero2")
LONG = ("many_collectives",)  # in the soak alone
WHOLE = how_often(False, True)  # in the soak all runs in both builds
SAMPLE = 4  # calls that are left out in CI

# (file, function, part of the line): why nothing can notice that the call is left out
NEEDLESS = {
    ("device/trace.c", "trace_open", "Synchronize"): "it makes the moment exact at which a timeline begins",
    ("device/trace.c", "read_event", "Synchronize"): "what a timeline shows is before a step's result, which was waited for",
    ("generate/decoder.c", "decoder_destroy", "Synchronize"): "cudaFree, which comes next, waits for the device too",
    ("model/llama3_create.c", "llama3_destroy", "Synchronize"): "cudaFree, which comes next, waits for the device too",
    ("model/llama3_rows.c", "llama3_upload_rope", ""): "nothing is queued on the stream of a model that is new or between steps",
    ("model/llama3_optimizer.c", "read_bytes", ""): "a run has waited for its last step's result, which is queued behind the state's copies",
    ("comm/nccl_transport.c", "make_room", "(collective)"): "a slot that is taken too early has another label and times; its events are later ones",
    ("comm/nccl_transport.c", "make_room", "(wait)"): "likewise of waits, which only time",
    ("comm/nccl_transport.c", "nccl_begin", "slot->started"): "it times, and tells the watchdog that a collective has begun",
    ("comm/nccl_transport.c", "nccl_wait", "wait->from"): "it times",
    ("comm/nccl_transport.c", "nccl_wait", "wait->to"): "it times",
    ("comm/nccl_transport.c", "nccl_close", "Synchronize"): "comm_op_destroy has waited for every collective",
}
TIMED = "algorithms are timed with --matmul-algorithms alone: tests/standins/test_matmul_algorithms.py does so, on late streams too"
# why no run comes to it; function "": any
NOT_REACHED = {
    "build/cpu": {("comm/mpi_collectives.c", "copy", "Synchronize"): "MPI reads device memory itself where it is the host's"},
    "build/cuda-on-cpu": {("device/matmul_cublaslt.cu", "", words): TIMED for words in (
        "cudaEventRecord(start", "cudaEventRecord(end", "cudaEventSynchronize(end", "cudaStreamSynchronize(stream", "cudaMemcpy(before", "cudaMemcpy(p.d")},
}  # fmt: skip


def modes(count, name):
    return ["lazy", *(f"random:{seed_of(f'{name} {i}') % 10**6}" for i in range(count))]


def is_of(site, row):
    """Whether a table's row is of this call."""
    file, function, words = row
    return site.place.startswith(f"llmc/{file}:") and function in (site.caller, "") and words in site.line


def is_in(table, site):
    return any(is_of(site, row) for row in table)


@pytest.fixture(scope="module", params=BUILDS)
def build(request):
    if not (llmc.ROOT / request.param / "libllmc.so").exists():
        pytest.skip(f"{request.param} is not built: scripts/test.sh builds it where NVIDIA's headers are")
    return request.param


@pytest.fixture(scope="module")
def runs(build, tmp_path_factory):
    return StreamRuns(tmp_path_factory.mktemp("streams"), build)


@pytest.fixture(scope="module")
def sites(build):
    return callsites.of(llmc.ROOT / build / "libllmc.so")


@pytest.mark.parametrize("run", [*StreamRuns.ALONE, *StreamRuns.RANKS, "compared"])
def test_the_bits_of_eager_execution(build, runs, run):
    first, thorough = build == BUILDS[0], run in ALL_MODES
    if not (first or thorough or WHOLE) or (run in LONG and not WHOLE):
        pytest.skip(f"{build}: in scripts/soak.sh")
    for mode in modes(how_often(3 if first and thorough else 1, 8), run):
        assert runs.differences(run, runs.facts(run, mode)) == "", mode


@pytest.mark.parametrize("run", StreamRuns.GRAPHS)
def test_the_bits_of_graphs(runs, run):
    """In eager execution; what else is asynchronous is above."""
    assert runs.differences(run, runs.facts(run, "eager")) == ""


def test_updates_that_are_left_out(runs):
    """The run whose steps begin before the one before is observed has such as depend on what is observed."""
    log = runs.expected("ahead")["run/log.jsonl"]
    assert 0 < sum("skipped" in line for line in log) < sum("loss" in line for line in log) == 60


# calls whose runs are short: each is left out in CI too
SHORT = {"llmc/model/offload.c:": "offloaded", "llmc/model/block_inputs.c:": "inputs_on_host"}


def short_run(site):
    return next((run for file, run in SHORT.items() if site.place.startswith(file)), None)


def runs_of(site):
    """Those that may come to the call, the likeliest first."""
    if short_run(site):
        return [short_run(site)]
    if "/comm/" in site.place:
        return StreamRuns.RANKS
    first = ["compared"] if "/device/" in site.place else ["ahead", "pretrain", "compared"]
    return [*first, *(run for run in StreamRuns.ALONE if run not in first), "two_ranks"]


def what_notices(runs, site, seeds):
    """(whether a run came to the call, what noticed that it was left out, or "")"""
    reached = False
    for run in runs_of(site):
        for mode in modes(seeds, str(site)):
            came, difference = runs.verdict(run, mode, site.skip)
            if not came:
                break
            reached = True
            if difference:
                return True, f"{run} {mode}: {difference}"
    return reached, ""


def unexplained(build, sites):
    return [s for s in sites if not is_in(NEEDLESS, s) and not is_in(NOT_REACHED[build], s)]


def test_each_call_is_needed(build, runs, sites):
    wanted = unexplained(build, sites)
    short, others = (list(filter(kind, wanted)) for kind in (short_run, lambda site: not short_run(site)))
    for site in wanted if WHOLE else [*short, *random.Random(SEED).sample(others, SAMPLE)]:
        reached, noticed = what_notices(runs, site, 20)
        print(f"{site} in {site.caller}: {noticed[:150] or 'not noticed'}")
        assert noticed, f"{site}, LLMC_HOST_SKIP={site.skip}: " + ("nothing notices that it is left out" if reached else "no run comes to it")


def test_the_tables_are_of_this_code(build, sites):
    rows = [row for row in NEEDLESS if "nccl" not in row[0] or "cuda" in build]
    assert [row for row in [*rows, *NOT_REACHED[build]] if not any(is_of(s, row) for s in sites)] == []
    assert {s.function for s in sites} >= {"cudaStreamSynchronize", "cudaEventRecord", "cudaEventSynchronize"}
    assert SAMPLE < len(unexplained(build, sites)) < len(sites)


def test_explained_calls_are_not_noticed(build, runs, sites):
    """Else the explanation is wrong, and the call no longer belongs into the table."""
    if not WHOLE:
        pytest.skip("in scripts/soak.sh")
    for site in (s for s in sites if is_in(NEEDLESS, s)):
        assert what_notices(runs, site, 2)[1] == "", site
