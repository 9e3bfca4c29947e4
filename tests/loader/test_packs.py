"""Batches out of row files: every field against its definition, every row whole and once an epoch on every split."""

import functools
import os
from ctypes import byref, c_void_p

import numpy as np
import pytest

from hostlib import (
    FAULT, INPUT, LoaderSpec, batch_at, call, expect_refusal, fresh_random, library, path_bytes, pointer, write_shard,
)  # fmt: skip


from llmdata import rows  # noqa: E402

import loaders

pytestmark = pytest.mark.checked

VOCAB = 4096
opened = functools.partial(loaders.opened, vocab=VOCAB)
TRAINED, FORMAT = int(rows.TRAINED), int(rows.FORMAT)
DOCUMENTS, TALKS, CHOICES = 0, 1, 2  # LoaderKind; the last two are also the kinds of row files
KINDS = pytest.mark.parametrize("kind", [TALKS, CHOICES], ids=["conversations", "comparisons"])


def make_spec(kind, B=2, T=64, grad_accum=1, rank=0, world=1, seed=1, shuffle=True, once=False, places=False, skip=False):
    return LoaderSpec(B, T, grad_accum, rank, world, seed, False, shuffle, once, kind, places, skip)


def ids(rng, count, *flags):
    return (rng.integers(1, VOCAB // 2, count) | rng.choice(np.array(flags or [0], np.int64), count)).astype(np.uint32)


def draw_row(rng, number, kind, longest):
    """A row of at most `longest` positions whose first token tells its number. Lengths of 1 occur, and rows of `longest`."""
    if kind == TALKS:
        count = longest if rng.random() < 0.1 else rng.integers(2, min(longest, 30) + 1)
        tokens = ids(rng, count, 0, FORMAT, TRAINED, TRAINED | FORMAT)
        tokens[-1] |= np.uint32(TRAINED)
        tokens[0] = VOCAB // 2 + number
        return rows.Row(tokens, [], 0, number + 1)
    answers = int(rng.integers(2, 4))
    most = min(longest, 40) if rng.random() < 0.9 else longest
    lengths = rng.multinomial(int(rng.integers(0, most - 2 * answers + 1)), [1 / (answers + 1)] * (answers + 1))
    prompt = ids(rng, lengths[0] + 1, 0, FORMAT, TRAINED)
    prompt[0] = VOCAB // 2 + number
    parts = [ids(rng, n + 1, TRAINED, 0, TRAINED | FORMAT) for n in lengths[1:]]
    for part in parts:
        part[rng.integers(len(part))] = int(rng.integers(1, VOCAB // 2)) | TRAINED
    return rows.Row(prompt, parts, 0, number + 1)


def write_rows(folder, rng, kind, count=60, longest=64, file_tokens=400, **header):
    """Several files of random rows, all of them in the order of files."""
    made = [draw_row(rng, number, kind, longest) for number in range(count)]
    header = {"sha256": bytes(range(32)), "file_tokens": file_tokens} | header
    names = rows.write(folder, "train", kind, made, VOCAB, **header)
    assert len(names) > 1 or count < 10
    return made


def positions(row):
    return len(row) + len(row.answers) - (len(row.answers) > 0)


def fetch(loader, spec, step, micro=0):
    """The batch's arrays, [B, T] where they have that shape; answers and groups as many as there are."""
    B, T = spec.B, spec.T
    arrays = {name: np.full((B, T), -9999, np.int32) for name in ("tokens", "targets", "doc_start", "order")}
    extra = {
        "excluded": np.full((B, T, 2), -9999, np.int32),
        "answers": np.full((B * T // 2 + 1, 2), -9999, np.int32),
        "groups": np.full((B * T // 2 + 1, 2), -9999, np.int32),
        "answer_numbers": np.full(B * T // 2 + 1, -9999, np.int64),
    }
    comparisons = spec.kind == CHOICES
    pointers = [pointer(array) for array in arrays.values()]
    pointers += [pointer(array) if comparisons else None for array in extra.values()]
    batch = batch_at(*pointers, num_targets=-9999, num_answers=-9999, num_groups=-9999)
    call("loader_fetch", loader, step, micro, byref(batch))
    for name, count in (("answers", batch.num_answers), ("groups", batch.num_groups), ("answer_numbers", batch.num_answers)):
        assert (extra[name][count:] == -9999).all(), name
        extra[name] = extra[name][:count]
    assert comparisons or (batch.num_answers, batch.num_groups) == (0, 0)
    return arrays | (extra if comparisons else {}) | {"num_targets": batch.num_targets}


def rows_of(batch, b, made):
    """[(position, number)] of the rows in row b of a batch, by the first token of each; checks what is left over."""
    T, found, t = batch["tokens"].shape[1], [], 0
    while t < T and batch["tokens"][b, t] != 0:
        number = int(batch["tokens"][b, t]) - VOCAB // 2
        assert 0 <= number < len(made)
        found.append((t, number))
        t += positions(made[number])
    assert t <= T
    assert (batch["tokens"][b, t:] == 0).all() and (batch["targets"][b, t:] == -1).all()
    assert (batch["doc_start"][b, t:] == np.arange(t, T)).all()
    if "excluded" in batch:
        assert (batch["excluded"][b, t:, 0] == batch["excluded"][b, t:, 1]).all()
    return found


def target(token, untrained=0):
    return int(token) & VOCAB - 1 if token & TRAINED and not token & untrained else -1


def id_of(tokens):
    return [int(token) & VOCAB - 1 for token in tokens]


def check_talk(batch, b, start, row):
    n = len(row.prompt)
    assert list(batch["tokens"][b, start : start + n]) == id_of(row.prompt)
    assert list(batch["targets"][b, start : start + n]) == [target(token) for token in row.prompt[1:]] + [-1]
    assert (batch["doc_start"][b, start : start + n] == start).all()


def check_choice(batch, b, start, row, spans):
    """What each position sees, and at which RoPE positions, is what it would see were its answer alone behind the prompt."""
    n, T, p = positions(row), batch["tokens"].shape[1], len(row.prompt)
    owner = np.full(n, -1)
    for k, (first, last) in enumerate(spans):
        assert first // T == last // T == b and last - first == len(row.answers[k])
        owner[first - b * T - start : last - b * T - start + 1] = k
    assert (owner[: p - 1] == -1).all() and (owner[p - 1 :] >= 0).all()
    rope = np.arange(T) - batch["doc_start"][b] - (batch["excluded"][b, :, 1] - batch["excluded"][b, :, 0])
    for i in range(n):
        t = start + i
        assert batch["doc_start"][b, t] == start
        begin, end = batch["excluded"][b, t]
        assert (start <= begin <= end <= t) or begin == end
        seen = [j for j in range(start, t + 1) if not begin <= j < end]
        sequence = id_of(row.prompt) if owner[i] < 0 else id_of(row.prompt) + id_of(row.answers[owner[i]])
        flagged = list(row.prompt) if owner[i] < 0 else [*row.prompt, *row.answers[owner[i]]]
        length = len(seen)
        assert list(batch["tokens"][b, seen]) == sequence[:length]
        assert list(rope[seen]) == list(range(length))
        predicts = target(flagged[length], FORMAT) if owner[i] >= 0 and length < len(flagged) else -1
        assert batch["targets"][b, t] == predicts
        if owner[i] >= 0:
            assert length == p + t - (spans[owner[i]][0] - b * T)


def check_batch(batch, made, spec):
    """Returns the numbers of the rows in it."""
    tokens = batch["tokens"]
    assert (batch["order"].ravel() == np.argsort(tokens.ravel(), kind="stable")).all()
    numbers, group, pairs = [], 0, 0
    first_answer = np.cumsum([0] + [len(row.answers) for row in made])
    for b in range(spec.B):
        for start, number in rows_of(batch, b, made):
            row = made[number]
            numbers.append(number)
            if spec.kind == TALKS:
                check_talk(batch, b, start, row)
                continue
            first, count = batch["groups"][group]
            assert first == sum(len(made[n].answers) for n in numbers[:-1]) and count == len(row.answers)
            check_choice(batch, b, start, row, batch["answers"][first : first + count].tolist())
            assert (batch["answer_numbers"][first : first + count] == first_answer[number] + np.arange(count)).all()
            group += 1
            pairs += count * (count - 1) // 2
    if spec.kind == TALKS:
        assert batch["num_targets"] == (batch["targets"] != -1).sum()
    else:
        assert batch["num_targets"] == pairs and len(batch["groups"]) == group
        assert len(batch["answers"]) == sum(len(made[n].answers) for n in numbers)
    return numbers


@KINDS
@pytest.mark.parametrize("B, T", [(1, 64), (3, 64), (2, 201)])
@pytest.mark.parametrize("places", [False, True])
def test_batches_by_definition(tmp_path, kind, B, T, places):
    made = write_rows(tmp_path, fresh_random(), kind)
    spec = make_spec(kind, B, T, places=places)
    with opened(tmp_path, spec) as loader:
        for step in range(12):
            assert check_batch(fetch(loader, spec, step), made, spec)
        assert library.loader_num_rows(loader) == len(made) and library.loader_num_skipped(loader) == 0
        assert library.loader_num_answers(loader) == sum(len(row.answers) for row in made)
        assert library.loader_num_tokens(loader) == sum(map(len, made))
        share = sum(map(positions, made)) / (library.loader_num_windows(loader) * T)
        assert library.loader_fill(loader) == pytest.approx(share, rel=1e-12) and 0.5 < share <= 1


def packs_of(batch, made, spec):
    return [tuple(number for _, number in rows_of(batch, b, made)) for b in range(spec.B)]


def visit(folder, made, samples, **options):
    """The packs of samples 0..samples-1, each as the numbers of its rows, over all ranks, steps and micro-batches."""
    world, grad_accum, B = (options.get(name, default) for name, default in (("world", 1), ("grad_accum", 1), ("B", 2)))
    packs = [None] * samples
    for rank in range(world):
        spec = make_spec(rank=rank, **options)
        with opened(folder, spec) as loader:
            for step in range(-(-samples // (world * grad_accum * B))):
                for micro in range(grad_accum):
                    first = ((step * grad_accum + micro) * world + rank) * B
                    for row, pack in enumerate(packs_of(fetch(loader, spec, step, micro), made, spec)):
                        if first + row < samples:
                            packs[first + row] = pack
    return packs


@KINDS
def test_every_row_once_an_epoch_on_every_split(tmp_path, kind):
    made = write_rows(tmp_path, fresh_random(), kind)
    with opened(tmp_path, make_spec(kind)) as loader:
        count = library.loader_num_windows(loader)
    splits = [(1, 1, 1), (1, 1, 12), (2, 3, 2), (3, 1, 4), (4, 3, 1), (5, 1, 3)]
    orders = [visit(tmp_path, made, 3 * count, kind=kind, world=w, grad_accum=g, B=B, seed=11) for w, g, B in splits]
    assert all(order == orders[0] for order in orders)
    epochs = [orders[0][i * count : (i + 1) * count] for i in range(3)]
    for epoch in epochs:
        assert sorted(number for pack in epoch for number in pack) == list(range(len(made)))
        assert sorted(epoch) == sorted(epochs[0])  # the same packs
    assert len({tuple(epoch) for epoch in epochs}) == 3
    other = visit(tmp_path, made, count, kind=kind, seed=12)
    assert sorted(other) != sorted(epochs[0])  # rows of one length stand in a drawn order
    assert visit(tmp_path, made, 2 * count, kind=kind, shuffle=False) == 2 * visit(tmp_path, made, count, kind=kind, shuffle=False)


@KINDS
def test_the_seed_orders_every_epoch(tmp_path, kind):
    """Rows of which no two are equally long make the same packs with any seed: there the order alone can differ."""
    rng, made = fresh_random(), []
    for number, length in enumerate(rng.permutation(np.arange(6, 46)).tolist()):
        tokens = ids(rng, length, TRAINED)
        tokens[0] = VOCAB // 2 + number
        made.append(rows.Row(tokens, [], 0, 1) if kind == TALKS else rows.Row(tokens[:-3], [tokens[-3:-1], tokens[-1:]], 0, 1))
    rows.write(tmp_path, "train", kind, made, VOCAB)
    with opened(tmp_path, make_spec(kind)) as loader:
        count = library.loader_num_windows(loader)
    assert count > 13
    orders = []
    for seed in (11, 12, 11, 2**63):
        packs = visit(tmp_path, made, 4 * count, kind=kind, seed=seed)
        orders.append([tuple(packs[i * count : (i + 1) * count]) for i in range(4)])
        assert len({tuple(sorted(epoch)) for epoch in (*orders[0], *orders[-1])}) == 1
    assert orders.pop(2) == orders[0]
    assert len({epoch for of_seed in orders for epoch in of_seed}) == 12


@KINDS
def test_pure_function_of_its_arguments(tmp_path, kind):
    rng = fresh_random()
    write_rows(tmp_path, rng, kind)
    spec = make_spec(kind, 3, grad_accum=2, seed=9, places=True)
    with opened(tmp_path, spec) as first, opened(tmp_path, spec) as second:
        for step in [10**12, 5, 5, 0, 7]:
            expected = fetch(first, spec, step, 1)
            fetch(second, spec, int(rng.integers(100)), 0)  # what came before does not matter
            for name, array in fetch(second, spec, step, 1).items():
                assert np.array_equal(array, expected[name]), name


@KINDS
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("world, B", [(1, 7), (2, 3), (1, 100)])
def test_once_has_every_row_once_and_nothing_behind(tmp_path, kind, shuffle, world, B):
    made = write_rows(tmp_path, fresh_random(), kind)
    seen = []
    for rank in range(world):
        spec = make_spec(kind, B, rank=rank, world=world, shuffle=shuffle, once=True)
        with opened(tmp_path, spec) as loader:
            batches = library.loader_num_batches(loader)
            assert batches == -(-library.loader_num_windows(loader) // B)
            for step in range(-(-batches // world)):
                seen += check_batch(fetch(loader, spec, step), made, spec)
            assert check_batch(fetch(loader, spec, batches), made, spec) == []
    assert sorted(seen) == list(range(len(made)))


def test_once_of_documents(tmp_path):
    write_shard(tmp_path / "train_0.bin", np.arange(1, 42), vocab=VOCAB)  # 5 windows of 8
    spec = make_spec(DOCUMENTS, 3, 8, shuffle=False, once=True)
    with opened(tmp_path, spec) as loader:
        assert library.loader_num_batches(loader) == 2
        assert (fetch(loader, spec, 0)["targets"].ravel() == np.arange(2, 26)).all()
        last = fetch(loader, spec, 1)
        assert (last["targets"][2] == -1).all() and (last["doc_start"][2] == np.arange(8)).all() and last["num_targets"] == 16
    spec.once = False
    with opened(tmp_path, spec) as loader:
        assert library.loader_num_batches(loader) == 1 and fetch(loader, spec, 1)["num_targets"] == 24


def places_of(folder, made, **options):
    """{number of a row: its answers in the order of their places}"""
    spec, places = make_spec(CHOICES, B=4, shuffle=False, places=True, **options), {}
    with opened(folder, spec) as loader:
        for step in range(-(-3 * library.loader_num_windows(loader) // 4)):  # in three epochs
            batch, group = fetch(loader, spec, step), 0
            for b in range(4):
                for _, number in rows_of(batch, b, made):
                    first, count = batch["groups"][group]
                    place = tuple(np.argsort(batch["answers"][first : first + count, 0]))
                    assert places.setdefault(number, place) == place
                    group += 1
    return places


def test_places_are_drawn_of_seed_and_row_alone(tmp_path):
    made = write_rows(tmp_path, fresh_random(), CHOICES, count=600, file_tokens=5000)
    places = places_of(tmp_path, made, seed=1)
    assert places_of(tmp_path, made, seed=1, T=100) == places != places_of(tmp_path, made, seed=2)
    for count, orders in ((2, 2), (3, 6)):
        drawn = [place for place in places.values() if len(place) == count]
        tally = [drawn.count(order) for order in set(drawn)]
        assert len(tally) == orders
        wanted = len(drawn) / orders
        chi = sum((n - wanted) ** 2 / wanted for n in tally)
        assert chi < orders - 1 + 6 * (2 * (orders - 1)) ** 0.5 + 15, tally  # beyond any chance
    spec = make_spec(CHOICES)
    with opened(tmp_path, spec) as loader:
        batch = fetch(loader, spec, 0)
        for first, count in batch["groups"]:
            assert (np.diff(batch["answers"][first : first + count, 0]) > 0).all()  # best first without shuffle_answers


@KINDS
def test_rows_that_are_too_long(tmp_path, kind):
    made = write_rows(tmp_path, fresh_random(), kind)
    lengths = [positions(row) for row in made]
    T = sorted(lengths)[len(lengths) // 2]
    longer = [number for number, length in enumerate(lengths) if length > T]
    assert longer
    spec = make_spec(kind, T=T)
    place, path = 0, None
    for name in sorted(tmp_path.glob("train_*.bin")):
        in_file = rows.read_header(name)["row_count"]
        if longer[0] < place + in_file:
            path = name
            break
        place += in_file
    arguments = ("loader_open", byref(c_void_p()), path_bytes(tmp_path / "train_*.bin"), byref(spec), VOCAB, None)
    words = [f"{path}: row {longer[0] - place + 1} (line {longer[0] + 1} of source 0) takes {lengths[longer[0]]} positions",
             f"sequence length {T};", f"{len(longer)} of {len(made)} rows", f"--seq-len {max(lengths)} at least", "--skip-long"]  # fmt: skip
    expect_refusal(INPUT, words, *arguments)
    (tmp_path / "meta.json").write_text('{"sources": [{"path": "talks.jsonl"}]}')
    expect_refusal(INPUT, [f"(line {longer[0] + 1} of talks.jsonl)"], *arguments)

    spec = make_spec(kind, T=T, skip=True, once=True)
    with opened(tmp_path, spec) as loader:
        assert library.loader_num_rows(loader) == len(made) - len(longer)
        assert library.loader_num_skipped(loader) == len(longer)
        assert library.loader_num_answers(loader) == sum(len(row.answers) for row in made)  # the skipped ones' too
        seen = [n for step in range(library.loader_num_batches(loader)) for n in check_batch(fetch(loader, spec, step), made, spec)]
        assert sorted(seen + longer) == list(range(len(made)))
    spec.T = 1
    expect_refusal(INPUT, [f"all {len(made)} rows", "sequence length 1", f"--seq-len {max(lengths)}"], *arguments[:3], byref(spec), VOCAB, None)


def test_exactly_as_long_as_a_pack(tmp_path):
    for kind in (TALKS, CHOICES):
        rows.write(tmp_path, "train", kind, [draw_row(fresh_random(), 0, kind, 64)], VOCAB)
        row = next(rows.read_rows(tmp_path / "train_000.bin"))
        spec = make_spec(kind, 1, positions(row))
        with opened(tmp_path, spec) as loader:
            assert check_batch(fetch(loader, spec, 0), [row], spec) == [0] and library.loader_fill(loader) == 1


def test_refused(tmp_path):
    def refused(words, kind, vocab=VOCAB, sha=None):
        expect_refusal(INPUT, words, "loader_open", byref(c_void_p()), path_bytes(tmp_path / "train_*.bin"),
                       byref(make_spec(kind)), vocab, sha)  # fmt: skip

    first, second = tmp_path / "train_000.bin", tmp_path / "train_001.bin"
    rng = fresh_random()
    for kind, name, other in ((TALKS, "conversations", CHOICES), (CHOICES, "comparisons", TALKS)):
        write_rows(tmp_path, rng, kind, count=5, file_tokens=10**6)
        refused([first, "a row file of prepare_chat.py", "expected documents"], DOCUMENTS)
        refused([first, f"holds {name}", "expected c"], other)
        refused([first, "vocabulary size is 4096", "model's 4095"], kind, vocab=4095)
        refused([first, "SHA-256 000102", "ffff"], kind, sha=b"\xff" * 32)
        with opened(tmp_path, make_spec(kind), sha=bytes(range(32))):
            pass
        rows.write(tmp_path, "other", other, [draw_row(rng, 0, other, 40)], VOCAB, sha256=bytes(range(32)))
        os.replace(tmp_path / "other_000.bin", second)
        refused([second, "holds", f"expected {name}"], kind)
        write_shard(second, np.zeros(100), vocab=VOCAB)
        refused([second, "a token shard of prepare_data.py", f"expected {name}"], kind)
        for words, fields in (
            (["SHA-256"], dict(sha256=bytes(32))),
            (["begins a text is 7", "expected 4294967295"], dict(bos=7)),
            (["ends a turn is 7"], dict(end=7)),
        ):
            rows.write(tmp_path, "other", kind, [draw_row(rng, 0, kind, 40)], VOCAB, **{"sha256": bytes(range(32))} | fields)
            os.replace(tmp_path / "other_000.bin", second)
            refused([second, *words], kind)
        second.unlink()
    write_shard(first, np.zeros(100), vocab=VOCAB)
    refused([first, "a token shard of prepare_data.py", "expected conversations"], TALKS)
    first.write_bytes(b"L3ROWS")
    refused([first, "6 bytes", "256"], TALKS)
    refused([first, "expected documents", "found a text"], DOCUMENTS)


@KINDS
def test_fingerprint_tells_sets_apart(tmp_path, kind):
    def fingerprint(name, made, **header):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        rows.write(folder, "train", kind, made, VOCAB, **header)
        with opened(folder, make_spec(kind)) as loader:
            return library.loader_fingerprint(loader)

    rng = fresh_random()
    made = [draw_row(rng, number, kind, 60) for number in range(20)]
    base = fingerprint("a", made)
    assert fingerprint("moved", made) == base
    changed = [rows.Row(row.prompt.copy(), row.answers[::-1], row.source, row.line) for row in made]
    changed[3].prompt[0] += 1  # comparisons: the answers stand the other way round, and all lengths are the same
    others = [
        fingerprint("b", made[:-1]),
        fingerprint("c", made[::-1]),
        fingerprint("d", changed),
        fingerprint("e", made, bos=2),
        fingerprint("f", made, file_tokens=100),
        fingerprint("g", made, sha256=b"x" * 32),
    ]
    assert len({base, *others}) == 7


def test_file_that_changes_while_running(tmp_path):
    write_rows(tmp_path, fresh_random(), TALKS, count=5, file_tokens=10**6)
    path = tmp_path / "train_000.bin"
    spec = make_spec(TALKS, B=5)
    with opened(tmp_path, spec) as loader:
        with open(path, "r+b") as file:
            file.seek(256)
            file.write(b"\xff\xff\xff\x3f")
        expect_refusal(INPUT, [path, "row 1", "id 1073741823"], "loader_fetch", loader, 0, 0, byref(batch_of(spec)))
        os.truncate(path, 256)
        expect_refusal(FAULT, [path], "loader_fetch", loader, 0, 0, byref(batch_of(spec)))


def batch_of(spec):
    batch_of.kept = [np.zeros(spec.B * spec.T, np.int32) for _ in range(4)]
    return batch_at(*map(pointer, batch_of.kept))
