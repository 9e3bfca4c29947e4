"""Mixtures of sources against what must hold of them: shares, every window once an epoch, the same rows on any number of ranks.

Every token of the files is an id of its own (mixtures.write_sources), so that a row tells which source's windows it is."""

import os
import shutil
from ctypes import byref, c_int, c_uint64, c_void_p

import numpy as np
import pytest

from hostlib import FAULT, INPUT, LoaderSpec, batch_at, call, expect_refusal, fresh_random, library, path_bytes, pointer, write_shard
from mixtures import FIELDS, Mixture, MixtureCursor, OrderPlace, SourceOrder, source_list, write_sources

import loaders

pytestmark = pytest.mark.checked

BLOCK = 64
LENGTHS = (8, 16, 32, 64)  # of windows


class Text:
    """Sources and where their windows come from."""

    def __init__(self, folder, lengths):
        self.folder, self.lengths, self.names = folder, lengths, list(lengths)
        self.begins, self.vocab = write_sources(folder, lengths)
        firsts = [first for name in self.names for first in self.begins[name]]
        owners = [i for i, name in enumerate(self.names) for _ in self.begins[name]]
        self.firsts, self.owners = np.array(firsts), np.array(owners)

    def opened(self, max_epochs=None, seed=5, block=BLOCK):
        limits = dict.fromkeys(self.names, 0) | (max_epochs or {})
        return Mixture(self.folder, limits, block, seed, self.vocab)

    def sources(self, rows):
        """The source of each row, by its first token."""
        return self.owners[np.searchsorted(self.firsts, rows, side="right") - 1]

    def positions(self, name):
        """Positions of an epoch: every token but each shard's last."""
        return sum(length - 1 for length in self.lengths[name])

    def windows(self, name, T):
        return sum((length - 1) // T for length in self.lengths[name])

    def all_windows(self, name, T):
        """First tokens of the windows of T of shards that are cut from their begin."""
        shards = zip(self.begins[name], self.lengths[name])
        return [first + w * T for first, length in shards for w in range((length - 1) // T)]


def random_text(folder, rng, count):
    """Sources of several shards, some of them shorter than a block, each of at least one whole block."""
    lengths = {}
    for i in range(count):
        shards = [int(n) for n in rng.integers(2, 6 * BLOCK, rng.integers(1, 6))]
        lengths[f"source{i}"] = [*shards, int(rng.integers(BLOCK + 1, 8 * BLOCK))]
    return Text(folder, lengths)


def shares(weights, at_end, rows):
    """[rows, sources] the shares of each row: linear between those at both ends, by the middle of the row."""
    first, last = (np.array(w, float) / np.sum(w) for w in (weights, weights if at_end is None else at_end))
    x = (np.arange(rows)[:, None] + 0.5) / rows
    return first * (1 - x) + last * x


def most_off(count):
    """No rule that serves the one furthest behind lets one of n fall behind by more than 1 + 1/2 + ... + 1/(n - 1), or be ahead by 1."""
    return 1 + sum(1 / i for i in range(1, count)) + 1e-6


# ---- Shares


@pytest.mark.parametrize("count", range(2, 8))
@pytest.mark.parametrize("linear", [False, True])
def test_realised_shares(tmp_path, count, linear):
    rng, rows = fresh_random(), 10_000
    text = random_text(tmp_path, rng, count)
    weights, at_end = rng.random(count) ** 3, rng.random(count) ** 3 if linear else None
    with text.opened() as mixture:
        mixture.begin(rows, 8, weights, at_end)
        read = text.sources(mixture.read(B=500))
        wanted = shares(weights, at_end, rows).cumsum(axis=0)
        realised = (read[:, None] == np.arange(count)).cumsum(axis=0)
        assert abs(realised[-1] - wanted[-1]).max() <= 0.001 * rows
        assert abs(realised - wanted).max() <= most_off(count)  # and everywhere before
        assert mixture.tokens(rows) == list(8 * realised[-1])
        row = int(rng.integers(rows))
        assert mixture.tokens(row) == list(8 * (realised[row - 1] if row else 0 * realised[0]))
        assert np.allclose(mixture.doubles("mixture_shares", row), shares(weights, at_end, rows)[row], atol=1e-12)


def test_shares_over_many_short_spans(tmp_path):
    """Of spans that are too short for a row of a small source, it has its rows all the same; in tokens, whatever T."""
    rng = fresh_random()
    text, weights = random_text(tmp_path, rng, 3), [0.03, 0.27, 0.7]
    tokens = 0
    with text.opened() as mixture:
        for _ in range(400):
            rows, T = int(rng.integers(1, 4)), int(rng.choice(LENGTHS))
            mixture.begin(rows, T, weights)
            tokens += rows * T
            off = np.array(mixture.tokens(rows)) - tokens * np.array(weights)
            assert abs(off).max() <= most_off(3) * BLOCK, off


def test_very_small_and_no_weights(tmp_path):
    rng, rows = fresh_random(), 10_000
    text = random_text(tmp_path, rng, 5)
    with text.opened() as mixture:
        weights = [1, 1e-300, 0, 1e-3, 1], [1, 1e-300, 0, 1e-3, 0]
        mixture.begin(rows, 8, *weights)
        counts = np.bincount(text.sources(mixture.read(B=500)), minlength=5)
        assert counts[1] == counts[2] == 0
        assert abs(counts - shares(*weights, rows).sum(axis=0)).max() <= most_off(5)
        before = mixture.position(rows)
        mixture.begin(rows, 8, [0, 0, 1, 0, 0])  # a source alone, which had none until now
        assert (text.sources(mixture.read(B=500)) == 2).all()
        after = mixture.position(rows)
        for source in (0, 1, 3, 4):  # what has no weight stays where it is
            mixture.begin(1, 8, [0, 0, 1, 0, 0], at=before)
            unread = mixture.position(1)[source]
            mixture.begin(1, 8, [0, 0, 1, 0, 0], at=after)
            assert mixture.position(1)[source] == unread


def test_ten_million_rows_are_counted(tmp_path):
    rows = 10**7
    text = random_text(tmp_path, fresh_random(), 3)
    with text.opened() as mixture:
        mixture.begin(rows, 8, [1, 2, 3], [3, 2, 1])
        tokens = np.array(mixture.tokens(rows))
        assert tokens.sum() == 8 * rows and abs(tokens / 8 - rows / 3).max() <= most_off(3)
        assert len(mixture.read(rows - 100, 100)) == 100


# ---- No window twice in an epoch, and none lost


def count_reads(text, name, rows, T, counts):
    """counts [tokens of all files] += 1 for every position that the source's rows read."""
    for first in rows[text.sources(rows) == text.names.index(name)]:
        counts[first : first + T] += 1


def unread(text, name, counts, epochs):
    """[positions of the source] how often each was not read in so many epochs; the shards' last tokens are no positions."""
    parts = [counts[first : first + length - 1] for first, length in zip(text.begins[name], text.lengths[name])]
    return epochs - np.concatenate(parts)


@pytest.mark.parametrize("T", LENGTHS)
def test_every_window_once_an_epoch(tmp_path, T):
    """Over spans of any numbers of rows, that is stages and ramps of the batch."""
    rng, epochs = fresh_random(), 3
    text = random_text(tmp_path, rng, 2)
    windows, orders = text.all_windows("source0", T), []
    with text.opened() as mixture:
        read = []
        while sum(map(len, read)) < epochs * len(windows):
            mixture.begin(int(rng.integers(1, 2 * len(windows))), T, rng.random(2) + 0.1)
            rows = mixture.read()
            read.append(rows[text.sources(rows) == 0])
    read = np.concatenate(read)
    for epoch in range(epochs):
        order = read[epoch * len(windows) : (epoch + 1) * len(windows)]
        assert sorted(order) == windows, "an epoch has each window once"
        orders.append(tuple(order))
    if len(windows) > 20:
        assert len({*orders, tuple(windows)}) == epochs + 1, "each in an order of its own"


@pytest.mark.parametrize("growing", [True, False])
def test_nothing_twice_and_nothing_lost_over_changes_of_length(tmp_path, growing):
    """To the end of what max_epochs allows: each position is read at most so often, and all that was not is counted."""
    rng, epochs = fresh_random(), 3
    text = random_text(tmp_path, rng, 2)
    counts, passed, Ts = np.zeros(text.vocab, int), [0], []
    with text.opened({"source0": epochs}) as mixture:
        exhausted = -1
        while exhausted < 0:
            Ts.append(LENGTHS[min(len(Ts), 3)] if growing else int(rng.choice(LENGTHS)))
            mixture.begin(int(rng.integers(1, 60)), Ts[-1], [1, 0.1])
            passed.append(mixture.passed_over()[0])
            exhausted = mixture.exhausted()[0]
            count_reads(text, "source0", mixture.read(), Ts[-1], counts)
            assert counts.max() <= epochs
        mixture.begin(1, 8, [0, 1])
        passed.append(mixture.passed_over()[0])
    missed = unread(text, "source0", counts, epochs)
    shards = len(text.lengths["source0"])
    tails = epochs * shards * (BLOCK - 1)
    assert (missed >= 0).all() and missed.sum() <= tails + len(Ts) * (BLOCK - 1), (missed.sum(), Ts)
    assert (np.diff(passed) >= 0).all() and 0 <= missed.sum() - passed[-1] < shards * BLOCK  # those behind the last window


def test_epochs_follow_each_other(tmp_path):
    """No position is read for the second time while another, which no change of length passed over, was not for the first."""
    rng = fresh_random()
    text = Text(tmp_path, {"source0": [20 * BLOCK + 1, 7 * BLOCK + 1], "source1": [BLOCK + 1]})
    counts = np.zeros(text.vocab, int)
    with text.opened() as mixture:
        for _ in range(60):
            T = int(rng.choice(LENGTHS[:2]))
            mixture.begin(int(rng.integers(1, 60)), T, [1, 0.2])
            for row in range(mixture.rows):
                count_reads(text, "source0", mixture.read(row, 1), T, counts)
                lowest = unread(text, "source0", counts, counts.max())
                assert (lowest >= 2).sum() <= (BLOCK - 1) * 60  # passed over twice: only where lengths changed


@pytest.mark.parametrize("T", LENGTHS)
def test_a_span_that_is_left_in_its_middle(tmp_path, T):
    """The cursors of any row begin another span of the same length with nothing lost, however often."""
    rng, epochs = fresh_random(), 2
    text = random_text(tmp_path, rng, 2)
    read, at = [], None
    limits = {"source0": epochs}
    while True:
        with text.opened(limits) as mixture:
            mixture.begin(200, T, rng.random(2) + 0.1, at=at)
            exhausted = mixture.exhausted()[0]
            row = int(rng.integers(1, 201)) if exhausted < 0 else 200
            read.append(mixture.read(0, row))
            at = mixture.position(row)
            assert at[0][FIELDS.index("tokens")] == T * sum((text.sources(rows) == 0).sum() for rows in read)
            if exhausted >= 0:
                break
    rows = np.concatenate(read)
    rows = rows[text.sources(rows) == 0]
    windows = text.all_windows("source0", T)
    assert sorted(rows) == sorted(epochs * windows)
    assert sorted(rows[: len(windows)]) == windows


def test_a_span_that_is_left_in_its_middle_for_another_length(tmp_path):
    """What is left of its range is passed over, and counted."""
    rng, epochs = fresh_random(), 3
    text = random_text(tmp_path, rng, 2)
    counts, at, exhausted = np.zeros(text.vocab, int), None, -1
    while exhausted < 0:
        T = int(rng.choice(LENGTHS))
        with text.opened({"source0": epochs}) as mixture:
            mixture.begin(20, T, [1, 0.1], at=at)
            exhausted = mixture.exhausted()[0]
            row = 20 if exhausted >= 0 else int(rng.integers(21))
            count_reads(text, "source0", mixture.read(0, row), T, counts)
            assert counts.max() <= epochs
            at = mixture.position(row)
    with text.opened({"source0": epochs}) as mixture:
        mixture.begin(1, 8, [0, 1], at=at)
        missed = unread(text, "source0", counts, epochs).sum()
        assert 0 <= missed - mixture.passed_over()[0] < len(text.lengths["source0"]) * BLOCK


@pytest.mark.parametrize("block", [BLOCK // 2, 2 * BLOCK])
def test_a_position_under_other_blocks(tmp_path, block):
    """About as far in the epoch, or at the next one's begin."""
    text = Text(tmp_path, {"a": [100] * 30 + [9000]})
    blocks = sum(-(-(length - 1) // BLOCK) for length in text.lengths["a"])
    for place in range(blocks):
        cursor = dict.fromkeys(FIELDS, 0) | {"epoch": 4, "place": place * BLOCK // block}
        with text.opened(block=block) as mixture:
            mixture.begin(1, 8, [1], at=[tuple(cursor.values())])
            assert abs(mixture.doubles("mixture_epochs", 0)[0] - 4 - place / blocks) < 0.3
            assert mixture.read()[0] < text.vocab


# ---- max_epochs


@pytest.mark.parametrize("most", [0.3, 1, 1.5, 2.75, 7])
@pytest.mark.parametrize("at_end", [None, [0.1, 0.05, 0.35, 0.5]])
def test_a_source_that_is_used_up(tmp_path, most, at_end):
    rng, T, rows = fresh_random(), 8, 10_000
    text = random_text(tmp_path, rng, 4)
    weights = [0.4, 0.3, 0.2, 0.1]
    planned = shares(weights, at_end, rows)
    left = planned * [0, 1, 1, 1] / planned[:, 1:].sum(axis=1, keepdims=True)  # the others' grow in proportion
    allowed = int(most) * text.windows("source0", T) + int((most % 1) * text.windows("source0", T) + 0.5)
    with text.opened({"source0": most}) as mixture:
        mixture.begin(rows, T, weights, at_end)
        read = text.sources(mixture.read(B=500))
        end = mixture.exhausted()
        assert end[1:] == [-1] * 3 and (read == 0).sum() == allowed
        end = end[0]
        assert end == np.flatnonzero(read == 0)[-1] + 1
        assert np.allclose(mixture.doubles("mixture_shares", end), left[end], atol=1e-12)
        assert np.allclose(mixture.doubles("mixture_shares", end - 1), planned[end - 1], atol=1e-12)
        counts = np.bincount(read[end:], minlength=4)
        assert abs(counts - left[end:].sum(axis=0)).max() <= 2 * most_off(4)
        assert abs(mixture.doubles("mixture_epochs", rows)[0] - most) <= 0.5 / text.windows("source0", T) + 1e-9
        mixture.begin(100, T, weights)
        assert mixture.exhausted() == [0, -1, -1, -1] and (text.sources(mixture.read()) != 0).all()


def test_the_end_of_a_fraction_of_an_epoch_over_several_spans(tmp_path):
    rng, T = fresh_random(), 8
    text = random_text(tmp_path, rng, 2)
    windows = text.windows("source0", T)
    with text.opened({"source0": 1.5}) as mixture:
        read = 0
        for _ in range(2 * windows):
            mixture.begin(int(rng.integers(1, 5)), T, [1, 1])
            read += (text.sources(mixture.read()) == 0).sum()
        assert mixture.exhausted()[0] == 0 and read == windows + int(windows / 2 + 0.5)


def test_all_sources_used_up_before_the_end(tmp_path):
    text = Text(tmp_path, {"web": [801], "code": [1601]})
    with text.opened({"web": 1.5, "code": 2}) as mixture:
        mixture.begin(550, 8, [1, 1])
        assert mixture.exhausted()[0] >= 0
        words = ["4400 of 4408 tokens", "web (801 tokens, max_epochs 1.5)", "code (1601 tokens, max_epochs 2)"]
        span = mixture.span(551, 8, [1, 1])
        expect_refusal(INPUT, words, "mixture_begin", mixture.handle, byref(span), (MixtureCursor * 2)())
        mixture.begin(150, 8, [1, 0], at=[(0,) * len(FIELDS)] * 2)
        message = expect_refusal(INPUT, ["0 of 8 tokens", "web (801"], "mixture_begin", mixture.handle,
                                 byref(mixture.span(1, 8, [1, 0])), None)  # fmt: skip
        assert "code" not in message


# ---- A pure function of seed and position


def test_the_same_rows_on_every_split(tmp_path):
    rng = fresh_random()
    text = random_text(tmp_path, rng, 3)
    rows, T = 240, 16
    with text.opened() as mixture:
        mixture.begin(50, 32, [1, 2, 3])
        at = mixture.position(50)
        mixture.begin(rows, T, [1, 2, 3], [3, 2, 1])
        wanted = mixture.read(B=1)
        assert (wanted == mixture.read(B=77)).all()
        for first in rng.integers(0, rows - 7, 20):  # in any order
            assert (wanted[first : first + 7] == mixture.read(int(first), 7)).all()
            mixture.position(int(rng.integers(rows + 1)))  # which is asked at any row
    for world, grad_accum, B in [(1, 1, 12), (2, 3, 2), (3, 1, 4), (4, 3, 1), (1, 12, 1), (5, 2, 3)]:
        by_rank = np.full(rows, -1)
        for rank in range(world):
            with text.opened() as mixture:
                mixture.begin(rows, T, [1, 2, 3], [3, 2, 1], at=at)
                steps = rows // (world * grad_accum * B)
                for step in range(steps // 2 if rank % 2 else 0, steps):  # some begin in the middle
                    for micro in range(grad_accum):
                        first = ((step * grad_accum + micro) * world + rank) * B
                        by_rank[first : first + B] = mixture.read(first, B)
        known = by_rank >= 0
        assert known.sum() >= rows // 2 and (by_rank[known] == wanted[known]).all()


def first_epoch(text, seed, T=8):
    with text.opened(seed=seed) as mixture:
        mixture.begin(2 * text.windows("a", T), T, [1, 1])
        return mixture.read()


def test_seeds_and_names(tmp_path):
    text = Text(tmp_path, {"a": [1000, 700], "b": [1000, 700]})
    rows = first_epoch(text, 1)
    assert (rows == first_epoch(text, 1)).all()
    assert len({tuple(first_epoch(text, seed)) for seed in (0, 1, 2, 2**64 - 1)}) == 4
    by_source = [rows[text.sources(rows) == i] for i in range(2)]
    assert (by_source[0] != by_source[1] - 1700).any(), "two sources have orders of their own"


@pytest.mark.parametrize("block, rows", [(8, 4096), (64, 4096), (64, 256)])
def test_neighbours_in_a_batch_are_not_neighbours_in_the_text(tmp_path, block, rows):
    """As many pairs as chance makes; block 8: all windows of a run have one length. 256 rows: of 32 blocks."""
    T, B, spans = 8, 32, 10
    text = Text(tmp_path, {"a": [4096 * T + 1]})
    pairs, possible = 0, 0
    with text.opened(seed=int(fresh_random().integers(2**63)), block=block) as mixture:
        for _ in range(spans):
            mixture.begin(rows, T, [1])
            windows = mixture.read(B=B) // T
            possible += (np.diff(np.sort(windows)) == 1).sum()
            batches = np.sort(windows.reshape(-1, B), axis=1)
            pairs += (np.diff(batches, axis=1) == 1).sum()
    wanted = possible * (B - 1) / (rows - 1)
    # nearly independent events: 6 deviations never fail by chance
    assert abs(pairs - wanted) <= 6 * np.sqrt(wanted), (pairs, wanted)


def test_the_order_looks_random(tmp_path):
    """Each place of an epoch gets each window equally often (chi-square), though they move in blocks of two."""
    T, count, epochs = 8, 16, 4000
    text = Text(tmp_path, {"a": [T * count + 1]})
    table = np.zeros((count, count))
    with text.opened(seed=int(fresh_random().integers(2**63)), block=2 * T) as mixture:
        mixture.begin(count * epochs, T, [1])
        for order in (mixture.read(B=count * 100) // T).reshape(-1, count):
            table[np.arange(count), order] += 1
    chi = ((table - epochs / count) ** 2 / (epochs / count)).sum()
    # 225 degrees of freedom: mean 225, deviation 21; six deviations never fail by chance
    assert chi < 225 + 6 * 21.3, chi


@pytest.mark.parametrize("n", [1, 2, 3, 5, 16, 17, 64, 65, 1000, 2**40 + 3])
def test_a_permutation_and_its_inverse(n):
    rng = fresh_random()
    key = int(rng.integers(2**63))
    for x in range(n) if n <= 1000 else map(int, rng.integers(n, size=1000)):
        there = library.permutation_at(x, n, key)
        assert there < n and library.permutation_inverse(there, n, key) == x


# ---- The order of one source, of more windows than are shuffled together


class Order:
    """source_order.h, of shards that need not exist."""

    def __init__(self, positions, block, T, key):
        self.order = SourceOrder()
        array = (c_uint64 * len(positions))(*positions)
        call("source_order_create", byref(self.order), array, len(positions), block, key, 0)
        library.source_order_set_length(byref(self.order), T)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        library.source_order_free(byref(self.order))

    def range(self, begin, windows):
        return library.source_order_range(byref(self.order), begin, windows)

    def end(self, taken, range):
        return library.source_order_end(byref(self.order), byref(range), taken)

    def positions(self, place):
        return library.source_order_positions(byref(self.order), place)

    def find(self, range, k):
        shard, first = c_int(), c_uint64()
        library.source_order_find(byref(self.order), byref(range), k, byref(shard), byref(first))
        return shard.value, first.value


def test_more_windows_than_are_shuffled_together():
    """What is shuffled together is read together, so that a range can be left behind each such part with nothing lost."""
    rng, together, rest, T, block = fresh_random(), 2**22, 1000, 16, 128
    shards = [T * together // 2 + 5, 7, T * (together // 2 + 300), T * 690, 9 * T + 3]
    with Order(shards, block, T, int(rng.integers(2**63))) as order:
        windows = sum(length // T for length in shards)
        assert windows == together + rest - 1 and order.order.windows == windows
        whole = order.range(OrderPlace(3, 0, 0), windows)
        last = [order.find(whole, k) for k in range(together, windows)]
        some = [order.find(whole, int(k)) for k in rng.choice(together, 20_000, replace=False)]
        assert len({*last, *some}) == len(last) + len(some)
        for shard, first in last + some:
            assert first % T == 0 and first + T <= shards[shard]
        assert abs(np.mean([shard == 0 for shard, _ in some]) - 0.5) < 0.03  # 8 deviations
        for taken in (1, together - 1, together):
            end = order.end(taken, whole)
            tails = sum(length % T for length in shards)
            assert 0 <= order.positions(end) - 3 * sum(shards) - T * together <= tails
            left = order.range(end, rest - 1)
            assert {order.find(left, k) for k in range(rest - 1)} == set(last)
        end = order.end(windows, whole)
        assert (end.epoch, end.place, end.offset) == (4, 0, 0)


# ---- Batches


def test_batches_against_numpy(tmp_path):
    rng, bos, windows = fresh_random(), 0, {}
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        tokens = rng.integers(1, 1000, 20 * BLOCK)
        tokens[rng.random(len(tokens)) < 0.1] = bos
        write_shard(tmp_path / name / "0.bin", tokens, bos=bos)
        windows |= {tuple(tokens[w : w + 16]): tokens[w : w + 17] for w in range(0, len(tokens) - 16, 16)}
    with Mixture(tmp_path, {"a": 0, "b": 0}, BLOCK, 1, 1000) as mixture:
        for mask in (False, True, False):
            mixture.begin(60, 16, [1, 1], mask=mask)
            for first in range(0, 60, 5):
                arrays, num_targets = mixture.batch(first, 5)
                rows = np.array([windows[tuple(row)] for row in arrays["tokens"]])
                wanted = loaders.reference(rows, mask, bos)
                for name, array in arrays.items():
                    assert (array == wanted[name]).all(), (name, mask)
                assert num_targets == (wanted["targets"] != -1).sum()


def test_shards_of_more_than_2_32_tokens(tmp_path):
    """Sparse files: the windows that hold something are read once, where they stand."""
    T, block = 2**16, 2**20
    count, marked = 2**33 + 5, [0, 2**31, 2**32 + 2**16, 2**33 - 2**16]
    (tmp_path / "a").mkdir()
    path = write_shard(tmp_path / "a" / "0.bin", [], count=count, vocab=10)
    os.truncate(path, 256 + 2 * count)
    with open(path, "r+b") as file:
        for i, first in enumerate(marked):
            file.seek(256 + 2 * first)
            file.write((i + 1).to_bytes(2, "little"))
    windows = (count - 1) // T
    with Mixture(tmp_path, {"a": 1}, block, 3, 10) as mixture:
        mixture.begin(windows, T, [1])
        assert mixture.tokens(windows) == [2**33] and mixture.doubles("mixture_epochs", windows)[0] == 1
        mixture.batch(windows - 1, 1)
        mixture.begin(windows // 2, T, [1], at=[(0,) * len(FIELDS)])
        place = mixture.position(windows // 2)
        mixture.begin(windows - windows // 2, T, [1])
        assert mixture.exhausted() == [-1] and place[0][FIELDS.index("tokens")] == T * (windows // 2)
        mixture.batch(0, 1)


# ---- Refused


class Files:
    """Two sources of one shard each, which a test changes."""

    def __init__(self, folder):
        self.folder = folder
        for name in ("web", "code"):
            (folder / name).mkdir()
            self.write(name)

    def write(self, name, tokens=200, file="train_0.bin", **fields):
        return write_shard(self.folder / name / file, np.arange(tokens) % 900, **fields)

    def refused(self, words, vocab=1000, sha=None, code=INPUT, count=2, block=BLOCK):
        sources = source_list(self.folder, {"web": 0, "code": 0})
        expect_refusal(code, words, "mixture_open", byref(c_void_p()), sources, count, block, 1, vocab, sha)

    def opened(self, block=BLOCK):
        return Mixture(self.folder, {"web": 0, "code": 0}, block, 1, 1000)


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


@pytest.mark.parametrize("words, fields", [
    (["token width is 32", "16"], dict(bits=32)),
    (["vocabulary size is 999", "1000"], dict(vocab=999)),
    (["begin-of-document id is 5", "0"], dict(bos=5)),
    (["SHA-256 0000", "0001020304"], dict(sha=bytes(32))),
])  # fmt: skip
def test_sources_that_do_not_agree(files, words, fields):
    files.refused([files.write("code", **fields), files.folder / "web" / "train_0.bin", *words])


def test_files_that_are_refused(files):
    files.refused(["web/train_0.bin", "SHA-256", "ffffff"], sha=b"\xff" * 32)
    files.refused(["vocabulary size is 1000", "999"], vocab=999)
    files.refused(["0 sources"], count=0)
    files.refused(["blocks of 0"], block=0)
    files.refused([files.write("code", tokens=1), "1 tokens", "at least 2"])
    (files.folder / "code" / "train_0.bin").write_bytes(b"text, no shard" * 30)
    files.refused([files.folder / "code" / "train_0.bin"])
    os.unlink(files.folder / "code" / "train_0.bin")
    files.refused(["source code", files.folder / "code" / "*.bin", "no file"])


@pytest.mark.parametrize("make", [os.symlink, os.link])
def test_a_file_twice(files, make):
    make(files.folder / "web" / "train_0.bin", files.folder / "code" / "train_1.bin")
    files.refused(["web/train_0.bin of source web", "code/train_1.bin of source code"])
    os.unlink(files.folder / "code" / "train_1.bin")
    make(files.folder / "web" / "train_0.bin", files.folder / "web" / "train_1.bin")
    files.refused(["web/train_0.bin of source web", "web/train_1.bin of source web"])


@pytest.mark.parametrize("how", ["same", "link", "copy"])
def test_validation_data_that_a_source_trains_on(files, how):
    files.write("code", tokens=300)
    other, val = files.write("web", 250, "val_0.xin"), files.folder / "web" / "val_1.xin"
    make = {"same": lambda *_: None, "link": os.link, "copy": shutil.copy}[how]
    make(files.folder / "code" / "train_0.bin", val)
    words = [f"{files.folder}/code/train_0.bin" if how == "same" else val, "source web has it", "source code for training"]
    spec = LoaderSpec(B=1, T=8, grad_accum=1, rank=0, world=1, seed=1, document_mask=False, shuffle=True)
    pattern = "code/*.bin" if how == "same" else "web/val_*.xin"
    with files.opened() as mixture:
        with loaders.opened(files.folder, spec, 1000, pattern=pattern) as loader:
            expect_refusal(INPUT, words, "mixture_refuse_overlap", mixture.handle, loader, b"web")
        with loaders.opened(files.folder, spec, 1000, pattern=other.relative_to(files.folder)) as loader:
            call("mixture_refuse_overlap", mixture.handle, loader, b"web")


def test_spans_that_are_refused(files):
    files.write("code", tokens=40, bos=0xFFFFFFFF)
    files.write("web", bos=0xFFFFFFFF)
    with files.opened() as mixture:

        def refused(words, rows=10, T=8, weights=(1, 1), at_end=None, mask=False, **cursor):
            at = (MixtureCursor * 2)(MixtureCursor(), MixtureCursor(**cursor))
            span = mixture.span(rows, T, weights, at_end, mask)
            expect_refusal(INPUT, words, "mixture_begin", mixture.handle, byref(span), at)

        refused(["windows of 24 tokens", "64"], T=24)
        refused(["windows of 0"], T=0)
        refused(["windows of 128"], T=128)
        refused(["0 rows"], rows=0)
        refused(["9007199254740992 rows"], rows=2**53)
        refused(["source code", "-1"], weights=(1, -1))
        refused(["source code", "nan"], weights=(1, float("nan")))
        refused(["add up to 0"], weights=(0, 0))
        refused(["add up to 2 and 0"], at_end=(0, 0))
        refused(["inf"], weights=(1, float("inf")))
        refused(["web/train_0.bin", "begin-of-document"], mask=True)
        refused(["code/train_0.bin: 40 tokens", "source code", "65"], T=64)
        mixture.begin(10, 64, [1, 0], at=[(0,) * len(FIELDS)] * 2)
        for cursor in [dict(epoch=-1), dict(place=1, offset=8), dict(place=-1), dict(offset=64), dict(tokens=-8), dict(offset=-8),
                       dict(windows=2, taken=3, length=8, tokens=24), dict(windows=2, taken=1, length=24, tokens=48),
                       dict(windows=2, taken=1, length=8, tokens=7), dict(windows=2, length=64), dict(windows=-1, length=8),
                       dict(windows=2, taken=-1, length=8), dict(windows=2)]:  # fmt: skip
            refused(["source code: its position"], **cursor)
        mixture.begin(10, 8, [1, 1], at=[(0,) * len(FIELDS)] * 2)


def test_a_bad_id_and_a_shrinking_shard_while_running(files):
    tokens = np.zeros(200)
    tokens[70] = 1500
    write_shard(files.folder / "code" / "train_0.bin", tokens)
    with files.opened() as mixture:
        mixture.begin(24, 8, [0, 1])  # each window
        array = np.zeros(24 * 8, np.int32)
        batch = batch_at(*[pointer(array)] * 4)
        words = [files.folder / "code" / "train_0.bin", "token 70 ", "1500"]
        expect_refusal(INPUT, words, "mixture_fetch", mixture.handle, 0, 24, byref(batch))
        os.truncate(files.folder / "code" / "train_0.bin", 300)
        expect_refusal(FAULT, [files.folder / "code" / "train_0.bin"], "mixture_fetch", mixture.handle, 0, 24, byref(batch))


def test_fingerprints(files):
    def fingerprints():
        with files.opened() as mixture:
            return [library.mixture_fingerprint(mixture.handle, i) for i in range(2)]

    files.write("code", tokens=201)
    first = fingerprints()
    assert first[0] != first[1] and fingerprints() == first
    files.write("code", tokens=202)
    second = fingerprints()
    assert second[0] == first[0] and second[1] != first[1]
