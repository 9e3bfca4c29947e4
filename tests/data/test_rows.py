"""data/llmdata/rows.py: row files have the format of llmc/loader/rows.h, and rows that are read equal those that were written."""

import random
import struct

import numpy as np
import pytest


from llmdata import rows  # noqa: E402
from llmdata.errors import InputError  # noqa: E402

VOCAB = 1000


def random_tokens(count, *flags):
    ids = np.array([random.randrange(VOCAB) for _ in range(count)], np.uint32)
    for i in range(count):
        ids[i] |= random.choice(flags or (np.uint32(0),))
    return ids


def random_row(kind, source, line):
    if kind == rows.CONVERSATIONS:
        prompt = random_tokens(random.randint(1, 30), 0, rows.FORMAT, rows.TRAINED | rows.FORMAT)
        return rows.Row(np.append(prompt, random_tokens(1, rows.TRAINED)), [], source, line)
    answers = [
        np.append(random_tokens(random.randint(0, 20), rows.FORMAT, rows.TRAINED | rows.FORMAT), random_tokens(1, rows.TRAINED))
        for _ in range(random.choice((2, 3)))
    ]
    return rows.Row(random_tokens(random.randint(1, 30)), answers, source, line)


@pytest.mark.parametrize("kind", [rows.CONVERSATIONS, rows.COMPARISONS])
def test_rows_come_back(tmp_path, kind):
    written = [random_row(kind, random.randrange(3), line) for line in range(1, 60)]
    names = rows.write(tmp_path, "train", kind, written, VOCAB, bos=3, end=None, sha256=b"x" * 32, file_tokens=200)
    assert names == [f"train_{i:03d}.bin" for i in range(len(names))] and len(names) > 2
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    found = [row for name in names for row in rows.read_rows(tmp_path / name)]
    assert len(found) == len(written)
    for row, want in zip(found, written):
        assert (row.source, row.line, len(row.answers)) == (want.source, want.line, len(want.answers))
        assert all((a == b).all() for a, b in zip(row.parts(), want.parts(), strict=True))
    for name in names[:-1]:
        header = rows.read_header(tmp_path / name)
        last = len(list(rows.read_rows(tmp_path / name))[-1])
        assert header["token_count"] - last < 200 <= header["token_count"]


def test_bytes(tmp_path):
    first = rows.Row(
        np.array([1, 7], np.uint32), [np.array([2 | 1 << 31], np.uint32), np.array([3 | 1 << 31, 4 | 3 << 30])], 1, 9
    )
    rows.write(tmp_path, "val", rows.COMPARISONS, [first], 8, bos=1, end=4, sha256=bytes(range(32)))
    data = (tmp_path / "val_000.bin").read_bytes()
    header = struct.pack("<8sIIIIQII", b"L3ROWS\0\0", 1, 0x01020304, 2, 8, 5, 1, 4) + bytes(range(32)) + struct.pack("<Q", 1)
    assert len(header) == 80
    assert data[:256] == header.ljust(256, b"\0")
    assert data[256:276] == struct.pack("<5I", 1, 7, 2 | 1 << 31, 3 | 1 << 31, 4 | 3 << 30)
    assert data[276:] == struct.pack("<QIIIIII", 0, 2, 1, 2, 0, 1, 9)


def test_writer_counts(tmp_path):
    writer = rows.RowWriter(tmp_path, "train", rows.COMPARISONS, VOCAB, 3, 4, bytes(32))
    written = [random_row(rows.COMPARISONS, 0, line) for line in range(20)]
    for row in written:
        writer.write(row)
    writer.finish()
    assert (writer.rows, writer.tokens, writer.longest) == (20, sum(map(len, written)), max(map(len, written)))
    assert writer.trained == sum((int(t) >> 30) == 2 for row in written for answer in row.answers for t in answer)


@pytest.mark.parametrize("kind, row, fault", [
    (rows.CONVERSATIONS, rows.Row(np.array([1 << 31], np.uint32)), "1 tokens, expected 2 or more"),
    (rows.CONVERSATIONS, rows.Row(np.array([1, 2], np.uint32)), "no trained token"),
    (rows.CONVERSATIONS, rows.Row(np.array([1, VOCAB | 1 << 31], np.uint32)), "an id beyond the vocabulary of 1000"),
    (rows.CONVERSATIONS, rows.Row(np.array([1, 1 << 31], np.uint32), [np.array([1], np.uint32)]), "a conversation with answers"),
    (rows.COMPARISONS, rows.Row(np.array([], np.uint32), [np.array([1 << 31], np.uint32)] * 2), "an empty prompt"),
    (rows.COMPARISONS, rows.Row(np.array([1], np.uint32), [np.array([1 << 31], np.uint32)]), "1 answers, expected 2 or 3"),
    (rows.COMPARISONS, rows.Row(np.array([1], np.uint32), [np.array([1 << 31], np.uint32), np.array([3 << 30], np.uint32)]),
     "answer 2 has no trained token beside its format"),
])  # fmt: skip
def test_rows_that_the_format_forbids(tmp_path, kind, row, fault):
    with pytest.raises(ValueError, match=fault):
        rows.write(tmp_path, "train", kind, [random_row(kind, 0, 1), row], VOCAB)
    assert list(tmp_path.iterdir()) == []


def test_damaged_files_are_refused(tmp_path):
    rows.write(tmp_path, "train", rows.CONVERSATIONS, [random_row(rows.CONVERSATIONS, 0, i) for i in range(9)], VOCAB)
    path = tmp_path / "train_000.bin"
    data = path.read_bytes()
    for broken, message in (
        (data[:100], "100 bytes, expected a header of 256"),
        (data[:-4], f"{len(data) - 4} bytes, expected {len(data)} by its header"),
        (b"L3SHARD\0" + data[8:], "not a file of finetuning rows of version 1"),
        (data[:-32] + b"\1" + data[-31:], "row 9: begins at token"),
    ):
        path.write_bytes(broken)
        with pytest.raises(InputError, match=message):
            list(rows.read_rows(path))
