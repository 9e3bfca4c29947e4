"""Work done by several processes, its results in the order of the tasks, with bounded memory."""

import multiprocessing
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Callable, Iterable, Iterator


def in_order(tasks: Iterable, work: Callable, start: Callable, arguments: tuple, workers: int) -> Iterator:
    """work(task) of every task; a process begins by start(*arguments). At most 3 tasks a worker are in memory at once."""
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
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
