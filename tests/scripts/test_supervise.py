"""scripts/supervise.sh: with a command that fails on request, and with train_llama3."""

import fcntl
import os
import random
import signal
import subprocess
import time

import pytest

import trainrun
from checkout import SUPERVISE
from waiting import wait_until

# Each run takes the next line of `plan`: "STEP CODE" (a checkpoint of that step, unless it is 0, then the exit code), or "signal",
# which waits for a signal and names it, or "verdict", whose ranks tell a fault, or "bereft", whose child ends, while the command does not end.
FAKE = r"""#!/usr/bin/env bash
echo "$@" >>commands
line=$(sed -n "$(wc -l <commands)p" plan)
read -r step code <<<"$line"
for name in TERM INT USR1; do trap "echo $name >>signals; exit ${code:-0}" $name; done
mkdir -p run/checkpoints
if [ "$step" = signal ]; then
    echo ready >ready
    for _ in {1..400}; do sleep 0.05; done
fi
if [ "$step" = verdict ]; then
    mkdir -p run/.ranks
    touch run/.ranks/verdict_$$
    trap "" TERM
    sleep 60 &
    wait
fi
if [ "$step" = bereft ]; then exec python3 -c "import os, time; os.fork() or os._exit(0); time.sleep(60)"; fi
if [ "$step" != 0 ]; then ln -sfn "$(printf 'step_%08d' "$step")" run/checkpoints/latest; fi
if [ "$code" = 137 ]; then kill -KILL $$; fi
exit "$code"
"""


@pytest.fixture
def fake(tmp_path):
    for name in ("fake", "mpirun"):
        (tmp_path / name).write_text(FAKE)
        (tmp_path / name).chmod(0o755)
    return tmp_path


def start(folder, plan, *options, command=("./fake",), more=("--output", "run", "--resume", "auto")):
    (folder / "plan").write_text("".join(line + "\n" for line in plan))
    whole = [SUPERVISE, "--pause", "0", *options, "--", *command, *more]
    process = subprocess.Popen(whole, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    trainrun.STARTED.append(process)
    return process


def run(folder, plan, *options, **more):
    process = start(folder, plan, *options, **more)
    _, err = process.communicate(timeout=600)
    commands = folder / "commands"
    return process.returncode, err.splitlines(), commands.read_text().splitlines() if commands.exists() else []


def wait_for_file(path):
    wait_until(path.exists, path.name)


def children(process):
    """{whether it is the script's own: pid} of the command and what watches it, once both are there."""
    listed = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(process.pid)], capture_output=True, text=True).stdout
    pids = {"supervise" in line: int(line.split()[0]) for line in listed.splitlines()}
    return pids if len(pids) == 2 else None


def test_an_orderly_end_is_the_end(fake):
    assert run(fake, ["5 0"]) == (0, [], ["--output run --resume auto"])


def test_bad_input_is_not_tried_again(fake):
    code, said, commands = run(fake, ["0 2"])
    assert (code, len(commands)) == (2, 1)


def test_restarts_until_it_succeeds_and_a_line_for_each(fake):
    code, said, commands = run(fake, ["0 137", "4 1", "8 137", "12 0"], "--restarts", "5", "--log", "log")
    assert (code, len(commands)) == (0, 4)
    assert said == [
        "supervise: restart 1 of 5 in 0 s: ended with code 137; newest checkpoint: none",
        "supervise: restart 2 of 5 in 0 s: ended with code 1; newest checkpoint: step_00000004",
        "supervise: restart 3 of 5 in 0 s: ended with code 137; newest checkpoint: step_00000008",
    ]
    log = (fake / "log").read_text().splitlines()
    assert [line.split(" ", 2)[2] for line in log] == [line.removeprefix("supervise: ") for line in said]


def test_gives_up_after_k_restarts(fake):
    code, said, commands = run(fake, [f"{i} 1" for i in range(1, 9)], "--restarts", "4")
    assert (code, len(commands), len(said)) == (1, 5, 5)
    assert said[-1] == "supervise: ended with code 1 after 4 restarts, giving up; newest checkpoint: step_00000005"


def test_gives_up_where_no_restart_helps(fake):
    """An older checkpoint than there was is no progress either; progress in between counts anew."""
    code, said, commands = run(fake, ["5 1", "5 1", "4 1", "6 1", "5 1", "6 1", "0 1", "7 0"], "--restarts", "20")
    assert (code, len(commands)) == (1, 7)
    assert said[-1] == (
        "supervise: ended with code 1, no newer checkpoint in 3 restarts in a row, giving up; newest checkpoint: step_00000006"
    )


def test_the_pause_grows(fake):
    began = time.monotonic()
    code, said, commands = run(fake, ["5 1", "0 1", "6 1", "7 0"], "--pause", "1")
    assert code == 0 and time.monotonic() - began > 4
    assert [line.split(": ")[1].split(" in ")[1] for line in said] == ["1 s", "2 s", "1 s"]


@pytest.mark.parametrize("flag", ["-np", "-n"])
def test_smaller_worlds(fake, flag):
    command = ("./mpirun", "-q", flag, "8", "program")
    code, said, commands = run(fake, ["1 1", "2 1", "3 1", "4 0"], "--ranks-after", "4 2", command=command)
    assert code == 0
    assert [line.split()[2] for line in commands] == ["8", "4", "2", "2"]
    assert "1 of 10 in 0 s, 4 ranks: " in said[0]


@pytest.mark.parametrize("name", ["TERM", "INT", "USR1"])
def test_signals_reach_the_command_and_end_the_restarts(fake, name):
    for command, expected, code in ((("./fake",), name, 0), (("./mpirun",), "USR1", 0), (("./fake",), name, 1)):
        for file in ("ready", "signals", "commands"):
            (fake / file).unlink(missing_ok=True)
        process = start(fake, [f"signal {code}"], command=command)
        wait_for_file(fake / "ready")
        wait_until(lambda: children(process), "what watches the command")
        os.kill(process.pid, getattr(signal, "SIG" + name))
        _, err = process.communicate(timeout=600)
        assert (fake / "signals").read_text() == expected + "\n"
        assert process.returncode == (3 if code else 0)
        assert err == ("" if code == 0 else f"supervise: stopped by SIG{name}, ended with code 1; newest checkpoint: none\n")


@pytest.mark.parametrize("how", ["verdict", "bereft"])
def test_a_command_that_outlives_its_ranks_is_killed(fake, how):
    """As mpirun may where the network was cut, and where a rank was killed as it came up."""
    code, said, commands = run(fake, [f"{how} 0", "5 0"], "--end-within", "2")
    assert (code, len(commands)) == (0, 2)
    assert said == [
        "supervise: ranks ended or told a fault 2 s ago and fake has not ended: killed",
        "supervise: restart 1 of 10 in 0 s: ended with code 137; newest checkpoint: none",
    ]


def test_a_command_that_runs_is_left_alone(fake):
    """What an earlier run left says nothing."""
    (fake / "run" / ".ranks").mkdir(parents=True)
    (fake / "run" / ".ranks" / "verdict_0").touch()
    process = start(fake, ["signal 0"], "--end-within", "4")
    wait_for_file(fake / "ready")
    time.sleep(6)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=600)
    assert (process.returncode, err) == (0, "")


def test_a_signal_in_the_pause(fake):
    process = start(fake, ["5 1"], "--pause", "100")
    assert "in 100 s" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 3 and "stopped by SIGTERM before the restart" in err


def test_a_signal_while_others_hold_the_lock(fake):
    """What is told to stop is not started again."""
    (fake / "run").mkdir()
    with open(fake / "run" / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = start(fake, ["1 1", "signal 0"])
        assert "restart 1 of 10" in process.stderr.readline()
        time.sleep(random.uniform(0, 0.4))
        process.send_signal(signal.SIGUSR1)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 3 and "stopped by SIGUSR1 before the restart" in err
    assert (fake / "commands").read_text().count("\n") == 1


def lives(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_what_watches_ends_with_the_script(fake):
    process = start(fake, ["signal 0"])
    wait_for_file(fake / "ready")
    pids = wait_until(lambda: children(process), "the command and what watches it")
    process.kill()
    wait_until(lambda: not lives(pids[True]), "the end of what watches")
    assert lives(pids[False])
    os.kill(pids[False], signal.SIGKILL)


@pytest.mark.parametrize(
    "options, more, word",
    [
        ((), ("--output", "run"), "--resume auto"),
        ((), ("--output", "run", "--resume", "run/checkpoints/latest"), "--resume auto"),
        ((), ("--resume", "auto"), "--output"),
        (("--restarts", "x"), ("--output", "run", "--resume", "auto"), "--restarts x"),
        (("--ranks-after", "4 0"), ("--output", "run", "--resume", "auto"), "found 0"),
        (("--ranks-after", "4"), ("--output", "run", "--resume", "auto"), "mpirun -np"),
        (("--end-within", "x"), ("--output", "run", "--resume", "auto"), "--end-within x"),
        (("--end-within", "0"), ("--output", "run", "--resume", "auto"), "--end-within 0"),
        (("--what", "4"), ("--output", "run", "--resume", "auto"), "--what"),
        (("--log", "no/such/folder"), ("--output", "run", "--resume", "auto"), "--log no/such/folder"),
    ],
)
def test_refusals(fake, options, more, word):
    code, said, commands = run(fake, [], *options, more=more)
    assert code == 2 and commands == [] and word in said[-1], said


def test_commands_that_are_none(fake):
    for arguments in ([], ["--"], ["--restarts"]):
        done = subprocess.run([SUPERVISE, *arguments], capture_output=True, text=True)
        assert done.returncode == 2 and done.stderr.startswith("supervise: ")
    code, said, _ = run(fake, [], command=("./not_there",))
    assert code == 2 and "./not_there: expected a command that can be run" in said[-1]


@pytest.mark.skipif(not trainrun.ON_CPU, reason="the program's own tests of faults run on the cpu target")
def test_the_program_is_killed_twice_and_ends_with_the_same_bits(tmp_path):
    place = trainrun.Workplace(tmp_path)
    options = {"steps": 400, "save_every": 4, "resume": "auto", "checksum_every": 400}
    place.run(**options)
    (whole,) = [line["weights_checksum"] for line in place.log() if "weights_checksum" in line]
    place.output = tmp_path / "killed"
    command = [SUPERVISE, "--pause", "0", "--", trainrun.program(), *place.arguments(**options)]
    process = subprocess.Popen(list(map(str, command)), text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    trainrun.STARTED.append(process)
    latest, lock = place.output / "checkpoints" / "latest", place.output / "lock"
    seen, killed = "", ""
    for _ in range(2):
        while True:  # until another program than the last one has written a checkpoint
            assert process.poll() is None, process.stderr.read()
            found = lock.read_text().split() if lock.exists() else []
            if len(found) == 2 and found[1] != killed and latest.is_symlink() and os.readlink(latest) > seen:
                break
            time.sleep(0.002)
        killed = found[1]
        os.kill(int(killed), signal.SIGKILL)
        seen = os.readlink(latest)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0 and err.count("supervise: restart") == 2 and "code 137" in err, err
    assert [line["weights_checksum"] for line in place.log() if "weights_checksum" in line] == [whole]
