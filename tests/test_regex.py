"""Patterns that select modules mean what Python's re.fullmatch says."""

import ctypes
import random
import re
import time

import pytest

from hostlib import library

MODULES = [f"model.layers.{n}.{part}" for n in (0, 1, 10) for part in ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "input_layernorm")]
MODULES += ["model.embed_tokens", "model.norm", "lm_head", "score", "", "a", "aab", "abc-_ 9.x"]
PATTERNS = [
    r".*\.(q_proj|v_proj)", r".*q_proj", r"model\.layers\.(0|1)\..*", r".*\.layers\.[0-9]+\.mlp\..*", r"(?:.*?(?:self_attn|mlp).*?(?:q_proj|up_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn)\.(?:(?:o_proj)))",
    r"^(?!.*mlp).*_proj$", r"^(model(?=\.).*\.(q_proj|up_proj))$", r"(.*\.)?(q_proj|lm_head)", r"(?P<a>.*)\.\w+", r"[^.]+", r"[^]a]*", r"[]a.-]*b?", r"\Alm_head\Z",
    r".*\bq\w*", r"a{2}b", r"a{,3}b", r"a{1,}b?", r"(a|aa|b)*", r"((a*)*)*b", r"a{x", r"\.?", r"", r"|a", r"[\w.]+[^\d\W]\S", r"\D*", r".*\B9\.x|abc-_ \d\.x", r"(a>b)?", r"[a-c]+[-_ ]+9[.]x", r"a{0}",
]  # fmt: skip
NOT_UNDERSTOOD = ["(", ")", "(a", "[", "[a", "*", "a**", "a++", "(?i)a", "(?<=a)b", r"(a)\1", "\\", "[b-a]", "a{3,2}", "é", "(?#x)", "(" * 40 + ")" * 40, "a{5000}", r"\q", "(?P<a", r"[a-\d]"]  # fmt: skip


def fullmatch(pattern, text):
    """None: not understood."""
    matches = ctypes.c_bool()
    library.regex_fullmatch.restype = ctypes.c_bool
    known = library.regex_fullmatch(ctypes.byref(matches), ctypes.c_char_p(pattern.encode()), ctypes.c_char_p(text.encode()))
    return matches.value if known else None


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns(pattern):
    for module in MODULES:
        assert fullmatch(pattern, module) == bool(re.fullmatch(pattern, module)), module


def draw(depth=0):
    kind = random.randrange(10 if depth < 4 else 5)
    if kind < 3:
        return random.choice(["a", "b", r"\.", ".", "c"])
    if kind < 5:
        return random.choice(["[ab]", "[^a]", r"\w", r"\b", "$", "^", r"[\w-]", r"\W"])
    if kind == 5:
        return f"{random.choice(['(', '(?:', '(?!', '(?='])}{draw(depth + 1)}|{draw(depth + 1)})"
    if kind == 6:
        return f"(?:{draw(depth + 1)}){random.choice(['*', '+', '?', '*?', '{2}', '{1,2}', '{,2}'])}"
    return draw(depth + 1) + draw(depth + 1)


def test_random_patterns(seeded):
    for _ in range(3000):
        pattern, text = draw(), "".join(random.choices("ab.c", k=random.randrange(7)))
        assert fullmatch(pattern, text) == bool(re.fullmatch(pattern, text)), (pattern, text)


@pytest.mark.parametrize("pattern", NOT_UNDERSTOOD)
def test_what_is_not_understood(pattern):
    assert fullmatch(pattern, "a") is None


def test_long_texts_and_slow_patterns():
    assert fullmatch("a*", "a" * 511) is True and fullmatch("a*", "a" * 512) is None
    begin = time.monotonic()
    assert fullmatch("(a*)*" * 20 + "b", "a" * 400) in (False, None)
    assert fullmatch("(" * 30 + "a" + ")*" * 30 + "b", "a" * 400) in (False, None)
    assert time.monotonic() - begin < 60
