"""Spans for trace viewers (llmc/device/trace.h)."""

import ctypes
import json
import threading
import time
from ctypes import byref, c_char_p, c_int, c_void_p

import pytest

from model import Error

STEP, COMPUTE, COMMUNICATION = range(3)


class Trace:
    def __init__(self, lib, capacity=100):
        self.c, self.err = lib.c, Error()
        self.c.trace_close()
        assert self.c.trace_open(c_int(capacity), byref(self.err)) == 0

    def span(self, lane, name, index=-1, seconds=0.0):
        self.c.trace_begin(c_int(lane), c_char_p(name.encode()), c_int(index), None)
        time.sleep(seconds)
        self.c.trace_end(c_int(lane), None)

    def events(self, rank=0):
        text = c_void_p()
        assert self.c.trace_events(byref(text), c_int(rank), byref(self.err)) == 0
        found = json.loads("[" + ctypes.string_at(text).decode() + "]")
        self.c.free.argtypes = [c_void_p]
        self.c.free(text)
        return found

    def spans(self, rank=0):
        return [e for e in self.events(rank) if e["ph"] == "X"]


@pytest.mark.checked
def test_spans(lib):
    trace, before = Trace(lib), time.time()
    trace.span(COMPUTE, "forward, layer", 3, 0.02)
    trace.span(STEP, "step")
    took = time.time() - before
    first, second = trace.spans(rank=5)
    assert (first["name"], first["pid"], first["tid"]) == ("forward, layer 3", 5, COMPUTE)
    assert (second["name"], second["tid"]) == ("step", STEP)
    assert 0.02e6 <= first["dur"] <= took * 1e6 + 1 and second["ts"] >= first["ts"] + first["dur"] - 1
    assert -0.1 < first["ts"] / 1e6 - before < took + 0.1  # the wall clock
    lanes = {e["args"]["name"] for e in trace.events(5) if e["ph"] == "M"}
    assert lanes == {"rank 5", "step", "compute", "communication"}
    trace.c.trace_close()


@pytest.mark.checked
def test_nothing_is_kept_outside(lib):
    trace = Trace(lib)
    trace.c.trace_close()
    trace.span(COMPUTE, "before")
    assert not trace.spans()
    trace = Trace(lib)
    trace.c.trace_begin(c_int(COMPUTE), b"never ended", c_int(-1), None)
    trace.c.trace_end(c_int(STEP), None)  # of which none began
    assert not trace.spans()
    trace.c.trace_close()


@pytest.mark.checked
def test_no_more_than_there_is_room_for(lib):
    trace = Trace(lib, capacity=3)
    for i in range(10):
        trace.span(COMPUTE, 'a "name" \\ with a very long end that is cut somewhere behind its sixty-fourth character', i)
    spans = trace.spans()
    assert [s["name"].split()[-1] for s in spans] == ["0", "1", "2"]
    trace.c.trace_close()


@pytest.mark.checked
def test_lanes_of_two_threads(lib):
    trace = Trace(lib, capacity=400)
    threads = [threading.Thread(target=lambda lane=lane: [trace.span(lane, f"lane {lane}", i) for i in range(100)]) for lane in (COMPUTE, COMMUNICATION)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for lane in (COMPUTE, COMMUNICATION):
        assert [s["name"] for s in trace.spans() if s["tid"] == lane] == [f"lane {lane} {i}" for i in range(100)]
    trace.c.trace_close()
