"""Rewrites what a page says in marks of its own into plain text, in place: mathematics as TeX, no permalinks, no Markdown."""

import re

from lxml.etree import _Element

from .main_content import remove

_TEX_SCRIPT = re.compile(r"math/(?:tex|latex)", re.I)
_RENDERED = re.compile(
    r"(?:^|\s)(?:katex-html|MathJax(?:_Display|_Preview|_SVG|_CHTML)?|mjx-chtml"
    r"|mwe-math-fallback-image-\w+)(?:$|\s)")  # fmt: skip
_PERMALINKS = {"¶", "#", "§", "🔗", "\uf0c1", "[edit]", "↑", "[source]"}
_LITERAL = {"pre", "code", "kbd", "samp", "var", "tt", "textarea", "script", "style", "math"}

_MARKDOWN = [
    (re.compile(r"^[ \t]{0,3}#{1,6}[ \t]+(?=\S)", re.M), ""),
    (re.compile(r"^[ \t]{0,3}>[ \t]+(?=\S)", re.M), ""),
    (re.compile(r"^[ \t]{0,3}(?:```|~~~)[\w+-]{0,20}[ \t]*$", re.M), ""),
    (re.compile(r"!?\[([^\[\]\n]{1,300})\]\((?:https?:|/|#|\.)[^\s()]{1,500}\)"), r"\1"),
    (re.compile(r"(?<![\w*])\*\*(?=[^\s*])([^*\n]{1,500})(?<=\S)\*\*(?![\w*])"), r"\1"),
    (re.compile(r"(?<!\w)__(?=[^\s_])([^_\n]{1,500} [^_\n]{1,500})(?<=\S)__(?!\w)"), r"\1"),  # one word is Python's __name__
    (re.compile(r"(?<![\w*_])([*_])(?=[^\s*_])([^*_\n]{1,300})(?<=\S)\1(?![\w*_])"), r"\2"),
]
_MARKER = re.compile(r"[*_#>`~]|\]\(")


def rewrite(body: _Element) -> None:
    for element in list(body.iter("math")):
        _write_math(element, _tex(element), element.get("display") == "block")
    for element in list(body.iter("script")):
        kind = element.get("type", "")
        if _TEX_SCRIPT.match(kind) and element.text:
            _write_math(element, element.text.strip(), "display" in kind)
    for element in list(body.iter("span", "div", "img")):
        if _RENDERED.search(element.get("class", "")[:300]):
            remove(element)
    for element in list(body.iter("a")):
        if (element.text or "").strip() in _PERMALINKS and not len(element):
            remove(element)
    _strip_markdown(body)


def _write_math(element: _Element, text: str, display: bool) -> None:
    """In the place of the element, in dollars; Wikipedia hides the element's parent and shows a picture."""
    tail, parent = element.tail, element.getparent()
    element.clear()
    element.tag, element.tail = "span", tail
    element.text = (f"$${text}$$" if display else f"${text}$") if text else ""
    if parent is not None and parent.tag == "span":
        parent.attrib.pop("style", None)
        parent.attrib.pop("class", None)
        parent.attrib.pop("aria-hidden", None)


def _tex(math: _Element) -> str:
    """What the page gives as TeX, else the formula in a line."""
    for note in math.iter("annotation"):
        if "tex" in note.get("encoding", "").lower() and note.text:
            return note.text.strip()
    return (math.get("alttext") or _in_a_line(math)).strip()


_SCRIPTS = {"msup": "{}^{}", "msub": "{}_{}", "msubsup": "{}_{}^{}",
            "mover": "{}^{}", "munder": "{}_{}", "munderover": "{}_{}^{}",
            "mfrac": "({})/({})", "msqrt": "sqrt({})", "mroot": "root({}, {})"}  # fmt: skip


def _in_a_line(element: _Element, depth: int = 0) -> str:
    """Presentation MathML in characters."""
    if element.tag in ("annotation", "annotation-xml") or depth > 50:
        return ""
    parts = [_in_a_line(child, depth + 1) for child in element]
    form = _SCRIPTS.get(element.tag)
    if form and form.count("{}") == len(parts):
        return form.format(*(f"({part})" if len(part) > 1 and "(" not in form else part for part in parts))
    return " ".join((element.text or "").split()) + "".join(parts)


def _strip_markdown(body: _Element) -> None:
    """Of text outside code."""
    for element in body.iter():
        text, tail = element.text, element.tail
        if text and _MARKER.search(text) and not _is_literal(element):
            element.text = _plain(text)
        if tail and _MARKER.search(tail) and not _is_literal(element.getparent()):
            element.tail = _plain(tail)


def _is_literal(element: _Element) -> bool:
    return element.tag in _LITERAL or next(element.iterancestors(*_LITERAL), None) is not None


def _plain(text: str) -> str:
    for pattern, replacement in _MARKDOWN:
        text = pattern.sub(replacement, text)
    return text
