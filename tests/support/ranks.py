"""Programs run as several ranks on this machine, by mpirun, or as torchrun starts them.

    done = ranks.run([program, "--steps", "3"], ranks=3, timeout=600)     # .returncode, .stdout, .stderr
    process = ranks.start([program], ranks=3); ...; ranks.kill(process)  # for tests of ranks that die

Ranks may outnumber cores: a rank has one thread and waiting gives the core away, unless `environment` says otherwise.
No process of a run outlives run() or kill().
"""

import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time

ALONE = ("OMPI_", "PMIX_", "PMI_", "SLURM_", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_")
SETTINGS = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_mpi_yield_when_idle": "1",
    "OMPI_MCA_hwloc_base_binding_policy": "none",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    # shared memory is copied once instead of read from the other process, which containers forbid with a warning
    "OMPI_MCA_btl_vader_single_copy_mechanism": "none",
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
}


def alone(environment=None):
    """This process's environment without the variables by which a program learns that it is one rank of several."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ALONE)}
    return {**kept, **(environment or {})}


def mpirun(ranks):
    assert shutil.which("mpirun"), "mpirun is missing: scripts/setup.sh installs it (openmpi-bin)"
    return ["mpirun", "-q", "-np", str(ranks)]


# torchrun's variables; unlike mpirun it ends no rank because another one has ended
BY_VARIABLES = """
for ((rank = 0; rank < WORLD_SIZE; rank++)); do RANK=$rank LOCAL_RANK=$rank "$@" & done
exec 2>/dev/null # bash tells of each that is killed
for rank in $(jobs -p); do wait "$rank" || code=$?; done
exit "${code:-0}"
"""


def by_variables(ranks):
    """The same without MPI."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        variables = {"WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": s.getsockname()[1]}
    return ["env", *(f"{name}={value}" for name, value in variables.items()), "bash", "-c", BY_VARIABLES, "bash"]


def start(command, ranks=2, environment=None, options=(), before=(), launcher=mpirun, **popen):
    """The Popen of mpirun, leader of a session of its own. options: further ones for mpirun; before: words before it."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, "text": True}
    whole = [*before, *launcher(ranks), *options, *map(str, command)]
    return subprocess.Popen(whole, env=alone({**SETTINGS, **(environment or {})}), start_new_session=True, **{**pipes, **popen})


def members(process):
    """{pid: command} of the living processes of its session (mpirun gives each rank a process group of its own)."""
    found = {}
    for entry in pathlib.Path("/proc").iterdir():
        try:
            name, _, rest = (entry / "stat").read_text().partition("(")[2].rpartition(")")
            state, _, _, session = rest.split()[:4]
        except (OSError, ValueError):
            continue  # no process, or it ended meanwhile
        if int(session) == process.pid and state not in "ZX":
            found[int(entry.name)] = name
    return found


def kill_all(found):
    """Kills what found() has, and what it then still has; returns when that is nothing."""
    end = time.monotonic() + 10
    while (left := found()) and time.monotonic() < end:
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(0.02)


def kill(process):
    """Ends mpirun and all ranks, stopped ones too; returns when none is left."""
    kill_all(lambda: members(process))
    process.wait()


def run(command, ranks=2, timeout=600, environment=None, options=(), **popen):
    """The completed process of mpirun; subprocess.TimeoutExpired (with what was printed) after `timeout` seconds."""
    process = start(command, ranks, environment, options, **popen)
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired as expired:
        kill(process)
        out, err = process.communicate()
        raise subprocess.TimeoutExpired(expired.cmd, timeout, out, err) from None
    finally:
        kill(process)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)
