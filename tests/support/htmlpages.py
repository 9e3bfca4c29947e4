"""Pages of HTML as a browser takes them, and a text that would do harm there."""

from html.parser import HTMLParser

HOSTILE = "</div></details><script>alert(1)</script><img src=x onerror=alert(2)> &lt; \u202eback\x00 \ud800 'quoted\" "


class Structure(HTMLParser):
    """The page's elements as a browser takes them, and whether each is closed in its turn."""

    VOID = {"meta", "br", "img"}

    def __init__(self, page):
        super().__init__()
        self.open, self.seen, self.attributes, self.wrong = [], [], [], []
        self.feed(page)
        self.wrong += self.open

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)
