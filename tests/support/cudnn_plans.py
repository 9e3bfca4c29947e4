"""Plans attention by the real libcudnn for a GPU that is not there, and by the stand-in. For test_cudnn_plans.py, which runs it
as a program of its own: NAME SM MULTIPROCESSORS SHARED_BYTES, and a line [[B, T, NH, NKV, HD], CudnnBackward] for each plan on
stdin; prints a line {"real": bytes, "standin": bytes, "error": text} for each."""

import ctypes
import json
import pathlib
import sys

BUILD = pathlib.Path(__file__).resolve().parents[2] / "build/cuda-on-cpu"


class Error(ctypes.Structure):
    _fields_ = [("code", ctypes.c_int), ("message", ctypes.c_char * 1024)]


class Device(ctypes.Structure):
    """CudnnDevice"""

    _fields_ = [("sm", ctypes.c_int), ("properties", ctypes.c_char_p)]


class Shape(ctypes.Structure):
    """AttentionShape"""

    _fields_ = [(name, ctypes.c_int) for name in "B T NH NKV HD".split()]


def device(name, sm, multiprocessors, shared):
    """Of one compute capability; the names are those of cuDNN's JSON for its device property descriptor."""
    properties = {
        "deviceName": name, "cudaDeviceId": 0, "deviceVer": 10 * sm, "driverVer": 13000, "isTccDriver": 0, "l2CacheSize": 50 << 20,
        "maxBlockSize": [1024, 1024, 64], "maxCtasPerSM": 32, "maxGridSize": [2147483647, 65535, 65535], "maxRegistersPerSM": 65536,
        "maxSharedMemoryPerBlock": 49152, "maxSharedMemoryPerBlockOptin": shared, "maxThreadsPerBlock": 1024, "maxThreadsPerSM": 2048,
        "memClockRateKHz": 2619000, "multiProcessorCount": multiprocessors, "pciDeviceId": 0, "regsPerBlock": 65536,
        "reservedSharedMemoryPerBlock": 1024, "smClockRateKHz": 1755000, "supportCoopLaunch": 1, "totalGlobalMem": 80 << 30,
        "warpSize": 32,
    }  # fmt: skip
    return Device(sm, json.dumps(properties).encode())


def workspace(library, shape, backward, device):
    """(bytes, message)"""
    attention, error = ctypes.c_void_p(), Error()
    library.cudnn_attention_workspace.restype = ctypes.c_size_t
    given = device and ctypes.byref(device)
    if library.cudnn_attention_create(ctypes.byref(attention), Shape(*shape), backward, given, ctypes.byref(error)):
        return None, error.message.decode()
    found = library.cudnn_attention_workspace(attention)
    library.cudnn_attention_destroy(attention)
    return found, ""


def main():
    real, standin = (ctypes.CDLL(str(BUILD / name)) for name in ("libcudnn_plans.so", "libllmc.so"))
    there = device(sys.argv[1], *map(int, sys.argv[2:]))
    for line in sys.stdin:
        shape, backward = json.loads(line)
        found, message = workspace(real, shape, backward, there)
        print(json.dumps({"real": found, "standin": workspace(standin, shape, backward, None)[0], "error": message}), flush=True)


if __name__ == "__main__":
    main()
