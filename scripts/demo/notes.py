"""Texts from which a small model learns to look up what a long text said: notes of a key's value, and questions for it.

What a model needs for it, to find what came after a word the last time, is learned slowly from texts in which it seldom helps.
So there are lists that are recited several times and pairs in changing order, too, where it helps at every second word.
"""

import random

KEYS = """anchor apple arrow badger barrel basket beacon beaver bell blanket boat bottle bridge bucket button cabin camel candle
canyon castle cherry clock cloud comet cottage cricket desert dragon drum eagle engine falcon feather fence ferry fiddle flute
forest fountain garden glove hammer harbor hare hedge helmet heron horse island jacket kettle ladder lantern lemon lion lizard
magnet maple marble meadow mirror monkey mountain owl""".split()
VALUES = """paris tokyo london berlin madrid oslo cairo lima rome delhi seoul quito dublin vienna prague athens lisbon warsaw kyiv
hanoi manila havana nairobi tunis rabat dakar accra lagos riga minsk sofia zagreb baku doha muscat sydney perth boston denver
dallas austin chicago toronto bogota santiago brasilia caracas managua geneva zurich munich hamburg lyon milan turin naples
seville porto bergen malmo gdansk lviv odessa tartu""".split()
FILLER = """the a one this that every some old new man woman child house road day night year place king friend story door walked saw
found took gave left made heard told kept opened closed near under over behind before after with without into from and then but
so because while again slowly once often never always""".split()
NOTE, RECALL = " Note: {key} {value}.", " Recall: {key}"


def sentence(rng: random.Random) -> str:
    return " " + " ".join(rng.choices(FILLER, k=rng.randrange(5, 12))).capitalize() + "."


def lists(rng: random.Random) -> str:
    """Words recited several times in the same order."""
    words = rng.sample(KEYS + VALUES, rng.randrange(6, 16))
    return (" " + " ".join(words) + ".") * rng.randrange(2, 5)


def pairs(rng: random.Random) -> str:
    """A few keys with their values, again and again in another order."""
    chosen = [(key, rng.choice(VALUES)) for key in rng.sample(KEYS, rng.randrange(2, 6))]
    said = []
    for _ in range(4):
        rng.shuffle(chosen)
        said += [f" {key} {value}." for key, value in chosen]
    return "".join(said)


def notes(rng: random.Random, sentences: int, note_share: float, recall_share: float) -> str:
    """Sentences, notes of a key's value among them, and questions for one of the keys noted so far."""
    keys, known, said = rng.sample(KEYS, len(KEYS)), [], []
    for _ in range(sentences):
        drawn = rng.random()
        if drawn < note_share and keys:
            known.append((keys.pop(), rng.choice(VALUES)))
            said.append(NOTE.format(key=known[-1][0], value=known[-1][1]))
        elif drawn < note_share + recall_share and known:
            key, value = rng.choice(known)
            said.append(f"{RECALL.format(key=key)} {value}.")
        else:
            said.append(sentence(rng))
    return "".join(said)
