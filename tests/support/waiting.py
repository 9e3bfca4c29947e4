"""Waiting for what a test expects of other processes and threads."""

import time


def wait_until(condition, what, seconds=60, pause=0.01):
    """What condition() returned once that was true. seconds: far more than it takes on a busy machine."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(pause)
    return found
