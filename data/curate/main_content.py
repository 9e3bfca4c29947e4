"""Finds the main content of a page: what is not navigation, advertising, comments or a list of other pages.

Three rules, each linear in the size of the page:
  1. Elements that say what they are go: by tag, by role, hidden ones; by the words of their class and id unless they hold much
     of the page's prose (a page's wrapper may be called anything).
  2. From the body down, the content is in the child that holds nearly all of the prose, as long as there is one.
  3. In what is left, blocks that are mostly links and blocks that only announce another page go.

Prose is what a paragraph, cell, list item or block of code has outside links; paragraphs that are mostly links count as none.
"""

import re
from functools import lru_cache

from lxml.etree import _Element, strip_elements

HOLDS_MUCH = 0.4  # of the prose: not removed for its name
HOLDS_NEARLY_ALL = 0.8  # of the parent's prose: the content is in it
TEASER = 0.2  # of the content's prose: more is no mere announcement
MOSTLY_LINKS = 0.6  # of the characters
LONG_LIST = 2000  # characters; a longer list of links is what the page is about
HEADLINE, FEWEST_TEASERS = 15, 3  # characters of a link; blocks in a run
LEAST_CONTENT = 500  # of prose outside a run of teasers
SHORTEST = 25  # characters of a paragraph that counts as prose

_TAGS = {"script", "style", "noscript", "template", "nav", "footer", "aside", "button", "select", "input", "textarea", "iframe",
         "object", "embed", "svg", "canvas", "dialog", "menu", "audio", "video", "link", "meta", "head"}  # fmt: skip
_ROLES = {"navigation", "banner", "contentinfo", "complementary", "search", "dialog", "alert", "menu"}
_FORMS = {"form", "fieldset", "label"}
_HEADINGS = {"h1", "h2", "h3", "h4", "h5", "h6"}
_PARAGRAPHS = {"p", "pre", "blockquote", "td", "dd", "li", "figcaption"}
_CONTAINERS = {"div", "section", "article", "main", "form", "center", "td", "tr", "tbody", "table", "span", "details", "figure"}
_NAMED = {"div", "section", "span", "ul", "ol", "dl", "header", "figure", "details", "li", "center"} | _HEADINGS - {"h1"}
_BLOCKS = (_CONTAINERS - {"span"}) | _PARAGRAPHS | _HEADINGS | {"dt", "th", "ul", "ol", "dl", "body", "header", "summary"}
_HIDDEN = re.compile(r"(?:display\s*:\s*none|visibility\s*:\s*hidden)", re.I)
_NAMES = re.compile(
    r"(?:^|[\s_-])(?:nav(?:bar|header|footer|igation)?|menu|breadcrumbs?|footer|masthead|side-?bar|aside|banner|cookies?|consent|gdpr|popup|modal"
    r"|overlay|related|recommend\w*|trending|popular|most-?read|also-?read|read-?more|more-?(?:news|stories|articles|from)"
    r"|teaser\w*|promo\w*|sponsor\w*|advert\w*|ads?|outbrain|taboola|shar(?:e\w*|ing)|social|newsletter|subscri\w*|signup|login"
    r"|comments?|commentlist|disqus\w*|respond|pagination|pager|widget|toolbar|tags?|taglist|byline|author\w*|copyright"
    r"|credits?|caption|rating|print|noprint|metadata|meta|skip\w*|sr-only|visually-?hidden|screen-reader\w*"
    r"|navbox|toc|editsection|mw-jump|linenos?|lineno)(?:$|[\s_-])", re.I)  # fmt: skip


def remove(element: _Element) -> None:
    """Takes it out of the tree; the text after it stays, as a word of its own."""
    parent, before = element.getparent(), element.getprevious()
    if parent is None:
        return
    if element.tail and before is not None:
        before.tail = f"{before.tail or ''} {element.tail}"
    elif element.tail:
        parent.text = f"{parent.text or ''} {element.tail}"
    parent.remove(element)


class Prose:
    """Characters, characters in links, and prose of every element from `top` down, each with all that is below it."""

    def __init__(self, top: _Element):
        elements = list(top.iter())
        index = {element: number for number, element in enumerate(elements)}
        own, below, linked, amount = ([0] * len(elements) for _ in range(4))
        has_blocks = [False] * len(elements)
        for number in range(len(elements) - 1, -1, -1):  # children first
            element = elements[number]
            tag, text, tail = element.tag, element.text, element.tail
            if text:
                own[number] += len(text.strip())
            characters = below[number] = below[number] + own[number]
            if tag == "a":
                linked[number] = characters
            if tag in _PARAGRAPHS and not has_blocks[number] and characters >= SHORTEST and 2 * linked[number] <= characters:
                amount[number] = max(amount[number], (characters - linked[number]) ** 2 / characters)
            elif tag in _CONTAINERS and own[number] >= 2 * SHORTEST:
                amount[number] += own[number]
            if number:
                parent = index[element.getparent()]
                below[parent] += characters
                linked[parent] += linked[number]
                amount[parent] += amount[number]
                has_blocks[parent] |= tag in _BLOCKS
                if tail:
                    own[parent] += len(tail.strip())
        self.characters, self.linked, self.amount = (dict(zip(elements, values)) for values in (below, linked, amount))

    def remove(self, element: _Element) -> None:
        """Takes it out of the tree, and out of the counts of what it is in."""
        for parent in element.iterancestors():
            if parent in self.amount:
                self.characters[parent] -= self.characters[element]
                self.linked[parent] -= self.linked[element]
                self.amount[parent] = max(0, self.amount[parent] - self.amount[element])
        remove(element)

    def mostly_links(self, element: _Element) -> bool:
        return self.linked[element] > MOSTLY_LINKS * self.characters[element]


def main_content(body: _Element) -> _Element:
    """The element of the content, a part of `body`, which is changed."""
    strip_elements(body, *_TAGS, with_tail=False)
    for element in body.xpath(".//*[@hidden or @aria-hidden or @style or @role]"):
        if _is_hidden(element) or element.get("role") in _ROLES:
            remove(element)
    prose = Prose(body)
    much = HOLDS_MUCH * prose.amount[body]
    for element in list(body.iter(*_NAMED, *_FORMS)):
        names = element.get("class", ""), element.get("id", "")
        if prose.amount[element] <= much and (element.tag in _FORMS or any(names) and _is_unwanted(element.tag, *names)):
            prose.remove(element)
    content = _descend(body, prose)
    _remove_lists_of_links(content, prose)
    _remove_teasers(content, prose)
    return content


def _is_hidden(element: _Element) -> bool:
    get = element.get
    return get("hidden") is not None or get("aria-hidden") == "true" or _HIDDEN.search(get("style", "")[:300]) is not None


@lru_cache(1 << 16)
def _is_unwanted(tag: str, classes: str, identity: str) -> bool:
    """Sections of a text, and headings, have ids that are made of what they say: sharing-a-repository."""
    of_text = tag == "section" or tag in _HEADINGS or "section" in classes.split()
    says_more = of_text or len(re.split(r"[-_\s]+", identity[:100])) > 3
    return _NAMES.search(classes[:200] if says_more else f"{classes[:200]} {identity}") is not None


def _descend(element: _Element, prose: Prose) -> _Element:
    while len(element):
        best = max(element, key=prose.amount.__getitem__)
        if best.tag not in _CONTAINERS or not 0 < HOLDS_NEARLY_ALL * prose.amount[element] <= prose.amount[best]:
            break
        element = best
    return element


def _remove_lists_of_links(content: _Element, prose: Prose) -> None:
    for element in list(content.iter("ul", "ol", "dl", "div", "section", "table", "figure", "header", "p")):
        if element is content or prose.characters[element] > LONG_LIST or not prose.mostly_links(element):
            continue
        is_sentence = element.tag == "p" and prose.characters[element] - prose.linked[element] >= SHORTEST
        if not is_sentence:
            prose.remove(element)


def _remove_teasers(content: _Element, prose: Prose) -> None:
    """A heading that is a link to another page goes, with the block around it; so do runs of blocks that begin with a link."""
    for heading in list(content.iter("h2", "h3", "h4", "h5", "h6")):
        link = heading.find(".//a[@href]")
        link = next(heading.iterancestors("a"), None) if link is None else link
        if link is not None and _leads_away(link) and prose.characters[link] >= 0.8 * prose.characters[heading]:
            prose.remove(_block_around(heading, content, prose))
    for group in list(content.iter("ul", "ol", "div", "section")):
        if len(group) >= FEWEST_TEASERS and prose.amount[content] - prose.amount[group] >= LEAST_CONTENT:
            if sum(_begins_with_link(child, prose) for child in group) >= 0.8 * len(group):
                prose.remove(group)


def _leads_away(link: _Element) -> bool:
    return not link.get("href", "#").startswith("#")


def _block_around(heading: _Element, content: _Element, prose: Prose) -> _Element:
    block, most = heading, TEASER * prose.amount[content]
    for parent in heading.iterancestors():
        if parent is content or prose.amount[parent] > most:
            break
        block = parent
        if parent.tag in ("li", "article"):
            break
    return block


def _begins_with_link(element: _Element, prose: Prose) -> bool:
    """Its first words are a link to another page that reads like a headline."""
    for part in element.iter():
        if part.tag == "a" and prose.characters[part]:
            return _leads_away(part) and prose.characters[part] >= HEADLINE
        if part.text and part.text.strip():
            return False
    return False
