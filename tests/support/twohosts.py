"""Two hosts on this machine: network namespaces, each with a name of its own, joined by a cable (a veth pair).

    with twohosts.TwoHosts() as hosts:                                # where twohosts.reason() is None
        done = hosts.run([program, "--steps", "3"], ranks=4)          # as ranks.run(); two ranks on each host
        hosts.slow("200mbit")                                         # both directions, until fast()
        process = hosts.start(command, ranks=2); hosts.cut()          # pulls the cable; the network is down until mend()

mpirun runs on the first host and reaches the second as it would by ssh: in a shell with a bare environment. Ranks on the same
host meet in shared memory, others over TCP. File system and processes are shared, as on hosts with a network file system.
No namespace and no process outlives the `with`.
"""

import json
import os
import pathlib
import shutil
import subprocess
import tempfile

import ranks

NETWORK = "10.213.77"
PREFIX = "l3host"
# $1: host, the rest: a command line; in place of ssh
AGENT = r"""#!/bin/sh
host=$1
shift
exec ip netns exec "$host" unshare --uts env -i PATH="$PATH" HOME="$HOME" sh -c 'hostname "$0" && eval "$1"' "$host" "$*"
"""
HERE = 'hostname "$0" && exec "$@"'
FORWARDED = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")


def ip(*words):
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def reason():
    """Why there can't be two hosts here; None if there can."""
    if os.geteuid() != 0:
        return "two hosts need root, to make network namespaces"
    for tool in ("ip", "tc", "unshare", "mpirun"):
        if not shutil.which(tool):
            return f"{tool} is not installed"
    try:
        with TwoHosts() as hosts:
            tried = subprocess.run([*hosts.on(0), "true"], capture_output=True, text=True)
    except OSError as error:
        return f"network namespaces are not allowed here ({error})"
    return f"namespaces are not allowed here ({tried.stderr.strip()})" if tried.returncode else None


def remove_leftovers():
    """Of processes that were killed before they could take their hosts down."""
    for line in ip("netns", "list").splitlines():
        name = line.split()[0]
        pid = name.removeprefix(PREFIX)[:-1]
        if name.startswith(PREFIX) and pid.isdigit() and not pathlib.Path("/proc", pid).exists():
            ip("netns", "del", name)


class TwoHosts:
    def __enter__(self):
        remove_leftovers()
        self.names = [f"{PREFIX}{os.getpid()}{letter}" for letter in "ab"]
        self.wire = "wire"  # each host has an interface of that name
        self.folder = tempfile.TemporaryDirectory(prefix="twohosts.")
        self.agent = pathlib.Path(self.folder.name) / "agent"
        self.agent.write_text(AGENT)
        self.agent.chmod(0o755)
        try:
            self._connect()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _connect(self):
        a, b = self.names
        for name in self.names:
            ip("netns", "add", name)
        ip("-n", a, "link", "add", self.wire, "type", "veth", "peer", "name", self.wire, "netns", b)
        for number, name in enumerate(self.names, 1):
            ip("-n", name, "addr", "add", f"{self.address(number - 1)}/24", "dev", self.wire)
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", self.wire, "up")

    def __exit__(self, *_):
        self.kill()
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)  # the cable goes with its ends
        self.folder.cleanup()

    def address(self, host):
        return f"{NETWORK}.{host + 1}"

    def on(self, host):
        """Words before a command that is to run on that host (0 or 1)."""
        name = self.names[host]
        return ["ip", "netns", "exec", name, "unshare", "--uts", "sh", "-c", HERE, name]

    # ---- the cable

    def slow(self, rate, latency="50ms"):
        """rate as tc has it: "200mbit". Each direction is held to it; latency: the longest that a packet waits its turn."""
        for host in self.names:
            words = ["root", "tbf", "rate", rate, "burst", "256kb", "latency", latency]
            subprocess.run(["tc", "-n", host, "qdisc", "replace", "dev", self.wire, *words], check=True)

    def fast(self):
        for host in self.names:
            subprocess.run(["tc", "-n", host, "qdisc", "del", "dev", self.wire, "root"], capture_output=True)

    def cut(self):
        ip("-n", self.names[1], "link", "set", self.wire, "down")

    def mend(self):
        ip("-n", self.names[1], "link", "set", self.wire, "up")

    def sent(self, host):
        """Bytes that this host has put on the cable so far."""
        (link,) = json.loads(ip("-n", self.names[host], "-json", "-stats", "link", "show", self.wire))
        return link["stats64"]["tx"]["bytes"]

    # ---- runs

    def options(self, count, forward=FORWARDED):
        """mpirun's, for `count` ranks (even) over both hosts, neighbours on the same one."""
        places = ",".join(f"{name}:{count // 2}" for name in self.names)
        mca = {
            "plm_rsh_agent": self.agent, "plm_rsh_no_tree_spawn": 1, "btl": "self,vader,tcp",
            "btl_tcp_if_include": self.wire, "oob_tcp_if_include": self.wire,
        }  # fmt: skip
        words = ["--host", places, "--map-by", "slot"]
        words += [word for name, value in mca.items() for word in ("--mca", name, str(value))]
        return words + [word for name in forward for word in ("-x", name)]

    def start(self, command, count, environment=None, options=(), before=(), **popen):
        """The Popen of mpirun on the first host; before: words before it."""
        forward = sorted({*FORWARDED, *(environment or {})})
        options = [*self.options(count, forward), *options]
        return ranks.start(command, count, environment, options, [*self.on(0), *map(str, before)], **popen)

    def run(self, command, ranks, timeout=600, environment=None, options=(), **popen):
        """The completed process of mpirun; subprocess.TimeoutExpired (with what was printed) after `timeout` seconds."""
        process = self.start(command, ranks, environment, options, **popen)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired as expired:
            self.kill()
            out, err = process.communicate()
            raise subprocess.TimeoutExpired(expired.cmd, timeout, out, err) from None
        finally:
            self.kill()
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def members(self, host):
        """{pid: command} of the living processes of a host."""
        found = {}
        done = subprocess.run(["ip", "netns", "pids", self.names[host]], capture_output=True, text=True)
        for pid in map(int, done.stdout.split()):
            try:
                name, _, rest = pathlib.Path(f"/proc/{pid}/stat").read_text().partition("(")[2].rpartition(")")
            except OSError:
                continue  # it ended meanwhile
            if rest.split()[0] not in "ZX":
                found[pid] = name
        return found

    def kill(self):
        """Ends all that runs on the hosts; returns when nothing is left."""
        ranks.kill_all(lambda: {**self.members(0), **self.members(1)})
