"""Parts of pages of HTML that need no other file. What a page says of models, data and users is escaped by whoever puts it there."""

import base64
import math
from html import escape

from .characters import HALF_PAIR, harmless

STYLE = """
:root { color-scheme: light dark; --ink: #1f2937; --paper: #fff; --faint: #6b7280; --caption: #374151; --line: #e5e7eb; --thin-line: #f0f1f3;
--block: #f8f9fa; }
@media (prefers-color-scheme: dark) { :root { --ink: #e5e7eb; --paper: #111827; --faint: #9ca3af; --caption: #d1d5db;
--line: #374151; --thin-line: #1f2937; --block: #1f2937; } figure img { background: #fff; border-radius: .3rem; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 68rem; margin: 2rem auto;
padding: 0 1.2rem; }
h1 { font-size: 1.6rem; margin: 0 0 .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; border-bottom: 1px solid var(--line); }
.faint { color: var(--faint); font-size: .9rem; }
table { border-collapse: collapse; width: 100%; margin-bottom: 1rem; }
th, td { text-align: left; vertical-align: top; padding: .35rem .7rem .35rem 0; border-bottom: 1px solid var(--thin-line); }
th { font-weight: 600; white-space: nowrap; }
td.number, th.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.charts { display: flex; flex-wrap: wrap; gap: .8rem 1.6rem; } figure { margin: 0; flex: 1 1 24rem; max-width: 32rem; }
figure img { width: 100%; } figcaption { font-size: .9rem; color: var(--caption); font-weight: 600; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .88rem; } .samples td { width: 33%; }
pre { background: var(--block); padding: .8rem; font-size: .8rem; line-height: 1.4; white-space: pre-wrap; overflow-wrap: anywhere; }
details > summary { cursor: pointer; }
@media (max-width: 48rem) { body { margin: 1rem auto; padding: 0 .8rem; } table { display: block; overflow-x: auto; } }
@media print { body { margin: 0; max-width: none; } h2 { break-after: avoid; } tr, figure { break-inside: avoid; } }
"""


def is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def number(value, digits: int = 4) -> str:
    return f"{value:.{digits}g}" if is_number(value) else "–"


def plain(text: object) -> str:
    """Foreign text without control characters, reversed writing and halves of characters."""
    return HALF_PAIR.sub("\ufffd", harmless(str(text)))


def safe(text: object, most: int | None = None) -> str:
    """Foreign text as HTML, of at most so many characters."""
    clean = plain(text)
    return escape(clean if most is None or len(clean) <= most else clean[:most] + "…")


def figure(caption: str, svg: str) -> str:
    data, text = base64.b64encode(svg.encode()).decode(), escape(caption)
    return f'<figure><figcaption>{text}</figcaption><img alt="{text}" src="data:image/svg+xml;base64,{data}"></figure>'


def table(head: list[str], rows: list[list[str]], kind: str = "", numbers: tuple[int, ...] = ()) -> str:
    """A table whose cells are HTML already. Columns in `numbers` are aligned to the right."""
    mark = [' class="number"' if index in numbers else "" for index in range(len(head))]
    top = "".join(f"<th{mark[i]}>{cell}</th>" for i, cell in enumerate(head))
    body = "".join("<tr>" + "".join(f"<td{mark[i]}>{cell}</td>" for i, cell in enumerate(row)) + "</tr>" for row in rows)
    return f'<table class="{kind}"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'


def whole(title: str, heading: str, below: str, body: str, style: str = "") -> str:
    """The page. `below`, which stands under the heading, and `body` are HTML already; `style` is added to STYLE."""
    return (f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
            f"<title>{safe(title)}</title><style>{STYLE}{style}</style></head>"
            f'<body><h1>{safe(heading)}</h1><p class="faint">{below}</p>{body}</body></html>\n')  # fmt: skip
