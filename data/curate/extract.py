"""Turns HTML into text: the main content, with code, mathematics, tables and the texts of pictures."""

import re

from datatrove.data import Document
from lxml import etree
from resiliparse.extract.html2text import extract_plain_text

from .main_content import main_content
from .page_marks import rewrite
from .step import KEEP, Filter, Verdict

_BLANK_LINES = re.compile(r"\n[ \t\r\f\v]*(?:\n[ \t\r\f\v]*)+\n")
_NOT_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


class Extract(Filter):
    """Documents that are no HTML pass unchanged."""

    name = "extract"
    SCHEMA = {"properties": {
        "main_content": {"type": "boolean", "default": True, "description": "false: the whole page, with menus and footers"},
        "alt_texts": {"type": "boolean", "default": True, "description": "with the texts that stand for pictures"},
        "min_characters": {"type": "integer", "minimum": 0, "default": 1, "description": "a page with less text is dropped"},
    }}  # fmt: skip

    def change(self, document: Document) -> int:
        if document.metadata.get("type") != "html":
            return 0
        document.text = page_text(document.text, self.settings["main_content"], self.settings["alt_texts"])
        document.metadata["type"] = "text"
        return 1

    def judge(self, document: Document) -> Verdict:
        found, least = len(document.text), self.settings["min_characters"]
        return Verdict(found >= least, found, least, "too little text") if found < 10 * max(1, least) else KEEP


def page_text(html: str, only_main: bool = True, alt_texts: bool = True) -> str:
    """The text of a page; paragraphs, items and rows on lines of their own. Never fails, whatever the page."""
    html = _NOT_TEXT.sub("", html)
    body = _parse(html)
    if body is not None:
        rewrite(body)
        html = etree.tostring(main_content(body) if only_main else body, encoding="unicode", method="html", with_tail=False)
    text = extract_plain_text(html, preserve_formatting=True, main_content=False, list_bullets=False, alt_texts=alt_texts)
    return _BLANK_LINES.sub("\n\n", text).strip()


def _parse(html: str) -> etree._Element | None:
    """The page's body. None: it has none, or nests deeper than libxml2 follows, which would lose the rest of the page."""
    parser = etree.HTMLParser(encoding="utf-8", huge_tree=True, remove_comments=True, remove_pis=True)
    try:
        root = etree.fromstring(html.encode("utf-8", "replace"), parser)
    except etree.LxmlError:  # an empty document
        return None
    too_deep = any("depth" in entry.message for entry in parser.error_log)
    return None if root is None or too_deep else root.find("body")
