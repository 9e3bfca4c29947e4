"""The loader against numpy: every window once an epoch, on every split of the same global batch."""

import functools
import os
from ctypes import byref, c_void_p

import numpy as np
import pytest

from hostlib import (
    FAULT,
    INPUT,
    batch_at,
    LoaderSpec,
    call,
    expect_refusal,
    fresh_random,
    library,
    path_bytes,
    pointer,
    shard_header,
    write_shard,
)

import loaders

pytestmark = pytest.mark.checked

VOCAB, BOS = 1000, 0
opened = functools.partial(loaders.opened, vocab=VOCAB)


def make_spec(B=2, T=16, grad_accum=1, rank=0, world=1, seed=1, document_mask=False, shuffle=True):
    return LoaderSpec(B, T, grad_accum, rank, world, seed, document_mask, shuffle)


def fetch(loader, spec, step, micro=0):
    arrays = {
        name: np.full((spec.B, spec.T), -9999, np.int32)
        for name in ("tokens", "targets", "doc_start", "order")
    }
    batch = batch_at(*(pointer(array) for array in arrays.values()), num_targets=-9999)
    call("loader_fetch", loader, step, micro, byref(batch))
    return arrays, batch.num_targets


def random_shards(folder, rng, T, lengths=None, bits=16):
    """Shards with documents of every length from 1 (only its BOS); returns their windows of T + 1 tokens."""
    windows = []
    for i, length in enumerate(lengths or [T + 1, 3 * T, int(rng.integers(10 * T, 15 * T)), T + 1 + T // 2]):
        tokens = rng.integers(1, VOCAB, length)
        tokens[rng.random(length) < rng.choice([0.02, 0.3])] = BOS
        write_shard(folder / f"train_{i:03}.bin", tokens, bits=bits, bos=BOS)
        windows += [tokens[w * T : w * T + T + 1] for w in range((length - 1) // T)]
    return np.array(windows)


def window_indices(windows, arrays):
    """Which window each row is; windows of random tokens are told apart by their inputs."""
    table = {tuple(window[:-1]): i for i, window in enumerate(windows)}
    assert len(table) == len(windows)
    return [table[tuple(row)] for row in arrays["tokens"]]


def visit(folder, windows, samples, **options):
    """The windows of samples 0..samples-1, in the order of samples, over all ranks, steps and micro-batches."""
    world, grad_accum, B = (
        options.get(name, default) for name, default in (("world", 1), ("grad_accum", 1), ("B", 2))
    )
    order = np.full(samples, -1)
    steps = -(-samples // (world * grad_accum * B))
    for rank in range(world):
        spec = make_spec(rank=rank, **options)
        with opened(folder, spec) as loader:
            assert library.loader_num_windows(loader) == len(windows)
            for step in range(steps):
                for micro in range(grad_accum):
                    arrays, _ = fetch(loader, spec, step, micro)
                    first = ((step * grad_accum + micro) * world + rank) * B
                    for row, window in enumerate(window_indices(windows, arrays)):
                        if first + row < samples:
                            order[first + row] = window
    return order


@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
def test_every_window_once_an_epoch_on_every_split(tmp_path, seed):
    T = 16
    windows = random_shards(tmp_path, fresh_random(), T)
    count = len(windows)
    epochs = 3
    orders = [
        visit(tmp_path, windows, epochs * count, T=T, seed=seed, world=world, grad_accum=grad_accum, B=B)
        for world, grad_accum, B in [
            (1, 1, 12),
            (2, 3, 2),
            (3, 1, 4),
            (4, 3, 1),
            (1, 12, 1),
            (1, 1, 1),
            (5, 1, 3),
        ]
    ]
    for order in orders:
        assert (order == orders[0]).all()
    by_epoch = orders[0].reshape(epochs, count)
    for epoch in by_epoch:
        assert sorted(epoch) == list(range(count))
    other = visit(tmp_path, windows, epochs * count, T=T, seed=seed ^ 1).reshape(epochs, count)
    # no two orders are the same, of which at least 13 windows have 13!, neither among the epochs nor among those of two seeds
    orders = {tuple(order) for order in (*by_epoch, *other, range(count))}
    assert len(orders) == 2 * epochs + 1


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 16, 17, 63, 64, 65, 257])
def test_permutation_of_any_size(tmp_path, count):
    rng = fresh_random()
    T = 4
    tokens = np.arange(count * T + 1) % 60000
    write_shard(tmp_path / "train_0.bin", tokens, vocab=65536)
    spec = make_spec(B=count, T=T, seed=int(rng.integers(2**63)))
    with opened(tmp_path, spec, vocab=65536) as loader:
        for step in range(3):
            arrays, _ = fetch(loader, spec, step)
            assert sorted(arrays["tokens"][:, 0] // T) == list(range(count))


def test_permutation_looks_random(tmp_path):
    """Neighbours are torn apart and each place gets each window equally often (chi-square)."""
    T, count, epochs = 1, 16, 4000
    write_shard(tmp_path / "train_0.bin", np.arange(count + 1))
    spec = make_spec(B=count, T=T, seed=int(fresh_random().integers(2**63)))
    table = np.zeros((count, count))
    with opened(tmp_path, spec) as loader:
        for step in range(epochs):
            tokens = fetch(loader, spec, step)[0]["tokens"][:, 0]
            table[np.arange(count), tokens] += 1
    chi = ((table - epochs / count) ** 2 / (epochs / count)).sum()
    # 225 degrees of freedom: mean 225, deviation 21; six deviations never fail by chance
    assert chi < 225 + 6 * 21.3, chi


@pytest.mark.parametrize("document_mask", [False, True])
@pytest.mark.parametrize("B, T, bits", [(1, 1, 16), (3, 7, 32), (5, 64, 16), (2, 257, 32)])
def test_batch_against_numpy(tmp_path, B, T, bits, document_mask):
    windows = random_shards(tmp_path, fresh_random(), T, [10 * T + 1, T + 1, 5 * T + 2], bits=bits)
    spec = make_spec(B=B, T=T, document_mask=document_mask, shuffle=False)
    with opened(tmp_path, spec) as loader:
        assert library.loader_num_tokens(loader) == 16 * T + 4 and library.loader_num_shards(loader) == 3
        for step in range(8):
            arrays, num_targets = fetch(loader, spec, step)
            wanted = loaders.reference(windows[np.arange(step * B, step * B + B) % len(windows)], document_mask, BOS)
            for name, array in arrays.items():
                assert (array == wanted[name]).all(), name
            assert num_targets == (wanted["targets"] != -1).sum()


def test_pure_function_of_its_arguments(tmp_path):
    rng = fresh_random()
    random_shards(tmp_path, rng, 16)
    spec = make_spec(B=3, grad_accum=2, seed=9, document_mask=True)
    with opened(tmp_path, spec) as first, opened(tmp_path, spec) as second:
        for step in [10**12, 5, 5, 0, 7]:
            expected, _ = fetch(first, spec, step, 1)
            fetch(second, spec, int(rng.integers(100)), 0)  # what came before does not matter
            for name, array in fetch(second, spec, step, 1)[0].items():
                assert (array == expected[name]).all()


def fingerprint(folder, **options):
    with opened(folder, make_spec(**options)) as loader:
        return library.loader_fingerprint(loader)


def test_fingerprint_tells_sets_apart(tmp_path):
    def build(name, counts, names=("train_0.bin", "train_1.bin"), **fields):
        folder = tmp_path / name
        folder.mkdir()
        for shard, count in zip(names, counts):
            write_shard(folder / shard, np.zeros(count), **fields)
        return fingerprint(folder)

    base = build("a", (100, 200))
    assert build("moved", (100, 200)) == base
    others = [
        build("b", (200, 100)),
        build("c", (100, 201)),
        build("d", (100,)),
        build("e", (100, 200), bits=32),
        build("f", (100, 200), vocab=999),
        build("g", (100, 200), sha=bytes(32)),
        build("h", (100, 200), bos=2),
        build("i", (100, 200), names=("train_0.bin", "train_2.bin")),
    ]
    assert len({base, *others}) == 9
    assert fingerprint(tmp_path / "a", T=8, B=5, seed=77) == base


def test_refused(tmp_path):
    def refused(words, spec=None, vocab=VOCAB, sha=None, pattern="train_*.bin", code=INPUT):
        expect_refusal(
            code,
            words,
            "loader_open",
            byref(c_void_p()),
            path_bytes(tmp_path / pattern),
            byref(spec or make_spec()),
            vocab,
            sha,
        )

    refused([tmp_path / "train_*.bin", "no file"])
    refused(["nowhere"], pattern="nowhere/train_*.bin")
    write_shard(tmp_path / "train_0.bin", np.zeros(100))
    for option in ("B", "T", "grad_accum", "world"):
        refused([f"{option} is 0"], make_spec(**{option: 0}))
        refused([f"{option} is -3"], make_spec(**{option: -3}))
    refused(["rank is 2", "0 to 1"], make_spec(rank=2, world=2))
    refused(["rank is -1"], make_spec(rank=-1))
    refused(["B * T"], make_spec(B=2**20, T=2**20))
    refused(["train_0.bin", "vocabulary size is 1000", "999 (vocab_size in its config.json)", "--vocab-size 999", "--tokenizer",
             "--config with \"vocab_size\": 1000"], vocab=999)  # fmt: skip
    refused(["train_0.bin", "SHA-256", "0001020304", "ffffff"], sha=b"\xff" * 32)
    with opened(tmp_path, make_spec(), sha=bytes(range(32))):
        pass
    refused(["train_0.bin", "100 tokens", "101"], make_spec(T=100))
    with opened(tmp_path, make_spec(T=99)) as loader:
        assert library.loader_num_windows(loader) == 1
    for words, fields in [
        (["token width is 32", "16"], dict(bits=32)),
        (["vocabulary size is 999", "1000"], dict(vocab=999)),
        (["begin-of-document id is 5", "0"], dict(bos=5)),
        (["SHA-256"], dict(sha=bytes(32))),
        (["version is 3"], dict(version=3)),
        (["truncated"], dict(count=101)),
    ]:
        write_shard(tmp_path / "train_1.bin", np.zeros(100), **fields)
        refused([tmp_path / "train_1.bin", *words])
    write_shard(tmp_path / "train_1.bin", np.zeros(16))
    refused([tmp_path / "train_1.bin", "16 tokens", "17"])
    (tmp_path / "train_1.bin").unlink()
    write_shard(tmp_path / "train_0.bin", np.zeros(100), bos=0xFFFFFFFF)
    refused(["train_0.bin", "begin-of-document"], make_spec(document_mask=True))
    with opened(tmp_path, make_spec()):
        pass


def test_bad_id_and_shrinking_shard_while_running(tmp_path):
    tokens = np.zeros(161)
    tokens[70] = 1500
    write_shard(tmp_path / "train_0.bin", np.zeros(17))
    write_shard(tmp_path / "train_1.bin", tokens)
    spec = make_spec(B=1, shuffle=False)
    with opened(tmp_path, spec) as loader:
        array = np.zeros(16, np.int32)
        batch = batch_at(*[pointer(array)] * 4)
        fetch(loader, spec, 4)
        expect_refusal(
            INPUT, ["train_1.bin", "token 70 ", "1500"], "loader_fetch", loader, 5, 0, byref(batch)
        )
        os.truncate(tmp_path / "train_1.bin", 300)
        expect_refusal(FAULT, ["train_1.bin"], "loader_fetch", loader, 6, 0, byref(batch))


def test_windows_beyond_2_31_tokens(tmp_path):
    count, T = 2**32 + 33, 16
    path = tmp_path / "train_0.bin"
    path.write_bytes(shard_header(count))
    os.truncate(path, 256 + 2 * count)
    with open(path, "r+b") as file:
        file.seek(256 + 2 * (2**32 + 16))
        file.write(np.arange(17).astype("<u2").tobytes())
    spec = make_spec(B=1, shuffle=False)
    with opened(tmp_path, spec) as loader:
        windows = library.loader_num_windows(loader)
        assert windows == (count - 1) // T == 2**28 + 2
        arrays, _ = fetch(loader, spec, windows - 1)
        assert (arrays["tokens"][0] == np.arange(16)).all() and (
            arrays["targets"][0] == np.arange(1, 17)
        ).all()
    spec = make_spec(B=1, seed=3)
    with opened(tmp_path, spec) as loader:
        fetch(loader, spec, 12345)
