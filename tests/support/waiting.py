"""Waiting for what a test expects of other processes and threads."""

import time


def wait_until(condition, what, seconds=120, pause=0.01, process=None):
    """What condition() returned once that was true. seconds: far more than it takes on a busy machine. process: one that must
    not end meanwhile."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert process is None or process.poll() is None, (f"ended before {what}", process.communicate())
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(pause)
    return found
