"""The table of all steps, in the order in which they run: the paper's (arXiv 2407.21783, section 3.1.1)."""

from .decontaminate import Decontaminate
from .divergence import Divergence
from .extract import Extract
from .heuristics import C4, DirtyWords, FineWeb, GopherQuality, GopherRepetition, Repetition
from .language import Language
from .line_dedup import LineDedup
from .minhash import MinHash
from .pii import PersonalData
from .quality import Quality, Reasoning, Topic
from .sample import Sample
from .step import Barrier, Filter
from .url_dedup import UrlDedup
from .url_filter import UrlFilter

STEPS: dict[str, type[Filter] | type[Barrier]] = {
    step.name: step
    for step in (
        Sample,
        UrlFilter,
        Extract,
        Language,
        UrlDedup,
        MinHash,
        LineDedup,
        Repetition,
        DirtyWords,
        Divergence,
        GopherRepetition,
        GopherQuality,
        C4,
        FineWeb,
        PersonalData,
        Quality,
        Reasoning,
        Topic,
        Decontaminate,
    )
}  # fmt: skip
