"""How far a long run is: a bar on a terminal, a line now and then where there is none."""

import sys
import time

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10


class Progress:
    """Counts up to `total` prompts, of which `done` were there before; the time left is reckoned from this run's."""

    def __init__(self, name: str, total: int, done: int):
        self.name, self.total, self.begun_with, self.done = name, total, done, done
        self.start = self.last_line = time.monotonic()
        terminal = sys.stderr is not None and sys.stderr.isatty()
        self.bar = tqdm(desc=name, total=total, initial=done, unit="prompt", leave=False) if terminal else None

    def add(self, note: str = "") -> None:
        """One more is done."""
        self.done += 1
        if self.bar is not None:
            self.bar.set_postfix_str(note, refresh=False)
            self.bar.update(1)
        elif time.monotonic() - self.last_line >= SECONDS_BETWEEN_LINES:
            self.last_line = time.monotonic()
            print(f"{self.name}: {self.done} of {self.total} prompts, {note}{self._left()}", file=sys.stderr, flush=True)

    def _left(self) -> str:
        seconds = (time.monotonic() - self.start) / (self.done - self.begun_with) * (self.total - self.done)
        return f", {duration(seconds)} left"

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def duration(seconds: float) -> str:
    minutes, hours = round(seconds / 60), seconds / 3600
    return f"{seconds:.0f} s" if seconds < 90 else f"{minutes} min" if minutes < 90 else f"{hours:.1f} h"
