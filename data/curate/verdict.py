"""What a step says of a document."""

from dataclasses import dataclass


@dataclass
class Verdict:
    """Whether a document stays. `value` is what was measured, `threshold` where it would turn, `reason` the rule's name.

    A step of many rules gives the one that dropped the document, or of those that it passed the one it came closest to failing.
    """

    keep: bool
    value: float | str | None = None
    threshold: float | str | None = None
    reason: str = ""


KEEP = Verdict(True)
