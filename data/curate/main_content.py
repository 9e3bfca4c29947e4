"""Finds the main content of a page: what is not navigation, advertising, comments or a list of other pages.

Three rules, each linear in the size of the page:
  1. Elements that say what they are go: by tag, by role, hidden ones; by the words of their class and id unless they hold much
     of the page's prose (a page's wrapper may be called anything).
  2. From the body down, the content is in the child that holds nearly all of the prose, as long as there is one.
  3. In what is left, blocks that are mostly links and blocks that only announce another page go.

Prose is what a paragraph, cell, list item or block of code has outside links; paragraphs that are mostly links count as none.
"""

import re

from lxml.html import HtmlElement

HOLDS_MUCH = 0.4  # of the prose: not removed for its name
HOLDS_NEARLY_ALL = 0.8  # of the parent's prose: the content is in it
TEASER = 0.2  # of the content's prose: more is no mere announcement
MOSTLY_LINKS = 0.6  # of the characters
SHORTEST = 25  # characters of a paragraph that counts as prose

_TAGS = {"script", "style", "noscript", "template", "nav", "footer", "aside", "button", "select", "input", "textarea", "iframe",
         "object", "embed", "svg", "canvas", "dialog", "menu", "audio", "video", "link", "meta", "head"}  # fmt: skip
_ROLES = {"navigation", "banner", "contentinfo", "complementary", "search", "dialog", "alert", "menu"}
_FORMS = {"form", "fieldset", "label"}
_NAMED = {"div", "section", "span", "ul", "ol", "dl", "header", "figure", "details", "li", "h2", "h3", "h4", "h5", "h6", "center"}
_CONTAINERS = {"div", "section", "article", "main", "form", "center", "td", "tr", "tbody", "table", "span", "details", "figure"}
_PARAGRAPHS = {"p", "pre", "blockquote", "td", "dd", "li", "figcaption"}
_BLOCKS = _CONTAINERS | _PARAGRAPHS | {"h1", "h2", "h3", "h4", "h5", "h6", "dt", "th", "ul", "ol", "dl", "body", "header", "summary"}
_BLOCKS -= {"span"}
_HIDDEN = re.compile(r"(?:display\s*:\s*none|visibility\s*:\s*hidden)", re.I)
_NAMES = re.compile(
    r"(?:^|[\s_-])(?:nav|navbar|menu|breadcrumbs?|footer|masthead|side-?bar|aside|banner|cookies?|consent|gdpr|popup|modal|overlay"
    r"|related|recommend\w*|trending|popular|most-?read|also-?read|read-?more|more-?(?:news|stories|articles|from)|teaser\w*"
    r"|promo\w*|sponsor\w*|advert\w*|ads?|outbrain|taboola|shar(?:e\w*|ing)|social|newsletter|subscri\w*|signup|login"
    r"|comments?|commentlist|disqus\w*|respond|pagination|pager|widget|toolbar|tags?|taglist|byline|author\w*|copyright|credits?"
    r"|caption|rating|print|noprint|metadata|meta|skip\w*|sr-only|visually-?hidden|screen-reader\w*"
    r"|navbox|toc|editsection|mw-jump|linenos?|lineno)(?:$|[\s_-])", re.I)  # fmt: skip


def remove(element: HtmlElement) -> None:
    """Takes it out of the tree; the text after it stays."""
    if element.getparent() is not None:
        if element.tail:
            element.tail = f" {element.tail}"
        element.drop_tree()


class Prose:
    """Characters, characters in links, and prose of every element below `top`, each with all that is below it."""

    def __init__(self, top: HtmlElement):
        self.characters: dict[HtmlElement, int] = {}
        self.linked: dict[HtmlElement, int] = {}
        self.amount: dict[HtmlElement, float] = {}
        for element in reversed(list(top.iter())):  # children first
            own = len((element.text or "").strip()) + sum(len((child.tail or "").strip()) for child in element)
            characters = own + sum(self.characters[child] for child in element)
            linked = characters if element.tag == "a" else sum(self.linked[child] for child in element)
            below = sum(self.amount[child] for child in element)
            is_paragraph = element.tag in _PARAGRAPHS and not any(child.tag in _BLOCKS for child in element)
            if (is_paragraph or (element.tag in _CONTAINERS and own > 40)) and characters >= SHORTEST and linked <= characters / 2:
                below = max(below, (characters - linked) ** 2 / characters)
            self.characters[element], self.linked[element], self.amount[element] = characters, linked, below

    def mostly_links(self, element: HtmlElement) -> bool:
        return self.linked[element] > MOSTLY_LINKS * self.characters[element]


def main_content(body: HtmlElement) -> HtmlElement:
    """The element of the content, a part of `body`, which is changed."""
    for element in list(body.iter()):
        if _is_no_content(element):
            remove(element)
    prose = Prose(body)
    much = HOLDS_MUCH * prose.amount[body]
    for element in list(body.iter()):
        if _is_named_so(element) and prose.amount[element] <= much:
            remove(element)
    prose = Prose(body)
    content = _descend(body, prose)
    _remove_lists_of_links(content, prose)
    _remove_teasers(content, prose)
    return content


def _is_no_content(element: HtmlElement) -> bool:
    if element.tag in _TAGS or not isinstance(element.tag, str):
        return True
    get = element.attrib.get
    hidden = "hidden" in element.attrib or get("aria-hidden") == "true" or _HIDDEN.search(get("style", "")[:300])
    return bool(hidden) or get("role") in _ROLES


def _is_named_so(element: HtmlElement) -> bool:
    if element.tag in _FORMS:
        return True
    names = f"{element.get('class', '')} {element.get('id', '')}" if element.tag in _NAMED else ""
    return len(names) > 1 and _NAMES.search(names[:300]) is not None


def _descend(element: HtmlElement, prose: Prose) -> HtmlElement:
    while len(element):
        best = max(element, key=prose.amount.__getitem__)
        if best.tag not in _CONTAINERS or not 0 < HOLDS_NEARLY_ALL * prose.amount[element] <= prose.amount[best]:
            break
        element = best
    return element


def _remove_lists_of_links(content: HtmlElement, prose: Prose) -> None:
    for element in list(content.iter("ul", "ol", "dl", "div", "section", "table", "figure", "header", "li", "p", "td")):
        if element is not content and prose.characters[element] < 2000 and prose.mostly_links(element):
            remove(element)


def _remove_teasers(content: HtmlElement, prose: Prose) -> None:
    """A heading that is a link to another page goes, with the block around it."""
    most = TEASER * prose.amount[content]
    for heading in list(content.iter("h2", "h3", "h4", "h5", "h6")):
        link = heading.find(".//a[@href]")
        link = next(heading.iterancestors("a"), None) if link is None else link
        if link is None or link.get("href", "#").startswith("#") or prose.characters[link] < 0.8 * prose.characters[heading]:
            continue
        block = heading
        for parent in heading.iterancestors():
            if parent is content or prose.amount[parent] > most:
                break
            block = parent
            if parent.tag in ("li", "article"):
                break
        remove(block)
