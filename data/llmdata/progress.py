"""Progress of a pass over the text: a bar on a terminal, a line now and then where there is none."""

import sys
import time

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10


class Progress:
    """Counts up to `total` bytes. `update` takes the count reached, not the increase."""

    def __init__(self, name: str, total: int):
        self.name, self.total, self.start = name, total, time.monotonic()
        self.reached, self.last_line = 0, self.start
        terminal = sys.stderr is not None and sys.stderr.isatty()
        self.bar = tqdm(desc=name, total=total, unit="B", unit_scale=True, leave=False) if terminal else None

    def update(self, reached: int) -> None:
        if self.bar is not None:
            self.bar.update(reached - self.reached)
        elif time.monotonic() - self.last_line >= SECONDS_BETWEEN_LINES:
            self.last_line = time.monotonic()
            print(f"{self.name}: {100 * reached / max(1, self.total):.0f} %", flush=True)
        self.reached = reached

    def finish(self, summary: str) -> None:
        if self.bar is not None:
            self.bar.close()
        print(f"{self.name}: {summary}, {time.monotonic() - self.start:.1f} s", flush=True)
