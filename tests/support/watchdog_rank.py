"""One rank under the watchdog, without training: started by test_watchdog.py, which tells it over stdin what to do.

Arguments: library, folder, rank, size, timeout, run. Says "ready" once the library is loaded; the first line, "start", starts the
watchdog. Further lines: "phase NAME", "step N", "comm BEGUN ENDED LABEL", "error TEXT" (of the transport), "killing PID TEXT" (an
error of the transport, and that process dies as it is noticed), "stop" (the orderly end), "exit CODE", "abort". Answers each with
a line on stdout.
"""

import ctypes
import os
import signal
import sys
from ctypes import CFUNCTYPE, POINTER, c_char, c_char_p, c_double, c_int, c_uint64, c_void_p


class CommStatus(ctypes.Structure):
    _fields_ = [("begun", c_uint64), ("ended", c_uint64), ("label", c_char * 64)]


class Error(ctypes.Structure):
    _fields_ = [("code", c_int), ("message", c_char * 1024)]


STATUS = CFUNCTYPE(None, c_void_p, POINTER(CommStatus))
CHECK = CFUNCTYPE(c_int, c_void_p, POINTER(Error))


class WatchdogSpec(ctypes.Structure):
    _fields_ = [("folder", c_char_p), ("rank", c_int), ("size", c_int), ("timeout", c_double), ("world", c_void_p)]
    _fields_ += [("run", c_uint64), ("status", STATUS), ("check", CHECK), ("context", c_void_p)]


def main():
    path, folder, rank, size, timeout, run = sys.argv[1:]
    lib = ctypes.CDLL(path)
    mine, failure, kept, victims = CommStatus(), Error(), [], []

    def status(_, out):
        out[0] = mine

    def check(_, out):
        while victims:
            os.kill(victims.pop(), signal.SIGKILL)
        out[0] = failure
        return failure.code

    callbacks = STATUS(status), CHECK(check)
    spec = WatchdogSpec(folder.encode(), int(rank), int(size), float(timeout), None, int(run), *callbacks, None)
    lib.process_prepare(b"train_llama3")
    error = Error()
    print("ready", flush=True)
    assert sys.stdin.readline() == "start\n"
    code = lib.watchdog_start(ctypes.byref(spec), ctypes.byref(error))
    print(code, error.message.decode(), flush=True)
    for line in sys.stdin:
        verb, _, rest = line.strip().partition(" ")
        if verb == "phase":
            kept.append(c_char_p(rest.encode()))  # the watchdog keeps the pointer
            lib.watchdog_phase(kept[-1])
        elif verb == "step":
            lib.watchdog_step(ctypes.c_int64(int(rest)))
        elif verb == "comm":
            begun, ended, label = rest.split(" ", 2)
            mine.begun, mine.ended, mine.label = int(begun), int(ended), label.encode()
        elif verb == "killing":
            pid, _, text = rest.partition(" ")
            victims.append(int(pid))
            failure.message, failure.code = text.encode(), 1
        elif verb == "error":
            failure.message, failure.code = rest.encode(), 1
        elif verb == "stop":
            lib.watchdog_stop()
        elif verb == "exit":
            print("a reason of its own", file=sys.stderr, flush=True)
            ctypes.CDLL(None).exit(int(rest))  # as C does it: Python would take its callbacks down first
        elif verb == "abort":
            os.abort()
        print("done", verb, flush=True)


if __name__ == "__main__":
    main()
