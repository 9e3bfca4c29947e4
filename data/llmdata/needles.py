"""Needles in a haystack: questions about a sentence that was planted in a long text of the user's.

The form is that of RULER's "multi-key" needles, with words of our own: a key has a value, other keys have other values, and all
of them stand somewhere in the text. The question at its end names one key. Its value is the right ending, the others' values
are the wrong ones.
"""

import random
import re
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Callable, Iterator

import numpy as np

from .documents import read_pieces
from .errors import InputError
from .eval_set import WHOLE_DEPTH, Ending, Item
from .text_file import read_text_lines

SENTENCE = "The secret number of the {key} is {value}."
QUESTION = "\n\nWhat is the secret number of the {key}? The secret number of the {key} is"
ADJECTIVES = """amber ancient brave bright calm clever copper crimson curious dusty early faded gentle golden happy heavy hidden
hollow humble jolly lively lonely lucky marble mellow misty narrow noble patient pearly polite proud purple quick quiet rusty
shiny silent silver sleepy smooth snowy spotted steady striped sunny velvet wandering wooden young""".split()
NOUNS = """anchor badger balloon basket beacon bicycle bottle bridge camel candle canyon castle cello comet compass cottage
dragon drum eagle ferry fiddle forest fountain garden glacier harbor hedgehog island kettle ladder lantern lighthouse meadow
mill mirror mountain orchard otter owl parrot pebble piano river robin saddle scarf teapot tower turtle violin""".split()
DIGITS = 7
HAYSTACK_CHARS = 1 << 23  # so much of the texts is read
PIECE_CHARS = 1 << 14
SENTENCE_END = re.compile(r"(?<=[.!?。！？])(?=\s)|(?<=\n)(?=[^\n])")  # what follows begins with its white space
Encode = Callable[[list[str]], list[list[int]]]  # texts to their tokens, without special ones


@dataclass
class NeedleOptions:
    depths: int
    trials: int  # at each depth
    distractors: int
    seed: int
    sentence: str = SENTENCE
    question: str = QUESTION
    keys: list[str] | None = None  # None: adjectives and nouns
    values: list[str] | None = None  # None: numbers of 7 digits


@dataclass
class Haystack:
    """The texts, sentence by sentence; `ends` has the number of tokens up to each one's end."""

    sentences: list[list[int]]
    ends: list[int]


def read_haystack(paths: list[Path], encode: Encode) -> Haystack:
    texts, chars = [], 0
    for path in paths:
        for piece in read_pieces(path, PIECE_CHARS):
            texts += SENTENCE_END.split(piece.text + "\n\n" * piece.last)
            chars += len(piece.text)
            if chars >= HAYSTACK_CHARS:
                break
        if chars >= HAYSTACK_CHARS:
            break
    sentences = [ids for ids in encode(texts) if ids]
    return Haystack(sentences, list(accumulate(map(len, sentences))))


def read_words(path: Path, least: int) -> list[str]:
    words = [line.strip() for _, line in read_text_lines(path)]
    words = list(dict.fromkeys(word for word in words if word))
    if len(words) < least:
        raise InputError(f"{path}: {len(words)} different lines, expected at least {least}, one more than --needle-distractors")
    return words


def depths_of(count: int) -> list[int]:
    """Evenly from the beginning to the end, in hundredths of a percent; one alone lies in the middle."""
    if count == 1:
        return [WHOLE_DEPTH // 2]
    return [round(WHOLE_DEPTH * i / (count - 1)) for i in range(count)]


def make_items(haystack: Haystack, length: int, options: NeedleOptions, prefix: int, encode: Encode) -> Iterator[Item]:
    """Items of `length` tokens each, context and endings together. prefix: the token that begins a text."""
    rng = random.Random(f"{options.seed} {length}")
    for depth in depths_of(options.depths):
        for _ in range(options.trials):
            yield _item(haystack, length, depth, options, prefix, encode, rng)


def _item(haystack: Haystack, length: int, depth: int, options: NeedleOptions, prefix: int, encode: Encode, rng) -> Item:
    count = options.distractors + 1
    keys, values = _draw_keys(options, count, rng), _draw_values(options, count, rng)
    planted = [" " + options.sentence.replace("{key}", key).replace("{value}", value) for key, value in zip(keys, values)]
    question = options.question.replace("{key}", keys[0])
    *needles, asked = encode([*planted, question])
    answers = [ids[len(asked) :] for ids in encode([f"{question} {value}" for value in values])]
    if not all(answers):
        raise InputError(f"the value {values[0]!r} has no token of its own after the question")
    around = 1 + sum(map(len, needles)) + len(asked) + sum(map(len, answers))
    if around >= length:
        raise InputError(f"--needle-lengths {length}: needles, question and answers take {around} tokens, expected a greater length")
    sentences = _window(haystack, length - around, rng)
    text = _plant(sentences, needles, depth, rng)
    order = list(range(count))
    rng.shuffle(order)
    endings = [Ending(answers[i], len(values[i]), len(values[i].encode())) for i in order]
    return Item(np.array([prefix, *text, *asked], np.uint32), endings, order.index(0), depth)


def _draw_keys(options: NeedleOptions, count: int, rng) -> list[str]:
    if options.keys is not None:
        return rng.sample(options.keys, count)
    return [f"{adjective} {noun}" for adjective, noun in zip(rng.sample(ADJECTIVES, count), rng.sample(NOUNS, count))]


def _draw_values(options: NeedleOptions, count: int, rng) -> list[str]:
    if options.values is not None:
        return rng.sample(options.values, count)
    return [str(number) for number in rng.sample(range(10 ** (DIGITS - 1), 10**DIGITS), count)]


def _window(haystack: Haystack, tokens: int, rng) -> list[list[int]]:
    """Sentences of exactly so many tokens, from any place on where that many follow; the last one is cut."""
    whole = haystack.ends[-1] if haystack.ends else 0
    if whole < tokens:
        raise InputError(f"the texts have {whole} tokens, expected at least {tokens} for needles of this length")
    found: list[list[int]] = []
    at = rng.randrange(bisect_right(haystack.ends, whole - tokens) + 1)
    while tokens > 0:
        found.append(haystack.sentences[at][:tokens])
        tokens -= len(found[-1])
        at += 1
    return found


def _plant(sentences: list[list[int]], needles: list[list[int]], depth: int, rng) -> list[int]:
    """The first needle stands at the sentence's end that is nearest to the depth, the others anywhere."""
    ends = [0, *accumulate(map(len, sentences))]
    target = ends[-1] * depth / WHOLE_DEPTH
    nearest = min(range(len(ends)), key=lambda i: abs(ends[i] - target))
    places = [nearest, *(rng.randrange(len(ends)) for _ in needles[1:])]
    text = []
    for i in range(len(ends)):
        if i > 0:
            text += sentences[i - 1]
        for place, needle in zip(places, needles):
            if place == i:
                text += needle
    return text
