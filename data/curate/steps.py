"""The table of all steps, in the order in which they run: the paper's (arXiv 2407.21783, section 3.1.1)."""

from .sample import Sample
from .step import Barrier, Filter

STEPS: dict[str, type[Filter] | type[Barrier]] = {
    step.name: step
    for step in (
        Sample,
    )
}  # fmt: skip
