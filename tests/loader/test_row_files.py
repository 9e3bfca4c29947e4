"""Row files read by llmc/loader/rows.c: as data/llmdata/rows.py wrote them; foreign, damaged and lying ones are refused."""

import gc
import os
import struct
from ctypes import byref

import numpy as np
import pytest

from hostlib import FAULT, INPUT, Failure, RowFile, call, expect_refusal, fresh_random, library, path_bytes, pointer


from llmdata import rows  # noqa: E402

pytestmark = pytest.mark.checked

VOCAB = 1000
TRAINED, FORMAT = int(rows.TRAINED), int(rows.FORMAT)
TABLE = struct.Struct("<QIIIIII")  # first, prompt, three answers, source, line


def header(kind, tokens, count, magic=b"L3ROWS\0\0", version=1, byte_order=0x01020304, vocab=VOCAB, bos=0, eos=1):
    fields = struct.pack("<8sIIIIQII", magic, version, byte_order, kind, vocab, tokens, bos, eos)
    return (fields + bytes(range(32)) + struct.pack("<Q", count)).ljust(256, b"\0")


def content(kind, tokens, table, **fields):
    """table: [(first, prompt, [answers], source, line)]"""
    entries = [TABLE.pack(first, prompt, *(answers + [0, 0, 0])[:3], source, line) for first, prompt, answers, source, line in table]
    fields = {"tokens": len(tokens), "count": len(table), **fields}
    return header(kind, **fields) + struct.pack(f"<{len(tokens)}I", *tokens) + b"".join(entries)


TALK = [5, 6 | FORMAT, 7 | TRAINED, 8 | TRAINED | FORMAT]  # header, words, end of turn
CHOICE = [5, 6, 7 | TRAINED, 8 | TRAINED | FORMAT, 9 | TRAINED]  # prompt of 2, answers of 2 and 1


def talks(tokens=TALK + TALK, table=((0, 4, [], 0, 1), (4, 4, [], 2, 7)), **fields):
    return content(1, tokens, table, **fields)


def choice(tokens=CHOICE, table=((0, 2, [2, 1], 0, 1),), **fields):
    return content(2, tokens, table, **fields)


def opened(path):
    file = RowFile()
    call("rows_open", byref(file), path_bytes(path))
    return file


def read(file, index):
    row = file.rows[index]
    count = row.prompt + sum(row.answers)
    tokens = np.full(count + 4, 77, np.uint32)
    call("rows_read", byref(file), index, pointer(tokens))
    assert (tokens[count:] == 77).all(), "wrote past the end"
    return tokens[:count]


def random_ids(rng, count, *flags):
    return (rng.integers(0, VOCAB, count) | rng.choice(np.array(flags or [0], np.int64), count)).astype(np.uint32)


def random_row(rng, kind, source, line):
    last = random_ids(rng, 1, TRAINED)
    if kind == rows.CONVERSATIONS:
        flags = (0, FORMAT, TRAINED, TRAINED | FORMAT)
        return rows.Row(np.append(random_ids(rng, rng.integers(1, 40), *flags), last), [], source, line)
    answers = [np.append(random_ids(rng, rng.integers(0, 20), TRAINED, FORMAT), last) for _ in range(rng.integers(2, 4))]
    return rows.Row(random_ids(rng, rng.integers(1, 40)), answers, source, line)


@pytest.mark.parametrize("kind", [rows.CONVERSATIONS, rows.COMPARISONS])
@pytest.mark.parametrize("count", [1, 50, 6000])
def test_reads_back(tmp_path, kind, count):
    rng = fresh_random()
    written = [random_row(rng, kind, int(rng.integers(5)), line) for line in range(1, count + 1)]
    rows.write(tmp_path, "train", kind, written, VOCAB, bos=3, sha256=bytes(range(32)))
    file = opened(tmp_path / "train_000.bin")
    assert (file.kind, file.vocab_size, file.bos_id, file.eos_id) == (kind, VOCAB, 3, 0xFFFFFFFF)
    assert file.num_tokens == sum(map(len, written)) and bytes(file.tokenizer_sha256) == bytes(range(32))
    assert file.num_rows == count
    for i in rng.permutation(count)[:300]:
        row, want = file.rows[int(i)], written[i]
        assert [row.prompt, *(n for n in row.answers if n)] == [len(part) for part in want.parts()]
        assert (row.source, row.line) == (want.source, want.line)
        assert (read(file, int(i)) == np.concatenate(want.parts())).all()
    library.rows_close(byref(file))


BAD = [
    (b"", ["0 bytes", "256"]),
    (talks()[:255], ["255 bytes", "256"]),
    (talks()[:-1], ["8 tokens and 2 rows", "truncated"]),
    (talks() + b"\0", ["8 tokens and 2 rows"]),
    (talks(tokens=TALK, table=[(0, 4, [], 0, 1)])[:256], ["4 tokens and 1 rows", "0 bytes"]),
    (header(1, 2**62, 2) + bytes(96), [2**62, "96 bytes"]),  # times 4 it would wrap round to 0
    (header(1, 8, 2**59) + bytes(32), [2**59, "32 bytes"]),  # times 32 likewise
    (header(1, 0, 0), ["number of rows is 0"]),
    (talks(magic=b"L3SHARD\0"), ["magic", "4c33534841524400", "L3ROWS"]),
    (talks(version=2), ["version is 2", "expected 1"]),
    (talks(byte_order=0x04030201), ["byte order", "big endian"]),
    (content(3, TALK, [(0, 4, [], 0, 1)]), ["kind is 3"]),
    (talks(vocab=0), ["vocabulary size is 0"]),
    (talks(vocab=2**30 + 1), ["vocabulary size is 1073741825", "1073741824"]),
    (talks(bos=1000), ["begins a text is 1000", "1000"]),
    (talks(eos=5000), ["ends a turn is 5000"]),
    (talks()[:80] + b"\1" + talks()[81:], ["byte 80", "expected 0"]),
    (talks(table=[(0, 4, [], 0, 1), (3, 4, [], 0, 1)]), ["row 2", "first token is 3", "expected 4"]),  # overlap
    (talks(table=[(0, 4, [], 0, 1), (5, 3, [], 0, 1)]), ["row 2", "first token is 5", "expected 4"]),  # gap
    (talks(table=[(1, 4, [], 0, 1), (5, 3, [], 0, 1)]), ["row 1", "first token is 1", "expected 0"]),
    (talks(table=[(0, 4, [], 0, 1), (4, 5, [], 0, 1)]), ["row 2", "5 tokens", "4 that are left"]),
    (talks(table=[(0, 4, [], 0, 1), (4, 2**32 - 1, [], 0, 1)]), ["row 2", "4294967295 tokens"]),
    (talks(table=[(0, 4, [], 0, 1), (4, 3, [], 0, 1)]), ["rows have 7 tokens", "8"]),
    (talks(table=[(0, 1, [], 0, 1), (1, 7, [], 0, 1)]), ["row 1", "prompt is 1", "at least 2"]),
    (talks(table=[(0, 3, [1], 0, 1), (4, 4, [], 0, 1)]), ["row 1", "answer 1 is 1", "0 in a conversation"]),
    (talks(table=[(0, 3, [0, 0, 1], 0, 1), (4, 4, [], 0, 1)]), ["row 1", "answer 3 is 1"]),
    (talks(tokens=TALK + [5 | TRAINED, 6, 7, 8 | FORMAT]), ["row 2", "trained tokens is 0", "behind the first"]),
    (talks(tokens=TALK + [5, 6, 1000 | TRAINED, 8]), ["row 2", "token 3", "id 1000", "1000"]),
    (talks(tokens=[2**30 - 1] + TALK[1:] + TALK), ["row 1", "token 1", "id 1073741823"]),
    (choice(table=[(0, 0, [4, 1], 0, 1)]), ["row 1", "prompt is 0", "at least 1"]),
    (choice(table=[(0, 2, [3], 0, 1)]), ["row 1", "answer 2 is 0"]),
    (choice(table=[(0, 2, [0, 3], 0, 1)]), ["row 1", "answer 1 is 0"]),
    (choice(table=[(0, 2, [2, 0, 1], 0, 1)]), ["row 1", "answer 2 is 0"]),
    (choice(table=[(0, 2, [2**32 - 1, 1], 0, 1)]), ["row 1", "4294967298 tokens"]),  # would be 2 in 32 bits
    (choice(tokens=[5, 6, 7, 8 | TRAINED | FORMAT, 9 | TRAINED]), ["row 1", "answer 1 has 0 trained"]),
    (choice(tokens=CHOICE[:4] + [9]), ["row 1", "answer 2 has 0 trained"]),
    (choice(tokens=CHOICE[:4] + [1003 | TRAINED]), ["row 1", "token 5", "id 1003"]),
]  # fmt: skip


@pytest.mark.parametrize("data, words", BAD, ids=range(len(BAD)))
def test_refused(tmp_path, data, words):
    path = tmp_path / "bad.bin"
    path.write_bytes(data)
    gc.collect()  # or a file that an earlier test has left in a cycle may be closed in between
    before = len(os.listdir("/proc/self/fd"))
    expect_refusal(INPUT, [path, *words], "rows_open", byref(RowFile()), path_bytes(path))
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_good_ones_are_taken(tmp_path):
    """Those that the bad ones differ from in one place."""
    for data in (talks(), choice(), choice(tokens=CHOICE + [3 | TRAINED], table=[(0, 2, [2, 1, 1], 0, 0)])):
        (tmp_path / "good.bin").write_bytes(data)
        library.rows_close(byref(opened(tmp_path / "good.bin")))


def test_any_bit_flipped(tmp_path):
    """Taken or refused with a message, and what is taken stays within the file and its vocabulary."""
    path, rng = tmp_path / "flipped.bin", fresh_random()
    for good in (talks(), choice()):
        bits = [*rng.choice(8 * 80, 200, replace=False), *rng.integers(8 * 80, 8 * len(good), 200)]
        taken = 0
        for bit in bits:
            data = bytearray(good)
            data[bit // 8] ^= 1 << bit % 8
            path.write_bytes(data)
            try:
                file = opened(path)
            except Failure as failure:
                assert failure.code == INPUT and str(path) in failure.message
                continue
            taken += 1
            assert sum(len(read(file, i)) for i in range(file.num_rows)) == file.num_tokens
            library.rows_close(byref(file))
        assert taken > 0


def test_any_length(tmp_path):
    path, good = tmp_path / "cut.bin", talks()
    for length in range(len(good)):
        path.write_bytes(good[:length])
        expect_refusal(INPUT, [path], "rows_open", byref(RowFile()), path_bytes(path))


def test_changed_while_running(tmp_path):
    path = tmp_path / "train.bin"
    path.write_bytes(talks())
    file = opened(path)
    tokens = np.zeros(8, np.uint32)
    with open(path, "r+b") as changed:
        changed.seek(256 + 4 * 6)
        changed.write(struct.pack("<I", 1001 | TRAINED))
    expect_refusal(INPUT, [path, "row 2", "token 3", "id 1001"], "rows_read", byref(file), 1, pointer(tokens))
    assert list(read(file, 0)) == TALK
    os.truncate(path, 256 + 4 * 5)
    expect_refusal(FAULT, [path], "rows_read", byref(file), 1, pointer(tokens))
    library.rows_close(byref(file))


def test_not_a_file(tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        expect_refusal(INPUT, [path], "rows_open", byref(RowFile()), path_bytes(path))
