"""Patterns that select modules mean what Python's re.fullmatch says."""

import ctypes
import random
import re

import pytest

from hostlib import library

MODULES = [f"model.layers.{n}.{part}" for n in (0, 1, 10) for part in ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "input_layernorm")]
MODULES += ["model.embed_tokens", "model.norm", "lm_head", "score", "", "a", "aab", "abc-_ 9.x"]
PATTERNS = [
    r".*\.(q_proj|v_proj)", r".*q_proj", r"model\.layers\.(0|1)\..*", r".*\.layers\.[0-9]+\.mlp\..*", r"(?:.*?(?:self_attn|mlp).*?(?:q_proj|up_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn)\.(?:(?:o_proj)))",
    r"^(?!.*mlp).*_proj$", r"^(model(?=\.).*\.(q_proj|up_proj))$", r"(.*\.)?(q_proj|lm_head)", r"(?P<a>.*)\.\w+", r"[^.]+", r"[^]a]*", r"[]a.-]*b?", r"\Alm_head\Z",
    r".*\bq\w*", r"a{2}b", r"a{1,}b?", r"(a|aa|b)*", r"((a*)*)*b", r"a{x", r"\.?", r"", r"|a", r"[\w.]+[^\d\W]\S", r"\D*", r".*\B9\.x|abc-_ \d\.x", r"(a>b)?", r"[a-c]+[-_ ]+9[.]x", r"a{0}",
]  # fmt: skip
NOT_UNDERSTOOD = ["(", ")", "(a", "[", "[a", "*", "a**", "\\", "[b-a]", "a{3,2}", "a{,3}", "a{99999}", "(?P<a"]  # fmt: skip


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
        return f"(?:{draw(depth + 1)}){random.choice(['*', '+', '?', '*?', '{2}', '{1,2}', '{2,}'])}"
    return draw(depth + 1) + draw(depth + 1)


def test_random_patterns(seeded):
    for _ in range(3000):
        pattern, text = draw(), "".join(random.choices("ab.c", k=random.randrange(7)))
        assert fullmatch(pattern, text) == bool(re.fullmatch(pattern, text)), (pattern, text)


@pytest.mark.parametrize("pattern", NOT_UNDERSTOOD)
def test_what_is_not_understood(pattern):
    assert fullmatch(pattern, "a") is None


def test_patterns_that_take_too_long_end():
    assert fullmatch("(a|aa|a)*" * 3 + "[bc]", "a" * 60) is None
