"""How far a long pass is: a bar on a terminal; elsewhere a line every ten seconds."""

import sys
import time

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10


class Progress:
    """Counts up to `total` units (bytes, prompts), of which `done` were there before this run.

    Lines go to `stream`, by default standard output; the bar always goes to standard error.
    """

    def __init__(self, name: str, total: int, unit: str = "B", done: int = 0, stream=None):
        self.name, self.total, self.begun_with, self.reached = name, total, done, done
        self.stream = stream or sys.stdout
        self.start = self.last_line = time.monotonic()
        terminal = sys.stderr is not None and sys.stderr.isatty()
        style = {"unit": unit, "unit_scale": unit == "B", "leave": False}
        self.bar = tqdm(desc=name, total=total, initial=done, **style) if terminal else None

    def update(self, reached: int, note: str = "") -> None:
        """`reached` is the count so far, not the increase."""
        if self.bar is not None:
            self.bar.set_postfix_str(note, refresh=False)
            self.bar.update(reached - self.reached)
        self.reached = reached
        if self.bar is None and time.monotonic() - self.last_line >= SECONDS_BETWEEN_LINES:
            self.last_line = time.monotonic()
            parts = [f"{100 * reached / max(1, self.total):.0f} %", note, self.left()]
            print(f"{self.name}: {', '.join(filter(None, parts))}", file=self.stream, flush=True)

    def add(self, note: str = "") -> None:
        """One more is done."""
        self.update(self.reached + 1, note)

    def left(self) -> str:
        """The time that is left, at the rate of this run."""
        done = self.reached - self.begun_with
        return f"{duration((time.monotonic() - self.start) / done * (self.total - self.reached))} left" if done else ""

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()

    def finish(self, summary: str) -> None:
        self.close()
        print(f"{self.name}: {summary}, {time.monotonic() - self.start:.1f} s", file=self.stream, flush=True)


def duration(seconds: float) -> str:
    """In words: 12 s, 34 min, 5.6 h."""
    minutes, hours = round(seconds / 60), seconds / 3600
    return f"{seconds:.0f} s" if seconds < 90 else f"{minutes} min" if minutes < 90 else f"{hours:.1f} h"
