"""Work that several processes do, in bounded memory, with results in the order of the tasks."""

import multiprocessing
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Callable, Iterable, Iterator

from .errors import Fault


def in_order(tasks: Iterable, work: Callable, start: Callable, arguments: tuple, workers: int) -> Iterator:
    """Yields work(task) for every task. Each process begins with start(*arguments); at most 3 tasks per process are in memory."""
    context = multiprocessing.get_context("spawn")  # a fork after the tokenizer library has run its threads may hang
    with ProcessPoolExecutor(workers, context, start, arguments) as pool:
        running: deque[Future] = deque()
        try:
            for task in tasks:
                running.append(pool.submit(work, task))
                if len(running) >= 3 * workers:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        except BrokenProcessPool:
            raise Fault("a worker process was killed, perhaps because memory ran out: try fewer --workers") from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
