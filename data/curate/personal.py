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
_EMAIL = re.compile(rf"(?<![\w.%+-])[\w.%+-]{{1,64}}{_AT}(?:[\w-]{{1,63}}{_DOT}){{1,8}}[^\W\d_]{{2,24}}(?![\w-])")
_IPV4 = re.compile(r"(?<![\w.+/§-])(?:\d{1,3}\.){3}\d{1,3}(?![\w+-]|\.\d)")
_IPV6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:])")
_VERSION = re.compile(r"(?:\bv|version|release|firmware|build|section|chapter|kernel)\W{0,3}$", re.IGNORECASE)
_CARD = re.compile(r"(?<![\w.,+-])(?:[3-6]|2[2-7])\d{2,3}(?:\d{9,15}|([ \u00a0-])\d{4}\1\d{4}\1\d{4}|([ \u00a0-])\d{6}\2\d{5})(?![\w-]|[.,]\d)")
_IBAN = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?:[ \u00a0]?[A-Z0-9]{4}){2,7}(?:[ \u00a0]?[A-Z0-9]{1,3})?(?!\w)")
_PHONE = re.compile(r"(?<![\w.,/:=#$€£-])(?:\+|\(\+?)?\d(?:[ \u00a0().\-/\u2010-\u2013]{0,3}\d){6,40}+(?![\w%=-]|[.,:/]?\d)")
_CALL = re.compile(r"(?:\b(?:tel|telephone|telefono?|teléfono|téléphone|phone|mobile|mobil|handy|cell|fax|call|whatsapp|sms)\b|[☎☏📞📱✆])"
                   r"[^\w\n]{0,4}(?:(?:us|me|number|no|nr|at|on)\b[^\w\n]{0,3}){0,2}$", re.IGNORECASE)  # fmt: skip
_BEFORE = 32  # characters in front of a candidate that are looked at
_SMALL = 32  # four numbers that are all below are a version or a section
_PRIVATE = [ipaddress.ip_network(name) for name in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "0.0.0.0/8", "fc00::/7")]
_GLOBAL_V6 = ipaddress.ip_network("2000::/3")


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
    for match in _EMAIL.finditer(text):
        yield Found(*match.span(), EMAIL)
    for pattern in (_IPV4, _IPV6):
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
    """Whether it is an address that could be a person's: not a private network's, a mask or a version."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if address.version == 6:
        return address in _GLOBAL_V6
    small = all(part < _SMALL for part in address.packed)
    special = address.is_loopback or address.is_link_local or address.is_multicast or address.is_reserved
    return not (small or special or any(address in network for network in _PRIVATE[:-1]))


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
    candidate = text[start:end]
    international, bracketed = "+" in candidate[:2], candidate.startswith("(")
    if not (called or international or bracketed or re.search(r"\d{3}", candidate)) or (candidate.isdecimal() and not called):
        return
    leniency = Leniency.POSSIBLE if called else Leniency.VALID if international or bracketed else Leniency.STRICT_GROUPING
    for region in regions[:1] if international else regions:
        found = [Found(start + match.start, start + match.end, TELEPHONE) for match in PhoneNumberMatcher(candidate, region, leniency)]
        if found:
            yield from found
            return
