"""How ranks find each other: variables of launchers, and the meeting over TCP that stands in for MPI."""

import os
import socket
import struct
import subprocess
import sys
import threading
import time

import pytest

import hostlib
import llmc
import ranks
from meeting import gather, read_start

ALONE, MPI, ENVIRONMENT = 0, 1, 2


TORCHRUN = {
    "RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "node-7", "MASTER_PORT": "29500",
}  # fmt: skip
SLURM = {
    "SLURM_PROCID": "5", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "8", "SLURM_NTASKS": "16", "SLURM_LOCALID": "1",
    "MASTER_ADDR": "10.0.0.7", "MASTER_PORT": "1",
}  # fmt: skip
MPIRUN = {"OMPI_COMM_WORLD_SIZE": "3", "OMPI_COMM_WORLD_RANK": "0"}


def read(monkeypatch, variables, with_mpi=True):
    """(code, message, Start) with no other launcher's variables than these."""
    for name in list(os.environ):
        if name.startswith(ranks.ALONE):
            monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return read_start(with_mpi)


def place(start):
    return (start.way, start.rank, start.size, start.local_rank, start.local_size, start.address, start.port)


# ---- variables


@pytest.mark.checked
@pytest.mark.parametrize(
    "variables, with_mpi, expected",
    [
        ({}, True, (ALONE, 0, 1, 0, 1, b"", 0)),
        ({"MASTER_ADDR": "x", "MASTER_PORT": "y"}, True, (ALONE, 0, 1, 0, 1, b"", 0)),
        ({"WORLD_SIZE": "1"}, True, (ALONE, 0, 1, 0, 1, b"", 0)),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, False, (ALONE, 0, 1, 0, 1, b"", 0)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, True, (ALONE, 0, 1, 0, 1, b"", 0)),  # a batch script, no step
        ({"SLURM_PROCID": "0", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "1"}, True, (ALONE, 0, 1, 0, 1, b"", 0)),
        (TORCHRUN, True, (ENVIRONMENT, 1, 4, 1, 2, b"node-7", 29500)),
        ({**SLURM, **TORCHRUN}, True, (ENVIRONMENT, 1, 4, 1, 2, b"node-7", 29500)),
        ({**TORCHRUN, "TORCHELASTIC_USE_AGENT_STORE": "True"}, True, (ENVIRONMENT, 1, 4, 1, 2, b"node-7", 29501)),
        (SLURM, True, (ENVIRONMENT, 5, 8, 1, 0, b"10.0.0.7", 1)),
        ({**SLURM, "SLURM_STEP_NUM_TASKS": ""}, True, (ENVIRONMENT, 5, 16, 1, 0, b"10.0.0.7", 1)),
        ({**SLURM, "PMIX_RANK": "5"}, True, (MPI, 5, 8, 0, 0, b"", 0)),
        ({**SLURM, "PMIX_RANK": "5"}, False, (ENVIRONMENT, 5, 8, 1, 0, b"10.0.0.7", 1)),
        ({**TORCHRUN, **MPIRUN}, True, (MPI, 0, 3, 0, 0, b"", 0)),
    ],
)
def test_start(monkeypatch, variables, with_mpi, expected):
    code, message, start = read(monkeypatch, variables, with_mpi)
    assert (code, message) == (0, "") and place(start) == expected


@pytest.mark.checked
@pytest.mark.parametrize(
    "launcher, name, value, words",
    [
        (TORCHRUN, "WORLD_SIZE", "abc", "WORLD_SIZE is 'abc', expected an integer from 1 to"),
        (TORCHRUN, "WORLD_SIZE", "0", "WORLD_SIZE is '0', expected"),
        (TORCHRUN, "WORLD_SIZE", "-4", "WORLD_SIZE is '-4', expected"),
        (TORCHRUN, "WORLD_SIZE", "4 4", "WORLD_SIZE is '4 4', expected"),
        (TORCHRUN, "WORLD_SIZE", "99999999999999999999", "WORLD_SIZE is '99999999999999999999', expected"),
        (TORCHRUN, "WORLD_SIZE", None, "WORLD_SIZE is not set, expected"),
        (TORCHRUN, "RANK", "4", "RANK is '4', expected an integer from 0 to 3"),
        (TORCHRUN, "RANK", "", "RANK is not set, expected an integer from 0 to 3"),
        (TORCHRUN, "RANK", "1x", "RANK is '1x', expected an integer from 0 to 3"),
        (TORCHRUN, "LOCAL_RANK", None, "LOCAL_RANK is not set, expected an integer from 0 to 3"),
        (TORCHRUN, "LOCAL_WORLD_SIZE", "5", "LOCAL_WORLD_SIZE is '5', expected an integer from 1 to 4"),
        (TORCHRUN, "MASTER_ADDR", None, "MASTER_ADDR is not set, expected the address of rank 0, as 4 ranks were started"),
        (TORCHRUN, "MASTER_ADDR", "a" * 300, "MASTER_ADDR has 300 characters, expected at most 255"),
        (TORCHRUN, "MASTER_PORT", None, "MASTER_PORT is not set, expected an integer from 1 to 65535"),
        (TORCHRUN, "MASTER_PORT", "0", "MASTER_PORT is '0', expected an integer from 1 to 65535"),
        (TORCHRUN, "MASTER_PORT", "65536", "MASTER_PORT is '65536', expected an integer from 1 to 65535"),
        (SLURM, "SLURM_LOCALID", None, "SLURM_LOCALID is not set, expected an integer from 0 to 7"),
        (SLURM, "MASTER_ADDR", None, "as 8 ranks were started by srun without PMIx (srun --mpi=pmix needs none)"),
        (MPIRUN, "OMPI_COMM_WORLD_SIZE", "many", "OMPI_COMM_WORLD_SIZE is 'many', expected an integer from 1 to"),
    ],
)
def test_bad_variable(monkeypatch, launcher, name, value, words):
    variables = {k: v for k, v in {**launcher, "LOCAL_RANK": "0", name: value}.items() if v is not None}
    for rank_name in ("RANK", "SLURM_PROCID"):
        if rank_name in variables and name != rank_name:
            variables[rank_name] = "0"
    code, message, _ = read(monkeypatch, variables)
    assert code == 2 and words in message


@pytest.mark.checked
def test_only_rank_0_tells_what_is_wrong_everywhere(monkeypatch):
    without = {k: v for k, v in TORCHRUN.items() if k != "MASTER_ADDR"}
    assert read(monkeypatch, without)[:2] == (2, "")
    assert read(monkeypatch, {**without, "RANK": "0", "LOCAL_RANK": "0"})[0] == 2


@pytest.mark.checked
def test_mpirun_with_a_program_without_mpi(monkeypatch):
    code, message, _ = read(monkeypatch, MPIRUN, with_mpi=False)
    assert code == 2 and "mpirun started 3 ranks, but this program was built without MPI" in message


def start_alone(variables):
    command = [sys.executable, llmc.ROOT / "tests/support" / "comm_rank.py", "host", "1"]
    return subprocess.run(command, env=ranks.alone(variables), capture_output=True, text=True, timeout=600)


@pytest.mark.skipif("cuda" in hostlib.BUILD, reason="the cuda target has NCCL for this")
def test_ranks_without_mpi_on_the_cpu_target():
    done = start_alone({**TORCHRUN, "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"})
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert "4 ranks were started by environment variables" in done.stderr and "are started by mpirun" in done.stderr


def test_slurm_whose_tasks_mpi_does_not_find():
    """PMIx is there, but each rank finds itself alone: the number that was started is known from Slurm."""
    done = start_alone({**SLURM, "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2", "PMIX_RANK": "0", **ranks.SETTINGS})
    assert done.returncode == 2 and "2 ranks were started, but MPI finds 1" in done.stderr, done.stderr


# ---- the meeting


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def meet(calls):
    """Runs gather(**call) of each call in a thread of its own (the library lets go of Python meanwhile); their results."""
    results = [None] * len(calls)

    def one(i, call):
        time.sleep(call.pop("after", 0))
        results[i] = gather(**call)

    threads = [threading.Thread(target=one, args=(i, dict(call))) for i, call in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def greeting(size, rank, count, job=0, magic=b"L3RANKS\0"):
    return struct.pack("<8sQQII", magic, job, count, size, rank)


def connect(port):
    end = time.monotonic() + 10
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=10)
        except ConnectionRefusedError:
            assert time.monotonic() < end
            time.sleep(0.02)


def refusal(port, *messages):
    """What rank 0 answers to these bytes: its refusal, or "hung up" where it closes without having read all of them."""
    with connect(port) as s:
        for message in messages:
            s.sendall(message)
        data = b""
        try:
            while part := s.recv(4096):
                data += part
        except ConnectionResetError:
            return "hung up"
    return data[8:].split(b"\0")[0].decode()


@pytest.mark.checked
@pytest.mark.parametrize("size", [1, 2, 5])
def test_meeting(size):
    port, mine = free_port(), [os.urandom(300) for _ in range(size)]
    late = [{"port": port, "rank": r, "size": size, "mine": mine[r], "after": 0.4 * (r == 0)} for r in range(size)]
    assert meet(late) == [(0, "", mine)] * size


@pytest.mark.checked
def test_meeting_over_ipv6():
    if not os.path.exists("/proc/net/if_inet6"):
        pytest.skip("no IPv6 on this machine")
    port = free_port()
    calls = [{"port": port, "rank": r, "size": 2, "mine": b"%d" % r, "address": b"::1"} for r in range(2)]
    assert meet(calls) == [(0, "", [b"0", b"1"])] * 2


def test_meeting_of_processes():
    port = free_port()
    command = [sys.executable, llmc.ROOT / "tests/support" / "meeting.py", str(port)]
    processes = [subprocess.Popen([*command, str(r), "3"], stdout=subprocess.PIPE, text=True) for r in range(3)]
    said = {p.communicate(timeout=600)[0].strip() for p in processes}
    assert said == {"(0, '', [b'card 0', b'card 1', b'card 2'])"}


def test_under_torchrun():
    """The real one, which listens at MASTER_PORT itself."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1"]
    command += ["--master-port", str(free_port()), llmc.ROOT / "tests/support" / "meeting.py"]
    done = subprocess.run(command, env=ranks.alone(), capture_output=True, text=True, timeout=600)
    cards = [b"card 0", b"card 1"]
    assert sorted(done.stdout.splitlines()) == [f"{r}: 0  {cards} {r} of 2" for r in range(2)], done.stderr


@pytest.mark.checked
def test_strangers_hold_up_nobody():
    """Connections that say nothing, nonsense, half a greeting, or belong to others, before and while the ranks meet."""
    port, size, results = free_port(), 3, []
    host = threading.Thread(target=lambda: results.append(gather(port, 0, size, b"zero")))
    host.start()
    quiet, half, gone = connect(port), connect(port), connect(port)
    half.sendall(greeting(size, 1, 4)[:20])
    gone.close()
    assert refusal(port, b"GET / HTTP/1.1\r\nHost: x\r\n" + b"x" * 100) == "hung up"
    job = own_job()
    assert refusal(port, greeting(4, 1, 4, job)) == "it waits for 3 ranks, this one is of 4"
    assert refusal(port, greeting(size, 7, 4, job)) == "this is another version of the program"
    assert refusal(port, greeting(size, 1, 5, job)) == "this is another version of the program"
    assert refusal(port, greeting(size, 1, 4, job + 1)) == "it belongs to another job"
    assert refusal(port, greeting(size, 0, 4, job)) == "rank 0 is there already"
    with connect(port) as died:  # a rank that dies once it was met: its successor is let in
        died.sendall(greeting(size, 2, 4, job) + b"dead")
        assert refusal(port, greeting(size, 2, 4, job)) == "rank 2 is there already"  # so rank 0 has read what came before
    rest = meet([{"port": port, "rank": r, "size": size, "mine": b"rank"} for r in (1, 2)])
    host.join()
    assert results + rest == [(0, "", [b"zero", b"rank", b"rank"])] * 3
    quiet.close()
    half.close()


def own_job():
    """The job number that ranks of this process send."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        thread = threading.Thread(target=lambda: gather(port, 1, 2, b"mine", seconds=0.5))
        thread.start()
        connection, _ = listener.accept()
        with connection:
            data = connection.recv(4096)
        thread.join()
    assert data[:8] == b"L3RANKS\0"
    return struct.unpack("<Q", data[8:16])[0]


@pytest.mark.checked
def test_a_missing_rank_is_named():
    port = free_port()
    began = time.monotonic()
    results = meet([{"port": port, "rank": r, "size": 4, "mine": b"x", "seconds": s} for r, s in ((0, 1.5), (2, 2.5))])
    assert time.monotonic() - began < 60
    assert results[0][:2] == (1, f"waited 2 s at port {port} (MASTER_PORT): 2 of 4 ranks did not come: 1 3")
    assert results[1][0] == 1 and f"rank 2 waited 2 s for rank 0 at 127.0.0.1 port {port}: " in results[1][1]


@pytest.mark.checked
def test_rank_0_is_missing():
    port = free_port()
    code, message, _ = gather(port, 1, 2, b"x", seconds=0.5)
    assert (code, message) == (1, f"rank 1 waited 0 s for rank 0 at 127.0.0.1 port {port}: Connection refused")


@pytest.mark.checked
def test_a_refused_rank_says_why():
    port = free_port()
    calls = [{"port": port, "rank": r, "size": s, "mine": b"x", "seconds": 2} for r, s in ((0, 2), (1, 3))]
    (host, _, _), (code, message, _) = meet(calls)
    assert host == 1 and code == 2
    assert message == f"rank 1 was refused by rank 0 at 127.0.0.1 port {port}: it waits for 2 ranks, this one is of 3"


@pytest.mark.checked
def test_a_port_in_use_and_an_unknown_host():
    with socket.socket(socket.AF_INET6) as taken:
        taken.bind(("::", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, message, _ = gather(port, 0, 2, b"x", seconds=1)
    assert code == 2 and f"rank 0 cannot listen on port {port} (MASTER_PORT) for 1 other ranks: Address already in use" in message
    code, message, _ = gather(1, 1, 2, b"x", seconds=1, address=b"no such host.invalid")
    assert code == 2 and message.startswith("MASTER_ADDR is 'no such host.invalid': ")
