"""A Slurm of the tests' own on this machine: two nodes, as Debian's slurmctld, slurmd and munge make them.

Skipped, with the reason, where they are not installed or this is not root. No daemon outlives the tests. There is one at a
time on a machine, since their daemons' folders in /tmp have names that depend on the job's number alone.
"""

import fcntl
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
MessageTimeout=100
TCPTimeout=30
ReturnToService=2
SlurmdParameters=config_overrides
NodeName=node[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{ports[1]}-{ports[2]}] CPUs=2 RealMemory=64000
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

    def comes(self, condition, seconds):
        """Whether it holds within that time."""
        end = time.monotonic() + seconds
        while not condition() and time.monotonic() < end:
            time.sleep(0.1)
        return condition()

    def until(self, condition, what, seconds=600):
        if not self.comes(condition, seconds):
            logs = "\n".join(p.read_text()[-1500:] for p in self.folder.glob("slurm*.log"))
            raise AssertionError(f"no {what} after {seconds} s\n{logs}")

    def warn(self, number, work):
        """Signals the job as Slurm does when its time is nearly over, until it ends in order: on a busy machine Slurm may lose one."""
        for _ in range(5):
            self.call("scancel", "--batch", "--signal=USR1", number, check=False)
            if self.comes(lambda: "queued again" in (work.folder / "job.log").read_text(), 120):
                return
        self.until(lambda: False, "orderly end", 0)

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


def cluster():
    """A generator, for a fixture."""
    if reason := missing():
        pytest.skip(reason)
    temporary = tempfile.TemporaryDirectory(prefix="slurm.", dir="/tmp", ignore_cleanup_errors=True)
    with open("/tmp/llmc_slurm_tests.lock", "w") as lock, temporary as folder:
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.chmod(folder, 0o755)
        made = Cluster(pathlib.Path(folder))
        try:
            made.begin()
            yield made
        finally:
            made.end()
