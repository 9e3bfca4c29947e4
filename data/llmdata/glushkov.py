"""Which characters can be neighbours inside a match of a regular expression.

Glushkov's construction: the expression becomes a list of positions, each of which matches one character, and for each position
the set of positions that may follow it. Where the expression is not understood exactly these sets are too large, never too
small, or Unknown is raised. Which characters a position matches is asked of the engine that the tokenizer itself uses.
"""

import re
from dataclasses import dataclass, field
from functools import lru_cache

from tokenizers import Regex, pre_tokenizers


class Unknown(Exception):
    """A part of a tokenizer whose effect at a cut is not known."""


# One character: an escape (of a class, or of a character that stands for itself), or a character without special meaning.
_ESCAPE = re.compile(r"\\(?:[sSdDwWrntf]|[pP]\{\^?\w+\}|[!-/:-@\[-`{-~])", re.ASCII)
_PLAIN = re.compile(r"[^\\\[\](){}^$|?*+]")
_CLASS = re.compile(r"\[(?!\^?\])")
_REPEAT = re.compile(r"[?*+]|\{\d+(?:,\d*)?\}|\{,\d+\}")
# Pairs that a single letter may match where case is ignored, as ß matches "ss".
_LIGATURES = {"ff", "fi", "fl", "ss", "st"}


@dataclass
class _Node:
    """A part of the expression. `looks`: it may look ahead before it consumes a character."""

    nullable: bool
    first: set[int] = field(default_factory=set)
    last: set[int] = field(default_factory=set)
    looks: bool = False


class Pattern:
    """`between(a, b)` says what matches of the expression do between two neighbours a and b in any text."""

    def __init__(self, source: str):
        self._source, self._at = source, 0
        self._atoms: list[str] = []
        self._follow: list[set[int]] = []
        self._ahead: set[int] = set()  # positions after which the expression may look ahead
        whole = self._alternatives(ignore_case=False)
        if self._at < len(source) or whole.nullable:
            raise Unknown
        self._check_ligatures()
        self._tests = [_matches_one(atom) for atom in self._atoms]
        self._whole = _matches_one(source)
        self._positions = lru_cache(1 << 14)(self._find_positions)

    @classmethod
    def literal(cls, text: str) -> "Pattern":
        return cls(re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", text))

    def touches(self, character: str) -> bool:
        return bool(self._positions(character))

    def between(self, a: str, b: str) -> bool | None:
        """True: a match always ends between them. False: a is never part of a match. None: not known.

        If no position that matches b may follow one that matches a, no match crosses: those before b are found as if the text
        ended there (unless they look ahead), and those from b on as if it began there, since nothing looks back.
        """
        here = self._positions(a)
        if not here:
            return False
        if here & self._ahead or any(self._follow[position] & self._positions(b) for position in here):
            return None
        return True if self._whole(a) else None

    def _find_positions(self, character: str) -> frozenset[int]:
        return frozenset(position for position, matches in enumerate(self._tests) if matches(character))

    # ---- parsing

    def _peek(self, text: str) -> bool:
        return self._source.startswith(text, self._at)

    def _take(self, text: str) -> bool:
        found = self._peek(text)
        self._at += len(text) * found
        return found

    def _scan(self, pattern: re.Pattern) -> str | None:
        match = pattern.match(self._source, self._at)
        if match is None:
            return None
        self._at = match.end()
        return match.group()

    def _alternatives(self, ignore_case: bool) -> _Node:
        node = self._sequence(ignore_case)
        while self._take("|"):
            other = self._sequence(ignore_case)
            nullable, looks = node.nullable or other.nullable, node.looks or other.looks
            node = _Node(nullable, node.first | other.first, node.last | other.last, looks)
        return node

    def _sequence(self, ignore_case: bool) -> _Node:
        node = _Node(nullable=True)
        while self._at < len(self._source) and not self._peek("|") and not self._peek(")"):
            node = self._chain(node, self._repeated(ignore_case))
        return node

    def _chain(self, node: _Node, then: _Node) -> _Node:
        self._link(node, then)
        return _Node(
            node.nullable and then.nullable,
            node.first | then.first if node.nullable else node.first,
            node.last | then.last if then.nullable else then.last,
            node.looks or (node.nullable and then.looks),
        )

    def _link(self, node: _Node, then: _Node) -> None:
        for position in node.last:
            self._follow[position] |= then.first
        if then.looks:
            self._ahead |= node.last

    def _repeated(self, ignore_case: bool) -> _Node:
        node = self._single(ignore_case)
        while mark := self._scan(_REPEAT):
            if mark != "?":
                self._link(node, node)
            node.nullable |= mark in "?*" or mark.startswith(("{0", "{,"))
        return node

    def _single(self, ignore_case: bool) -> _Node:
        if self._take("(?i:"):
            return self._group(ignore_case=True)
        if self._take("(?=") or self._take("(?!"):
            return self._look_ahead(ignore_case)
        if self._take("(?:") or (self._peek("(") and not self._peek("(?") and self._take("(")):
            return self._group(ignore_case)
        if self._take("$"):  # looks ahead for the end of the line
            return _Node(nullable=True, looks=True)
        return self._position(ignore_case)

    def _group(self, ignore_case: bool) -> _Node:
        node = self._alternatives(ignore_case)
        if not self._take(")"):
            raise Unknown
        return node

    def _look_ahead(self, ignore_case: bool) -> _Node:
        """A look-ahead at a single character; longer ones are Unknown."""
        count = len(self._atoms)
        inner = self._group(ignore_case)
        if inner.nullable or inner.looks or any(self._follow[count:]):
            raise Unknown
        return _Node(nullable=True, looks=True)

    def _position(self, ignore_case: bool) -> _Node:
        atom = self._scan(_ESCAPE) or self._scan(_PLAIN) or self._class()
        if ignore_case:
            if not re.fullmatch(r"[ -~]", atom):
                raise Unknown
            atom = f"(?i:{atom})"
        self._atoms.append(atom)
        self._follow.append(set())
        position = len(self._atoms) - 1
        return _Node(nullable=False, first={position}, last={position})

    def _class(self) -> str:
        start, depth = self._at, 0
        while True:
            if self._scan(_CLASS):
                depth += 1
            elif depth and self._take("]"):
                depth -= 1
            elif not depth or not self._scan(re.compile(r"\\.|[^\[\]\\]", re.DOTALL)):
                raise Unknown
            if depth == 0:
                return self._source[start : self._at]

    def _check_ligatures(self) -> None:
        for atom, follow in zip(self._atoms, self._follow):
            for after in follow:
                pair = atom + self._atoms[after]
                if "(?i:" in pair and re.sub(r"\(\?i:(.)\)", r"\1", pair).lower() in _LIGATURES:
                    raise Unknown


def _matches_one(source: str):
    """A function that says whether the expression matches a character."""
    try:
        splitter = pre_tokenizers.Split(Regex(source), "removed")
    except Exception:  # the library raises bare Exception
        raise Unknown from None
    return lambda character: not splitter.pre_tokenize_str(character)
