"""Finds personal data in text: e-mail addresses, telephone numbers, IP addresses, numbers of payment cards and IBANs.

Candidates come from regular expressions that take linear time; phonenumbers, python-stdnum and ipaddress decide. Numbers that only
look alike (versions, dates, section numbers, identifiers in code) must stay, so what surrounds a candidate counts too.
"""

import ipaddress
import re
from typing import Iterator, NamedTuple, Sequence

from phonenumbers import Leniency, PhoneNumberMatcher
from stdnum import iban, luhn
from stdnum.iso7064 import mod_97_10

EMAIL, TELEPHONE, ADDRESS, PAYMENT = KINDS = ("e-mail address", "telephone number", "IP address", "payment number")

# Countries whose national formats are tried, for texts in a language; a number that begins with + needs none.
REGIONS = {
    "ar": ("EG", "SA"), "cs": ("CZ",), "da": ("DK",), "de": ("DE", "AT", "CH"), "el": ("GR",), "en": ("US", "GB"),
    "es": ("ES", "MX"), "fi": ("FI",), "fr": ("FR", "BE"), "hi": ("IN",), "hu": ("HU",), "it": ("IT",), "ja": ("JP",),
    "ko": ("KR",), "nl": ("NL", "BE"), "no": ("NO",), "pl": ("PL",), "pt": ("BR", "PT"), "ro": ("RO",), "ru": ("RU",),
    "sv": ("SE",), "tr": ("TR",), "uk": ("UA",), "vi": ("VN",), "zh": ("CN", "TW"),
}  # fmt: skip

_AT, _DOT = r"(?:@|\s?[\[(]at[\])]\s?)", r"(?:\.|\s?[\[(]dot[\])]\s?)"
# Each begins with a set of characters, for which Python's re has a fast search; what may not stand in front of it follows.
_EMAIL = re.compile(rf"(?<![\w.%+-])[\w.%+-]{{1,64}}{_AT}(?:[\w-]{{1,63}}{_DOT}){{1,8}}[^\W\d_]{{2,24}}(?![\w-])")
_EMAIL_SIGN = re.compile(r"[@\[(](?:(?<=@)|at[\])])")
_IPV4 = re.compile(r"\d(?<![\w.+/§-]\d)\d{0,2}(?:\.\d{1,3}){3}(?![\w+-]|\.\w|/\d)")
_IPV6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:]|/\d)")
_IPV6_SIGN = re.compile(r":[0-9A-Fa-f]{0,4}:")
_VERSION = re.compile(r"(?:(?:\bv|version|release|firmware|build|section|chapter|kernel|\boid)\W{0,3}|[<>]=\s?(?:\d:)?)$", re.IGNORECASE)
_CARD = re.compile(r"[2-6](?<![\w.,+-]\d)(?:(?<=[3-6])\d|(?<=2)[2-7])\d{1,2}"
                   r"(?:\d{9,15}|([ \u00a0-])\d{4}\1\d{4}\1\d{4}|([ \u00a0-])\d{6}\2\d{5})(?![\w-]|[.,]\d)")  # fmt: skip
_IBAN = re.compile(r"[A-Z](?<!\w[A-Z])[A-Z]\d{2}(?:[ \u00a0]?[A-Z0-9]{4}){2,7}(?:[ \u00a0]?[A-Z0-9]{1,3})?(?!\w)")
_PHONE = re.compile(r"[+(\d](?<![\w.,/:=#$€£-][+(\d])(?:(?<=\d)|(?<=\()\+?\d|(?<=\+)\d)"
                    r"(?:[ \u00a0().\-/\u2010-\u2013]{0,3}\d){6,40}+(?![\w%=-]|[.,:/]?\d)")  # fmt: skip
_GROUPED = re.compile(r"\d{3}|^0\d(?:[ \u00a0.-]\d\d){4}$")  # numbers in pairs are rarely those of a telephone
_DATE = re.compile(r"(?:19|20)\d\d([-./])\d\d?\1\d\d?(?!\d)|\d\d?([-./])\d\d?\2(?:19|20)\d\d(?!\d)|(?:19|20)\d\d\D{1,3}(?:19|20)\d\d(?!\d)")
_CALL = re.compile(r"(?:\b(?:tel|telephone|telefono?|teléfono|téléphone|phone|mobile|mobil|handy|cell|fax|call|whatsapp|sms)\b|[☎☏📞📱✆])"
                   r"[^\w\n]{0,4}(?:(?:us|me|number|no|nr|at|on)\b[^\w\n]{0,3}){0,2}$", re.IGNORECASE)  # fmt: skip
_BEFORE = 32  # characters in front of a candidate that are looked at
_SMALL = 32  # four numbers that are all below are a version or a section
_NOBODYS = [ipaddress.ip_network(name) for name in (
    "0.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")]  # fmt: skip
_GLOBAL_V6, _EXAMPLE_V6, _GROUPS = ipaddress.ip_network("2000::/3"), ipaddress.ip_network("2001:db8::/32"), 3


class Found(NamedTuple):
    start: int
    end: int
    kind: str


def find(text: str, kinds: Sequence[str] = KINDS, language: str | None = None, regions: Sequence[str] = ()) -> list[Found]:
    """All finds in order, none overlapping. `regions` are tried for telephone numbers; without them, those of the language."""
    finds: list[Found] = []
    every = (found for found in _all(text, regions or REGIONS.get(language or "", REGIONS["en"])) if found.kind in kinds)
    for found in sorted(every, key=lambda each: (each.start, -each.end)):
        if not finds or found.start >= finds[-1].end:
            finds.append(found)
    return finds


def replace(text: str, finds: list[Found]) -> str:
    """The text with a placeholder, such as [IP address], for each find."""
    parts, at = [], 0
    for found in finds:
        parts += [text[at : found.start], f"[{found.kind}]"]
        at = found.end
    return "".join([*parts, text[at:]])


def _all(text: str, regions: Sequence[str]) -> Iterator[Found]:
    if _EMAIL_SIGN.search(text):
        for match in _EMAIL.finditer(text):
            yield Found(*match.span(), EMAIL)
    for pattern in (_IPV4, _IPV6) if _IPV6_SIGN.search(text) else (_IPV4,):
        for match in pattern.finditer(text):
            if _is_address(match[0]) and not _VERSION.search(text[max(0, match.start() - _BEFORE) : match.start()]):
                yield Found(*match.span(), ADDRESS)
    for match in _CARD.finditer(text):
        digits = re.sub(r"\D", "", match[0])
        if 13 <= len(digits) <= 19 and luhn.is_valid(digits) and len(set(digits)) > 1:
            yield Found(*match.span(), PAYMENT)
    for match in _IBAN.finditer(text):
        if length := _iban_length(match[0]):
            yield Found(match.start(), match.start() + length, PAYMENT)
    for match in _PHONE.finditer(text):
        yield from _telephones(text, *match.span(), regions)


def _is_address(text: str) -> bool:
    """Whether it is an address that could be a person's: not a private network's, an example, a mask or a version."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if address.version == 6:
        return address in _GLOBAL_V6 and address not in _EXAMPLE_V6 and len(text.replace("::", ":").strip(":").split(":")) >= _GROUPS
    small = all(part < _SMALL for part in address.packed)
    special = address.is_loopback or address.is_link_local or address.is_multicast or address.is_reserved
    return not (small or special or any(address in network for network in _NOBODYS))


def _iban_length(text: str) -> int:
    """How much of the candidate is an IBAN: a word that follows may have been taken for its last group."""
    while text:
        compact = re.sub(r"\s", "", text)
        if mod_97_10.is_valid(compact[4:] + compact[:4]) and iban.is_valid(compact, check_country=False):
            return len(text)
        text = text.rpartition(" ")[0]
    return 0


def _telephones(text: str, start: int, end: int, regions: Sequence[str]) -> Iterator[Found]:
    """The numbers in a candidate. A national one counts if it is written as its country does, or where words announce it."""
    called = _CALL.search(text[max(0, start - _BEFORE) : start]) is not None
    if text[start] == "(" and ")" not in text[start:end]:  # it is around more than the number
        start += 1
    candidate = text[start:end]
    international, bracketed = "+" in candidate[:2], candidate.startswith("(")
    grouped = _GROUPED.search(candidate) and not candidate.isdecimal() and not _DATE.match(candidate)
    if not (called or international or bracketed or grouped):
        return
    leniency = Leniency.POSSIBLE if called else Leniency.VALID if international or bracketed else Leniency.STRICT_GROUPING
    for region in regions[:1] if international else regions:
        matches = [match for match in PhoneNumberMatcher(candidate, region, leniency) if _is_whole(candidate, match.start, match.end)]
        if matches:
            yield from (Found(start + match.start, start + match.end, TELEPHONE) for match in matches)
            return


def _is_whole(candidate: str, start: int, end: int) -> bool:
    """Whether it is not the fraction of a number, and its parts are not separated by both dots and dashes, as those of laws are."""
    return (start == 0 or candidate[start - 1] in " \u00a0(") and not {".", "-"} <= set(candidate[start:end])
