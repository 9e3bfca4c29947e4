"""Ranks that exchange by NCCL, on the stand-in for it (TARGET=cuda-on-cpu), beside the cpu target's by MPI: the same bits,
however they are started and divided and whenever streams run; and what they say when NCCL fails or a rank dies."""

import os
import random
import re
import signal

import pytest

import ranks
import trainrun
from oncpu import CPU, ON_CPU, need
from seeds import SEED, how_often
from waiting import wait_until

TIMEOUT = 2  # --rank-timeout
OWN = {"comm_seconds", "exposed_seconds", "tokens_per_second", "wait_seconds", "write_seconds", "bytes", "resumed"}  # in the log
MODES = {"eager": "eager", "lazy": "lazy", "random": f"random:{random.Random(SEED).randrange(1, 1 << 30)}"}
STEPS = 4
LAUNCHERS = {"mpirun": ranks.mpirun, "variables": ranks.by_variables}


class Place(trainrun.Workplace):
    """Runs by NCCL (build/cuda-on-cpu) and by MPI (build/cpu), each in a folder of its own."""

    made = 0

    def new_output(self):
        self.made += 1
        self.output = self.folder / f"run{self.made}"
        return self.output

    def run(self, count, build=ON_CPU, launcher="mpirun", mode="eager", variables={}, **changes):
        """stdout and stderr of a run in a new folder."""
        self.new_output()
        start = {"launcher": LAUNCHERS[launcher], "environment": {"LLMC_HOST_STREAMS": MODES[mode], **variables}}
        return self.run_ranks(count, build=build, start=start, **{"threads": None, "steps": STEPS, **changes})

    def left(self, *arguments, **options):
        """What a run left: its log; weights, master weights and moments."""
        out, err = self.run(*arguments, **options)
        assert err == "" and f"over {'MPI' if options.get('build') == CPU else 'NCCL'}" in out
        log = [{key: value for key, value in line.items() if key not in OWN} for line in self.log()]
        return log, {path.name: path.read_bytes() for path in sorted((self.output / "checkpoint").rglob("*.safetensors"))}

    def says(self, count, code=1, **options):
        """The one line of a run that fails."""
        _, err = self.run(count, code=code, rank_timeout=TIMEOUT, **options)
        assert err.count("\n") == 1 and err.endswith("\n"), err
        return err


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    need()
    return Place(tmp_path_factory.mktemp("nccl"))


# ---- the same bits

# number of ranks, options; and how the ranks of NCCL are started, and when their streams run
ALL = [
    (count, options, launcher, mode)
    for count, options in [(2, {"zero": 0}), (3, {"zero": 1, "grad_accum": 2}), (4, {"zero": 2, "shard_group": 2}),
                           (4, {"zero": 1, "shard_group": 2, "overlap": "off"}), (2, {"zero": 2, "recompute": "block"}), (2, {"zero": 0, "grad_reduce": "bf16"}),
                           (4, {"zero": 2, "shard_group": 2, "grad_reduce": "bf16"})]
    for launcher in LAUNCHERS
    for mode in MODES
]  # fmt: skip
FEW = [ALL[2], ALL[9], ALL[17], ALL[31], ALL[41]]


@pytest.mark.parametrize("count, options, launcher, mode", how_often(FEW, ALL))
def test_same_bits_as_by_mpi(place, count, options, launcher, mode):
    options = {"checksum_every": 1, "eval_every": 2, "val_data": place.data / "val_*.bin", **options}
    expected = place.left(count, build=CPU, **options)
    assert any("val_loss" in line for line in expected[0])
    assert place.left(count, launcher=launcher, mode=mode, **options) == expected


def test_one_rank_by_nccl(place):
    """--transport nccl with one rank, which exchanges with itself: as without."""
    out, _ = place.run(1, transport="nccl", grad_reduce="bf16", variables={"OMPI_COMM_WORLD_SIZE": ""})
    weights = (place.output / "checkpoint/model.safetensors").read_bytes()
    place.run(1)
    assert weights == (place.output / "checkpoint/model.safetensors").read_bytes()


def test_resumed_by_other_ranks(place):
    """Begun by four ranks, taken up by two with other streams; as by MPI."""
    found = []
    for build, second in ((CPU, {}), (ON_CPU, {"launcher": "variables", "mode": "random"})):
        place.run(4, build=build, shard_group=2, zero=2, batch_size=1)
        begun = place.output
        found.append(place.left(2, build=build, resume=begun, steps=2 * STEPS, zero=1, batch_size=2, **second))
    assert found[0] == found[1]


# ---- starts that are refused


def test_more_ranks_than_gpus(place):
    words = "3 ranks on a machine with 2 GPUs: start at most 2 there, or let ranks share a GPU by transport mpi"
    assert words in place.says(3, code=2, variables={"LLMC_HOST_DEVICES": "2"})


def test_ranks_that_see_one_gpu(place):
    err = place.says(2, code=2, variables={"LLMC_HOST_DEVICES": "1"})
    assert "ranks 0 and 1 have the same GPU" in err and "0000:01:00.0" in err


def test_no_gpu(place):
    assert "no GPU is visible to this rank" in place.says(2, code=2, launcher="variables", variables={"LLMC_HOST_DEVICES": "0"})


# ---- NCCL fails

FAILURES = [  # call, on which ranks, words
    ("ncclGetUniqueId:1", [0], "train_llama3: NCCL did not start: internal error"),
    ("ncclCommInitRankConfig:1", [0, 1, 2], "train_llama3: rank 0: NCCL did not start: internal error"),
    ("ncclCommInitRankConfig:1", [1], "train_llama3: rank 1: NCCL did not start: internal error"),
    ("ncclCommSplit:1", [1], "llmc: rank 1: llmc/comm/nccl_transport.c:"),
    ("ncclCommSplit:2", [0, 1, 2], "llmc: rank 0: llmc/comm/nccl_transport.c:"),
    ("ncclCommCount:1", [0], "llmc: rank 0: "),
    ("ncclCommUserRank:1", [0], "llmc: rank 0: "),
    ("ncclAllReduce:9", [0], "llmc: rank 0: "),
    ("ncclReduceScatter:4", [0, 1, 2], "llmc: rank 0: "),
    ("ncclAllGather:3", [0], "llmc: rank 0: "),
    ("ncclBroadcast:2", [0], "llmc: rank 0: "),
    ("ncclCommGetAsyncError:1", [1], "train_llama3: rank 1: NCCL reports: internal error"),
    ("ncclCommFinalize:1", [0], "llmc: rank 0: "),
    ("ncclCommDestroy:2", [0, 1, 2], "llmc: rank 0: "),
    ("ncclGroupEnd:3", [0, 1, 2], "llmc: rank 0: "),
    ("ncclRecv:5", [0], "llmc: rank 0: "),
]


@pytest.mark.parametrize("call, where, words", FAILURES if how_often(0, 1) else [FAILURES[i] for i in (0, 2, 3, 8, 11, 14)])
def test_a_call_that_fails(place, call, where, words):
    """One rank tells, and all end."""
    line = f'LLMC_STANDIN_NCCL_FAIL={call} exec "$@"'
    steps = 1_000_000 if "AsyncError" in call else STEPS  # which the watchdog's thread asks for
    reduce = "bf16" if "Group" in call or "Recv" in call else "fp32"
    err = place.says(3, different=dict.fromkeys(where, line), steps=steps, grad_reduce=reduce)
    assert err.startswith(words) and f"{call.partition(':')[0]}: planted" in err


# ---- a rank dies

LINE = r"train_llama3: rank {rank} \(\S+/{pid}\) {words}; last step \d+; \w+, last seen (in|after) #\d+ .*; ranks? .*\n"


@pytest.mark.parametrize("launcher, number, words", [
    ("variables", signal.SIGKILL, "is gone: killed, or crashed"),
    ("mpirun", signal.SIGKILL, "is gone: killed, or crashed"),
    ("variables", signal.SIGSTOP, r"is stopped \(SIGSTOP\?\), for \d+ s now"),
][: how_often(1, 3)])  # fmt: skip
def test_a_rank_that_dies_is_named(place, launcher, number, words):
    """Where no mpirun ends the others: NCCL itself would let them wait forever. In any of their calls it may tell them that the
    connection is closed, before the watchdog has seen why: still one line, of the right rank."""
    for _ in range(how_often(2, 40)):
        environment = {"LLMC_HOST_STREAMS": random.choice(list(MODES.values()))}
        output = place.new_output()
        arguments = place.arguments(threads=None, steps=1_000_000, rank_timeout=TIMEOUT, save="off", output=output)
        process = ranks.start([ON_CPU / "train_llama3", *arguments], 3, environment, launcher=LAUNCHERS[launcher])
        trainrun.STARTED.append(process)
        try:
            wait_until(lambda: (output / "log.jsonl").exists() and trainrun.losses(place.log()), "a step", process=process)
            pids = by_rank(process)
            victim = random.randrange(3)
            os.kill(pids[victim], number)
            _, err = process.communicate(timeout=600)
        finally:
            ranks.kill(process)
        print(environment, launcher, victim, err)
        assert process.returncode in (1, 128 + number)
        assert re.fullmatch(LINE.format(rank=victim, pid=pids[victim], words=words), err), err


def by_rank(process):
    """{rank: pid} of train_llama3's processes."""
    found = {}
    for pid, name in ranks.members(process).items():
        if name.startswith("train_llama3"):
            variables = dict(v.partition("=")[::2] for v in open(f"/proc/{pid}/environ").read().split("\0"))
            found[int(variables.get("OMPI_COMM_WORLD_RANK") or variables["RANK"])] = pid
    return found
