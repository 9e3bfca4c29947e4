"""What a result says about the machine and the code that it was measured with."""

import os
import pathlib
import platform
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]


def device_name(target="cpu"):
    """The GPU's name for the cuda target, else the CPU's."""
    if target == "cuda":
        import torch

        return torch.cuda.get_device_name() if torch.cuda.is_available() else "GPU"
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def instructions():
    """The CPU's instructions for bf16 products; without them rates are a fifth."""
    flags = pathlib.Path("/proc/cpuinfo").read_text()
    return [name for name in ("avx512f", "avx512_bf16", "amx_bf16") if f" {name}" in flags]


def commit():
    try:
        done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    except OSError:  # images with CUDA often have no git
        return "unknown"
    return done.stdout.strip() or "unknown"


def describe():
    return {"device": device_name(), "cores": os.cpu_count(), "load": os.getloadavg()[0], "commit": commit()}
