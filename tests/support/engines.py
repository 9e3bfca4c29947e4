"""Engines of llmc/generate/engine.h over small models, and requests drawn at random."""

import random

import llmc
from llmserve.engine import Engine, SamplerOptions, Sequence

PAGE = 64  # tokens
PROMPT_TOKENS = 64  # of prompts in a step, beside a token of each running text


def open_engine(lib, folder, rows, context=256, pages=0, memory=1.0):
    return Engine(llmc.build_folders()[lib.precision] / "libllmc.so", folder, rows, context, pages, 0, memory)


def greedy(ids, max_tokens, logprobs=-1, prompt_logprobs=False):
    return Sequence(ids, SamplerOptions(0.0, 0, 1.0), 0, max_tokens, logprobs, prompt_logprobs)


def random_ids(count, vocab):
    return [random.randrange(vocab) for _ in range(count)]


def random_request(beginnings, vocab, longest):
    """One that begins as one of the beginnings, as a part of it, or as none."""
    begun = random.choice([[], *beginnings])
    begun = begun[: random.choice([len(begun), random.randrange(len(begun) + 1)])]
    ids = (begun + random_ids(random.randrange(1, 30), vocab))[:longest]
    logprobs = random.choice([-1, -1, 0, 4])
    sampling = SamplerOptions(random.choice([0.0, 0.7, 1.5]), random.choice([0, 20]), random.choice([0.8, 1.0]))
    return Sequence(ids, sampling, random.randrange(1 << 60), random.choice([0, 1, random.randrange(60)]), logprobs,
                    logprobs >= 0 and random.random() < 0.5)  # fmt: skip


def is_busy(engine):
    counts = engine.counts()
    return bool(counts.running or counts.waiting)


def step(engine):
    """What a step of a busy engine says, which has to compute something."""
    before = engine.counts().steps
    told = engine.step()
    assert engine.counts().steps == before + 1, "requests run or wait, and nothing is computed"
    return told


def drain(engine, numbers=()):
    """{number: its tokens}, until nothing runs or waits."""
    told = {number: [] for number in numbers}
    while is_busy(engine):
        for number, token in step(engine):
            told.setdefault(number, []).append(token)
    return told


def answer(engine, request):
    """All that the engine says of one request that is added when nothing else runs."""
    number = engine.add(request)
    return drain(engine)[number]


def same(first, second):
    """Bit for bit; NaN is NaN."""
    return repr(first) == repr(second)
