"""scripts/slurm/train.sbatch, under a Slurm of its own on this machine: two nodes, as Debian's slurmctld, slurmd and munge make them.

Skipped, with the reason, where they are not installed or this is not root. No daemon outlives the tests.
"""

import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import pytest

import ranks
import trainrun

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts/slurm/train.sbatch"
TOOLS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "mpirun")
SETTINGS = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerParameters=sched_interval=1,bf_interval=1
KillWait=10
ReturnToService=2
SlurmdParameters=config_overrides
NodeName=node[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{ports[1]}-{ports[2]}] CPUs=2
PartitionName=all Nodes=ALL Default=YES State=UP
"""


def missing():
    if os.geteuid() != 0:
        return "Slurm's daemons need root"
    absent = [tool for tool in TOOLS if not shutil.which(tool)]
    return f"not installed: {', '.join(absent)} (Debian's slurmctld, slurmd, slurm-client, munge)" if absent else None


def free_ports(count):
    """Neighbours, free at the moment."""
    for first in range(17800 + os.getpid() % 1000, 32000, count):
        try:
            for port in range(first, first + count):
                with socket.socket() as s:
                    s.bind(("127.0.0.1", port))
            return list(range(first, first + count))
        except OSError:
            pass
    raise OSError("no free ports")


class Cluster:
    def __init__(self, folder):
        self.folder, self.daemons = folder, []
        (folder / "key").write_bytes(os.urandom(256))
        (folder / "key").chmod(0o600)
        (folder / "state").mkdir()
        host = socket.gethostname().split(".")[0]
        (folder / "slurm.conf").write_text(SETTINGS.format(folder=folder, host=host, ports=free_ports(3)))
        self.environment = ranks.alone({**ranks.SETTINGS, "SLURM_CONF": str(folder / "slurm.conf"), "RESTARTS": "0"})

    def begin(self):
        f = self.folder
        files = {"key": "key", "socket": "munge", "pid": "munged.pid", "log": "munged.log", "seed": "munged.seed"}
        option = {"pid": "pid-file", "log": "log-file", "seed": "seed-file", "key": "key-file", "socket": "socket"}
        self.start("munged", "--force", "--foreground", *(f"--{option[name]}={f / file}" for name, file in files.items()))
        self.until(lambda: (f / "munge").exists(), "munged")
        self.start("slurmctld", "-D")
        for node in ("node1", "node2"):
            self.start("slurmd", "-D", "-N", node)
        self.until(lambda: self.call("sinfo", "-h", "-t", "idle", "-o", "%D", check=False).strip() == "2", "two idle nodes")

    def start(self, *command):
        log = open(self.folder / f"{command[0]}.{len(self.daemons)}.out", "w")
        self.daemons.append(subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, start_new_session=True))

    def end(self):
        self.call("scancel", "--user=root", check=False)
        end = time.monotonic() + 10
        while self.call("squeue", "-h", check=False).strip() and time.monotonic() < end:
            time.sleep(0.1)
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in self.daemons:
            try:
                daemon.wait(timeout=10)
            except subprocess.TimeoutExpired:
                os.killpg(daemon.pid, signal.SIGKILL)
                daemon.wait()

    def call(self, *command, check=True, **more):
        """Its stdout."""
        done = subprocess.run(command, env={**self.environment, **more}, cwd=ROOT, capture_output=True, text=True, timeout=600)
        assert not check or done.returncode == 0, (command, done.stderr)
        return done.stdout

    def until(self, condition, what, seconds=60):
        end = time.monotonic() + seconds
        while not condition():
            logs = "\n".join(p.read_text()[-1500:] for p in self.folder.glob("slurm*.log"))
            assert time.monotonic() < end, f"no {what} after {seconds} s\n{logs}"
            time.sleep(0.1)

    def submit(self, work, nodes, launch, **options):
        """The job's number: two ranks over so many nodes."""
        words = [f"--nodes={nodes}", f"--ntasks-per-node={2 // nodes}", "--gpus-per-node=0", f"--output={work.folder}/job.log"]
        environment = {"LAUNCH": launch, "PROGRAM": str(trainrun.program("fp32"))}
        return self.call("sbatch", "--parsable", *words, str(SCRIPT), *work.arguments(**options), **environment).strip()

    def job(self, number):
        fields = self.call("scontrol", "--oneliner", "show", "job", number).split()
        return dict(field.split("=", 1) for field in fields if "=" in field)

    def finish(self, number, work):
        """(state, exit code) and what the job has printed."""
        self.until(lambda: self.job(number)["JobState"] in ("COMPLETED", "FAILED", "CANCELLED", "NODE_FAIL"), "end of the job")
        job = self.job(number)
        text = (work.folder / "job.log").read_text()
        print(text)
        return job["JobState"], job["ExitCode"], text


@pytest.fixture(scope="module")
def cluster():
    if reason := missing():
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="slurm.", dir="/tmp", ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o755)
        made = Cluster(pathlib.Path(folder))
        try:
            made.begin()
            yield made
        finally:
            made.end()


@pytest.fixture
def work(tmp_path):
    return trainrun.Workplace(tmp_path)


def test_the_script_is_bash():
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)
    assert shutil.which("shellcheck"), "shellcheck is missing: scripts/setup.sh test installs it"
    done = subprocess.run(["shellcheck", str(SCRIPT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_alone_it_is_refused():
    done = subprocess.run(["bash", str(SCRIPT)], cwd=ROOT, env=ranks.alone(), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "train.sbatch: expected to be started by sbatch\n")


@pytest.mark.parametrize("launch, nodes", [("pmix", 1), ("mpirun", 2)])
def test_ranks_train_as_under_mpirun(cluster, work, launch, nodes):
    """Two daemons on one machine cannot both serve PMIx: their folders in /tmp have one name. So pmix has one node here."""
    state, code, text = cluster.finish(cluster.submit(work, nodes, launch, steps=4, save="off"), work)
    assert (state, code) == ("COMPLETED", "0:0"), text
    here = work.folder / "here"
    alone = ranks.run([trainrun.program("fp32"), *work.arguments(steps=4, save="off", output=here)], ranks=2, timeout=600)
    assert alone.returncode == 0, alone.stderr
    assert [line["ranks"] for line in work.log() if "ranks" in line] == [2] * 4
    assert trainrun.losses(work.log()) == trainrun.losses(work.log(here))


@pytest.mark.parametrize("launch, nodes", [("pmix", 1), ("mpirun", 2)])
def test_warned_it_saves_and_is_queued_again(cluster, work, launch, nodes):
    job = cluster.submit(work, nodes, launch, steps=1_000_000, schedule_steps=1_000_000, keep_last=1)
    log = work.output / "log.jsonl"
    cluster.until(lambda: log.exists() and log.read_text().count("\n") > 5, "steps")
    cluster.call("scancel", "--batch", "--signal=USR1", job)
    cluster.until(lambda: "queued again" in (work.folder / "job.log").read_text(), "orderly end")
    cluster.until(lambda: cluster.job(job)["JobState"] == "PENDING", "queueing")
    saved = int(os.readlink(work.output / "checkpoints/latest").removeprefix("step_"))
    assert saved >= 5
    time.sleep(2)  # the first start's credential was revoked: one of the same second would not count
    cluster.call("scontrol", "update", f"JobId={job}", "StartTime=now")  # else it waits two minutes
    cluster.until(lambda: any(line.get("step", 0) > saved + 2 for line in trainrun.read_log(log) if "loss" in line), "further steps")
    assert cluster.job(job)["Restarts"] == "1"
    assert [line["step"] for line in trainrun.read_log(log) if "resumed" in line] == [saved]
    cluster.call("scancel", job)
    assert cluster.finish(job, work)[0] == "CANCELLED"
    steps = [line["step"] for line in trainrun.read_log(log) if "loss" in line]
    assert steps == list(range(1, len(steps) + 1))


def test_bad_input_is_not_queued_again(cluster, work):
    state, code, text = cluster.finish(cluster.submit(work, 1, "pmix", steps=4, lr="abc"), work)
    assert (state, code) == ("FAILED", "2:0") and text.count("train_llama3: ") == 1 and "--lr" in text


def test_ranks_that_meet_without_mpi_are_told_of_the_transport(cluster, work):
    """The environment's way needs NCCL, which this target has not: they meet, learn so, and one says it."""
    state, code, text = cluster.finish(cluster.submit(work, 2, "env", steps=4), work)
    assert (state, code) == ("FAILED", "2:0") and text.count("train_llama3: ") == 1 and "which serve NCCL" in text, text
