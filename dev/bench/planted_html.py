"""Wraps a page's content in what web sites put around it: navigation, banners, lists of other pages, footers."""

from html import escape
from random import Random

from planted_text import LISTS

LAYOUTS = [
    "<header>{top}</header><nav>{menu}</nav><main><article>{content}</article></main><aside>{side}</aside><footer>{bottom}</footer>",
    '<div id="header">{top}<ul class="menu">{menu}</ul></div><div id="content"><div class="post-body">{content}</div></div>'
    '<div id="sidebar">{side}</div><div id="footer">{bottom}</div>',
    '<div class="wrap"><div class="topbar">{top}{menu}</div><article class="entry">{content}</article>'
    '<section class="related-posts">{side}</section><div class="site-footer">{bottom}</div></div>',
    '<table width="100%"><tr><td colspan="2">{top}</td></tr><tr><td width="20%" class="nav">{menu}{side}</td><td>{content}</td></tr></table>'
    '<div class="copyright">{bottom}</div>',
]  # fmt: skip
BANNERS = {
    "en": "We use cookies to give you the best experience. Accept all Reject all",
    "de": "Wir verwenden Cookies, um unsere Seite zu verbessern. Alle annehmen Ablehnen",
    "fr": "Nous utilisons des cookies pour améliorer votre visite. Tout accepter Refuser",
    "es": "Usamos cookies para mejorar su visita. Aceptar todo Rechazar",
    "it": "Usiamo i cookie per migliorare la visita. Accetta tutto Rifiuta",
    "nl": "Wij gebruiken cookies om uw bezoek te verbeteren. Alles accepteren Weigeren",
}


class Site:
    """A site's domain, language, and what stands on all of its pages."""

    def __init__(self, random: Random, language: str, domain: str):
        self.language, self.domain = language, domain
        self.layout = random.choice(LAYOUTS)
        self.menu = [f"{word.capitalize()} {number}" for number, word in enumerate(random.sample(LISTS["thing"], 7))]
        self.bottom = f"Copyright {random.randint(2001, 2023)} {domain} All rights reserved | Imprint | Terms"

    def page(self, random: Random, title: str, content: str, charset: str) -> tuple[bytes, list[str]]:
        """The page, and the lines of it that are boilerplate."""
        others = [" ".join(random.sample(LISTS["adjective"] + LISTS["thing"], 4)).capitalize() for _ in range(5)]
        links = "".join(f'<li><a href="/{n}.html">{escape(text)}</a></li>' for n, text in enumerate(self.menu))
        side = "".join(f'<div><a href="/more/{n}">{escape(text)}</a></div>' for n, text in enumerate(others))
        top = f'<a href="/">{self.domain}</a><div class="cookie-banner">{escape(BANNERS[self.language])}</div>'
        body = self.layout.format(top=top, menu=f"<ul>{links}</ul>", side=side, bottom=f"<p>{escape(self.bottom)}</p>", content=content)
        html = (f'<!DOCTYPE html><html lang="{self.language}"><head><meta charset="{charset}"><title>{escape(title)} - {self.domain}</title>'
                f"<style>body {{ margin: 0 }}</style><script>var page = {{'id': {random.randint(1, 9999)}}};</script></head>"
                f"<body>{body}</body></html>")  # fmt: skip
        return html.encode(charset, errors="xmlcharrefreplace"), [BANNERS[self.language], *self.menu, *others, self.bottom]


def block(kind: str, text: str) -> str:
    """The HTML of a block of content; extraction should give its text again."""
    rows = [line.split(" | ") for line in text.split("\n")]
    return {
        "heading": "<h2>{}</h2>",
        "paragraph": "<p>{}</p>",
        "code": "<pre><code>{}</code></pre>",
        "tex": '<script type="math/tex">{}</script>',
        "mathml": '<p><math><semantics><mrow><mi>x</mi></mrow><annotation encoding="application/x-tex">{}</annotation></semantics></math></p>',
        "list": "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in text.split("\n")) + "</ul>",
        "table": "<table>" + "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows) + "</table>",
        "alt": '<p><img src="/picture.jpg" alt="{}"></p>',
    }[kind].replace("{}", escape(text))  # fmt: skip
