"""train_llama3 on two hosts: mpirun across two network namespaces (twohosts.py), over TCP."""

import os
import time

import pytest

import ranks
import twohosts
from checkout import SUPERVISE
from trainrun import BUILDS, Workplace, losses, program

REASON = twohosts.reason()
pytestmark = [
    pytest.mark.skipif(REASON is not None, reason=str(REASON)),
    pytest.mark.skipif("fp32" not in BUILDS, reason="the exact rule is fp32's"),
]
STEPS, ROWS = 8, 4
LOSS_LIMIT = 1e-5  # of runs that differ in the order of sums


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return Workplace(tmp_path_factory.mktemp("two_hosts"))


@pytest.fixture(scope="module")
def hosts():
    with twohosts.TwoHosts() as made:
        yield made


def command(work, output, count, **changes):
    options = {"output": work.folder / output, "steps": STEPS, "batch_size": ROWS // count, "eval_every": 0}
    return [program("fp32"), *work.arguments(**{**options, **changes})]


def curve(work, output):
    return losses(work.log(work.folder / output))


def checksum(work, output):
    return [line["weights_checksum"] for line in work.log(work.folder / output) if "weights_checksum" in line][-1]


@pytest.fixture(scope="module")
def one_rank(work):
    done = ranks.run(command(work, "alone", 1), ranks=1)
    assert done.returncode == 0, done.stderr
    return curve(work, "alone")


@pytest.mark.parametrize("count, changes", [(2, {}), (4, {}), (4, {"shard_group": 2}), (4, {"zero": 2, "shard_group": 2})], ids=str)
def test_like_one_host(work, hosts, one_rank, count, changes):
    """The losses of one rank up to the order of sums; the bits of as many ranks on one host."""
    before = hosts.sent(1)
    far = hosts.run(command(work, "far", count, overwrite=True, **changes), ranks=count)
    assert far.returncode == 0, far.stderr
    assert hosts.sent(1) - before > 100_000, "nothing went over the cable"
    near = ranks.run(command(work, "near", count, overwrite=True, **changes), ranks=count)
    assert near.returncode == 0, near.stderr
    found = curve(work, "far")
    assert len(found) == STEPS and all(abs(a - b) <= LOSS_LIMIT * b for a, b in zip(found, one_rank))
    assert found == curve(work, "near") and checksum(work, "far") == checksum(work, "near")


def test_replicas_send_less(work, hosts):
    """Shards within a host, replicas across: of gradients only shards' cross the cable, and no parameters."""
    sent = []
    for group in (0, 2):
        before = hosts.sent(0)
        done = hosts.run(command(work, "sent", 4, overwrite=True, shard_group=group), ranks=4)
        assert done.returncode == 0, done.stderr
        sent.append(hosts.sent(0) - before)
    assert sent[1] < 0.8 * sent[0], sent


def ranks_left(hosts):
    return [name for host in (0, 1) for name in hosts.members(host).values() if "train_llama3" in name]


# when mpirun, which waits for nothing, gives up a host that does not answer: as supervise.sh sets them, shorter
KEEPALIVE = {"time": "5", "intvl": "2", "probes": "2"}
SUPERVISED = [SUPERVISE, "--restarts", "0", "--end-within", "5", "--"]


@pytest.mark.parametrize("timeout", [1, 3], ids="--rank-timeout {}".format)
def test_cable_cut(work, hosts, timeout):
    """Ranks wait for each other, and end with one line that says so; the other host is given up, whether the ranks end first
    (mpirun then waits for an answer to what it has sent there) or mpirun sees it before; and the run goes on once the cable is
    mended."""
    settings = {f"OMPI_MCA_oob_tcp_keepalive_{name}": value for name, value in KEEPALIVE.items()}
    options = {"steps": 100_000, "save_every": 20, "resume": "auto", "rank_timeout": timeout}
    output = work.folder / f"cut{timeout}"
    process = hosts.start(command(work, output, 2, **options), count=2, environment=settings, before=SUPERVISED)
    log = output / "log.jsonl"
    end = time.monotonic() + 60
    while not (log.exists() and "step_00000020" in log.read_text()):
        assert process.poll() is None and time.monotonic() < end, (hosts.kill(), process.communicate())
        time.sleep(0.05)
    hosts.cut()
    try:
        _, err = process.communicate(timeout=120)  # ten times --rank-timeout, where nobody is to blame, and then END_WITHIN
        end = time.monotonic() + 30  # the other host's rank hears of nothing: it gives up by its own clock
        while (left := ranks_left(hosts)) and time.monotonic() < end:
            time.sleep(0.1)
    finally:
        hosts.mend()
        hosts.kill()
    assert process.returncode == 1 and not left
    lines = [line for line in err.splitlines() if line.startswith("train_llama3:")]
    assert len(lines) <= 1 and all("wait" in line for line in lines), err  # the other host's line may be lost on the cable
    steps = 20 + int(os.readlink(output / "checkpoints" / "latest").removeprefix("step_"))
    done = hosts.run(command(work, output, 2, steps=steps, save_every=20, resume="auto"), ranks=2)
    assert done.returncode == 0, done.stderr
    assert "resume    after step" in done.stdout
