"""The cpu target cross-compiled for ARM64, and a command that runs its programs by QEMU. Skips where this machine cannot."""

import fcntl
import shutil
import subprocess

import pytest

import programs

ROOT = programs.ROOT
BUILD = ROOT / "build/cpu-arm64"
PACKAGES = ["libdnnl-dev", "libboost-context-dev", "libcjson-dev", "libpcre2-dev", "libxxhash-dev"]
NEEDED = ("libdnnl", "libboost", "libcjson", "libpcre2", "libxxhash")  # the cross-compiler has the others
QEMU = ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu"]


def fetch_libraries(folder):
    """Debian's packages for ARM64, unpacked into the folder; apt keeps what it knows of them there too."""
    for name in ("apt/lists/partial", "apt/archives/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "apt/status").touch()
    config = folder / "apt/apt.conf"
    config.write_text(
        'APT::Architecture "arm64"; APT::Architectures { "arm64"; };\n'
        f'Dir::State "{folder}/apt"; Dir::State::status "{folder}/apt/status"; Dir::Cache "{folder}/apt";\n'
    )
    for command in (["update", "-qq"], ["install", "-y", "-qq", "--download-only", "--no-install-recommends", *PACKAGES]):
        done = subprocess.run(["apt-get", *command], env={"APT_CONFIG": str(config), "PATH": "/usr/bin:/bin"}, capture_output=True, text=True)
        if done.returncode != 0:
            pytest.skip(f"apt-get has no libraries for ARM64: {done.stderr[-300:]}")
    for package in (folder / "apt/archives").glob("*.deb"):
        if package.name.startswith(NEEDED):
            subprocess.run(["dpkg", "-x", package, folder], check=True)


def build():
    for tool, package in (("aarch64-linux-gnu-g++", "g++-aarch64-linux-gnu"), ("qemu-aarch64", "qemu-user"), ("apt-get", "apt")):
        if not shutil.which(tool):
            pytest.skip(f"{tool} (Debian's {package}) is missing")
    deps = BUILD / "deps"
    deps.mkdir(parents=True, exist_ok=True)
    with open(deps / "lock", "w") as lock:  # pytest-xdist's workers share the folder
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (deps / "usr/lib/aarch64-linux-gnu/libdnnl.so").exists():
            fetch_libraries(deps)
    compilers = ["CC=aarch64-linux-gnu-gcc", "CXX=aarch64-linux-gnu-g++"]
    done = programs.make("TARGET=cpu", "MPI=0", f"BUILD={BUILD.relative_to(ROOT)}", f"DEPS={deps.relative_to(ROOT)}", *compilers)
    assert done.returncode == 0, done.stderr


def command(program):
    return [*QEMU, str(BUILD / program)]
