"""Tables of counts for pages of HTML: each with its share of a whole, and a bar."""

from .page import safe, table

SIZES = ("documents", "tokens", "bytes")
STYLE = """
:root { --bar: #2563eb; --lost: #ea580c; }
@media (prefers-color-scheme: dark) { :root { --bar: #60a5fa; --lost: #fb923c; } }
.bar { height: .35rem; border-radius: .2rem; background: var(--bar); min-width: 1px; margin-left: auto; }
.shares td { overflow-wrap: anywhere; } .shares td.number { width: 18%; overflow-wrap: normal; }
@media (max-width: 48rem) { table.shares { font-size: .85rem; } .shares td, .shares th { min-width: 4.6rem; }
.shares td:first-child { min-width: 8.5rem; } }
@media print { .bar { print-color-adjust: exact; } }
"""


def count(value: float) -> str:
    return f"{value:,.0f}"


def share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.3g} %" if whole else "–"


def bar(part: float, whole: float) -> str:
    return f'<div class="bar" style="width: {100 * part / whole if whole else 0:.1f}%"></div>'


def funnel(sizes: dict[str, list[int]]) -> str:
    """Documents, tokens and bytes after each step of curation, `read` first. Bars are shares of the largest in a column."""
    most = [max(size[i] for size in sizes.values()) for i in range(len(SIZES))]
    rows, before = [], None
    for name, size in sizes.items():
        cells = [f"{count(n)}{f' <span class=faint>{share(n, before[i])}</span>' if before and before[i] else ''}{bar(n, most[i])}" if n or i == 0 else "–"
                 for i, n in enumerate(size)]  # fmt: skip
        rows.append([safe(name), *cells])
        before = size
    note = ("<p class=faint>What is left after each step, and its share of what the step was given. A token is a word or a mark, which "
            "needs no tokenizer; those of HTML are not counted. Extraction makes bytes fewer without dropping a document.</p>")  # fmt: skip
    return table(["after", *SIZES], rows, "shares", (1, 2, 3)) + note
