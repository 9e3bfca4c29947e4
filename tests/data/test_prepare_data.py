"""data/prepare_data.py: the tokens of a text decode to that text, and bad text is refused with one line and code 2."""

import hashlib
import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checkout import script
from textprep import documents, prepare, random_text, refused


from llmdata import shards, split, text_file  # noqa: E402
from llmdata import tokenizer as tokenizers  # noqa: E402
from llmdata.documents import read_pieces  # noqa: E402


@pytest.fixture
def rng():
    return random.Random(random.getrandbits(32))


def test_text_comes_back_and_goes_to_one_split_only(tmp_path, rng):
    texts = [random_text(rng, rng.randint(2500, 4000)) for _ in range(3)]
    for index, text in enumerate(texts):
        (tmp_path / f"{index}.txt").write_bytes(text.encode())
    prepare(tmp_path, "--output", tmp_path / "out", "--vocab-size", 400, "--val-fraction", 0.2, "--workers", 2)
    train, val = documents(tmp_path / "out", "train"), documents(tmp_path / "out", "val")
    texts = [text.replace("\r\n", "\n") for text in texts]
    # every stretch lies in the text, and together they are all of it
    assert all(any(part in text for text in texts) for part in train + val)
    assert sorted("".join(train + val)) == sorted("".join(texts))
    share = sum(map(len, val)) / sum(map(len, texts))
    assert 0.1 < share < 0.3  # 0.2 of blocks of nearly equal size


def test_header_and_meta_agree(tmp_path, rng):
    (tmp_path / "a.txt").write_text(random_text(rng, 6000))
    prepare(tmp_path / "a.txt", "--output", tmp_path / "out", "--vocab-size", 500, "--shard-tokens", 4000)
    out = tmp_path / "out"
    meta = json.loads((out / "meta.json").read_text())
    sha256 = hashlib.sha256((out / "tokenizer.json").read_bytes())
    assert meta["tokenizer_sha256"] == sha256.hexdigest()
    assert len(meta["train_shards"]) >= 2
    total = 0
    for name in meta["train_shards"] + meta["val_shards"]:
        header = shards.read_header(out / name)
        assert (header["token_bits"], header["vocab_size"]) == (16, 500)
        assert (header["bos_id"], header["eos_id"]) == (meta["bos_id"], meta["eos_id"])
        assert header["tokenizer_sha256"] == sha256.digest()
        assert (out / name).stat().st_size == 256 + 2 * header["token_count"]
        assert shards.read_tokens(out / name).max() < 500
        total += header["token_count"]
    assert total == meta["train_tokens"] + meta["val_tokens"]
    # no stub of a shard at the end
    assert shards.read_header(out / meta["train_shards"][-1])["token_count"] >= 2000
    assert not (out / ".partial").exists()


def test_unigram_loss(tmp_path, rng):
    (tmp_path / "a.txt").write_text(random_text(rng, 4000))
    prepare(tmp_path / "a.txt", "--output", tmp_path / "out", "--vocab-size", 300)
    meta = json.loads((tmp_path / "out" / "meta.json").read_text())
    seen, losses = {}, []
    for token in shards.read_tokens(tmp_path / "out" / "train_000.bin"):
        seen[int(token)] = seen.get(int(token), 0) + 1
    total = sum(seen.get(token, 0) + 1 for token in range(300) if token != meta["bos_id"])
    for token in shards.read_tokens(tmp_path / "out" / "val_000.bin"):
        if token != meta["bos_id"]:
            losses.append(-np.log((seen.get(int(token), 0) + 1) / total))
    assert meta["unigram_val_loss"] == pytest.approx(np.mean(losses), rel=1e-9)


def test_same_text_from_all_formats(tmp_path, rng):
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    rows = [random_text(rng, rng.randint(1, 60)) + "x" for _ in range(200)]
    with open(tmp_path / "a.jsonl", "w") as file:
        for row in rows:
            file.write(json.dumps({"id": 1, "text": row}, ensure_ascii=rng.random() < 0.5) + "\n")
        file.write("\n" + json.dumps({"text": ""}) + "\n")
    parquet.write_table(arrow.table({"text": rows + ["", None], "n": list(range(202))}), tmp_path / "a.parquet", row_group_size=64)
    prepare(tmp_path / "a.jsonl", "--output", tmp_path / "1", "--vocab-size", 300, "--workers", 2)
    prepare(tmp_path / "a.parquet", "--output", tmp_path / "2", "--tokenizer", tmp_path / "1", "--workers", 1)
    for name in ("train_000.bin", "val_000.bin", "tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes(), name
    val = documents(tmp_path / "1", "val")
    assert sorted(documents(tmp_path / "1", "train") + val) == sorted(rows)
    assert len(val) == 10  # one in each 20 of 200 whole documents


def test_pieces_are_the_text(tmp_path, rng):
    text = random_text(rng, 3000).replace("\r\n", "\n")
    (tmp_path / "a.txt").write_text(text, newline="")
    pieces = list(read_pieces(tmp_path / "a.txt", 300))
    assert "".join(piece.text for piece in pieces) == text and len(pieces) > 20
    assert [piece.first for piece in pieces] == [True] + [False] * (len(pieces) - 1)
    assert [piece.last for piece in pieces] == [False] * (len(pieces) - 1) + [True]


def test_white_space_before_the_text(tmp_path):
    """However long it is, it is no piece of its own, and alone no document."""
    (tmp_path / "a.txt").write_text(" \n" * 3000 + "x")
    first, *others = read_pieces(tmp_path / "a.txt", 300)
    assert first.text == " \n" * 3000 + "x" and others == []
    (tmp_path / "a.txt").write_text(" \n" * 3000)
    assert list(read_pieces(tmp_path / "a.txt", 300)) == []


def test_piece_without_line_is_bounded(tmp_path):
    (tmp_path / "a.txt").write_text("x" * 5000)
    assert max(len(piece.text) for piece in read_pieces(tmp_path / "a.txt", 1000)) <= 2000


def test_utf8_across_reads(tmp_path, rng, monkeypatch):
    text = random_text(rng, 500)
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    monkeypatch.setattr(text_file, "READ_BYTES", 7)
    assert "".join(piece.text for piece in read_pieces(tmp_path / "a.txt", 100)) == text.replace("\r\n", "\n")


@pytest.mark.parametrize("fraction", [0.5, 0.3, 0.05, 0.0107])
def test_held_out_share(fraction, rng):
    held_out = split.HeldOut(fraction, rng.randrange(1000))
    chosen = [index for index in range(5000) if held_out.next_is_held_out()]
    assert abs(len(chosen) - 5000 * fraction) <= 1
    assert max(np.diff(chosen)) <= 2 / fraction + 1


def test_specials_are_behind_the_merges_and_open_in_transformers(tmp_path, rng):
    from transformers import AutoTokenizer

    trained = tokenizers.train([random_text(rng, 3000)], 350)
    trained.save(tmp_path)
    assert [trained.tokenizer.id_to_token(i) for i in range(342, 350)] == tokenizers.NAMED_SPECIALS
    assert trained.vocab_size == 350 and (trained.bos, trained.eos) == (342, 343)
    opened = AutoTokenizer.from_pretrained(tmp_path)
    assert (opened.bos_token_id, opened.eos_token_id, len(opened)) == (342, 343, 350)
    assert opened("ten").input_ids[0] == 342
    assert opened.decode(opened("ten  sun\n").input_ids, skip_special_tokens=True) == "ten  sun\n"


def test_wide_tokens(tmp_path):
    """A vocabulary beyond 65,536 is written with 32 bits a token."""
    writer = shards.ShardWriter(tmp_path, "train", 65_537, 0, None, bytes(32), 1024)
    writer.write(np.array([65_536, 0, 7], np.uint32))
    writer.finish()
    header = shards.read_header(tmp_path / "train_000.bin")
    assert (header["token_bits"], header["eos_id"]) == (32, shards.NO_TOKEN)
    assert list(shards.read_tokens(tmp_path / "train_000.bin")) == [65_536, 0, 7]
    assert shards.token_bits(65_536) == 16


def test_meta_tokenizer_like_tiktoken(tmp_path, rng):
    """Meta's own file, converted, gives the ids that tiktoken gives, and its special tokens have Llama 3.1's ids."""
    import tiktoken

    package = importlib.util.find_spec("llama_models").submodule_search_locations[0]
    path = Path(package) / "llama3" / "tokenizer.model"
    ranks = tokenizers.read_meta_ranks(path)
    converted = tokenizers.load(path, None, None)
    assert (converted.vocab_size, converted.bos, converted.eos) == (128_256, 128_000, 128_001)
    named = {128_004: "<|finetune_right_pad_id|>", 128_005: "<|reserved_special_token_2|>", 128_006: "<|start_header_id|>",
             128_007: "<|end_header_id|>", 128_008: "<|eom_id|>", 128_009: "<|eot_id|>", 128_010: "<|python_tag|>",
             128_011: "<|reserved_special_token_3|>", 128_255: "<|reserved_special_token_247|>"}  # fmt: skip
    assert {index: converted.tokenizer.id_to_token(index) for index in named} == named
    converted.save(tmp_path)
    ours = tokenizers.encoder(tmp_path / "tokenizer.json")
    theirs = tiktoken.Encoding("llama3", pat_str=tokenizers.SPLIT, special_tokens={},
                               mergeable_ranks={token: rank for rank, token in enumerate(ranks)})  # fmt: skip
    texts = [random_text(rng, 200) for _ in range(20)]
    texts += ["".join(map(chr, (rng.randint(1, 0xD7FF) for _ in range(100)))) for _ in range(200)]
    texts += [token.decode(errors="replace") for token in rng.sample(ranks, 3000)]
    for text in texts:
        assert ours.encode(text, add_special_tokens=False).ids == theirs.encode(text, disallowed_special=()), repr(text)


def good(folder: Path) -> Path:
    path = folder / "good.txt"
    path.write_text("To be, or not to be, that is the question.\n\n" * 400)
    return path


@pytest.mark.parametrize(
    "name, content, expected",
    [
        ("a.txt", b"abc\n\xff\xfe", "not UTF-8 at byte offset 4"),
        ("a.txt", b"x" * (1 << 20) + b"\xe2\x82", f"not UTF-8 at byte offset {1 << 20}"),
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', "line 2: not JSON"),
        ("a.jsonl", b'{"text": "a"}\n{"txt": "b"}\n', 'line 2: expected an object with a string under the key "text"'),
        ("a.jsonl", b'{"text": 5}\n', "line 1: expected an object"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', "line 1: half a surrogate pair"),
        ("a.jsonl", b'{"text": "a\xff"}\n', "line 1: not UTF-8"),
        ("a.parquet", b"PAR1 no parquet", "not a Parquet file"),
        ("a.csv", b"a,b", "expected a name that ends in"),
    ],
)
def test_bad_text(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    message = refused(good(tmp_path), tmp_path / name, "--output", tmp_path / "out", "--vocab-size", 264)
    assert str(tmp_path / name) in message and expected in message, message
    assert not (tmp_path / "out").exists()


def test_parquet_without_text(tmp_path):
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    parquet.write_table(arrow.table({"body": ["a"]}), tmp_path / "a.parquet")
    assert 'expected a column "text", found "body"' in refused(tmp_path, "--output", tmp_path / "out", "--vocab-size", 264)
    parquet.write_table(arrow.table({"text": [5]}), tmp_path / "a.parquet")
    assert "found int" in refused(tmp_path, "--output", tmp_path / "out", "--vocab-size", 264)


def test_parquet_that_is_no_text(tmp_path):
    """The row is named, and of a page that can't be read the file."""
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    path = tmp_path / "a.parquet"
    said = arrow.array([b"yes"] * 1500 + [b"\xff"])
    texts = arrow.Array.from_buffers(arrow.string(), len(said), said.buffers())
    parquet.write_table(arrow.table({"text": texts}), path)
    assert f"{path}: row 1501: not UTF-8" in refused(path, "--output", tmp_path / "out", "--vocab-size", 264)
    days = arrow.array([1, 2**31 - 1], arrow.int32()).cast(arrow.date32())
    parquet.write_table(arrow.table({"text": days.slice(1)}), path)
    assert f"{path}: row 1: " in refused(path, "--output", tmp_path / "out", "--vocab-size", 264)
    parquet.write_table(arrow.table({"text": [f"{n} {'x' * 60}" for n in range(3000)]}), path, use_dictionary=False)
    data, column = bytearray(path.read_bytes()), parquet.ParquetFile(path).metadata.row_group(0).column(0)
    end = column.data_page_offset + column.total_compressed_size
    data[end - 40 : end] = bytes(40)
    path.write_bytes(data)
    assert f"{path}: damaged after row " in refused(path, "--output", tmp_path / "out", "--vocab-size", 264)


def test_bad_usage(tmp_path):
    text, out = good(tmp_path), tmp_path / "out"
    assert "expected 264 to" in refused(text, "--output", out, "--vocab-size", 263)
    assert "gives only" in refused(text, "--output", out, "--vocab-size", 5000)
    for option in ("--bos-token", "--eos-token"):
        error = refused(text, "--output", out, "--tokenizer", text, option, b"\xff")
        assert f'{option}: found "\\udcff", expected UTF-8 text' in error
    error = refused(text, "--output", out, "--vocab-size", 264, "--val-fraction", 1e-320)
    assert "too little text to validate with --val-fraction 1e-320" in error
    assert "expected 0 to 0.5" in refused(text, "--output", out, "--vocab-size", 264, "--val-fraction", "nan")
    assert "no such file" in refused(tmp_path / "none.txt", "--output", out, "--vocab-size", 264)
    (tmp_path / "empty").mkdir()
    assert "no .txt" in refused(tmp_path / "empty", "--output", out, "--vocab-size", 264)
    assert "not a folder" in refused(text, "--output", text / "out", "--vocab-size", 264)
    (tmp_path / "tokenizer.model").write_bytes(b"IQ== 0\nIg== 2\n")
    assert "line 2: expected a base64 token and the rank 1" in refused(text, "--output", out, "--tokenizer", tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"IQ== 0\n")
    assert "expected Llama 3's 128000" in refused(text, "--output", out, "--tokenizer", tmp_path / "tokenizer.model")
    (tmp_path / "tokenizer.json").write_text("{}")
    assert "not a tokenizer.json" in refused(text, "--output", out, "--tokenizer", tmp_path)


def test_existing_shards_are_kept_unless_told(tmp_path):
    text, out = good(tmp_path), tmp_path / "out"
    prepare(text, "--output", out, "--vocab-size", 264, "--shard-tokens", 4000)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert len(before) >= 6
    assert "already holds" in refused(text, "--output", out, "--vocab-size", 270)
    (tmp_path / "bad.txt").write_bytes(b"\xff")
    refused(text, tmp_path / "bad.txt", "--output", out, "--vocab-size", 264, "--overwrite")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    prepare(text, "--output", out, "--vocab-size", 270, "--overwrite")
    assert sorted(path.name for path in out.iterdir()) == sorted(
        ["meta.json", "tokenizer.json", "tokenizer_config.json", "train_000.bin", "val_000.bin"]
    )


# prepare_data.py that is sent a signal behind each file that it removes or moves; a second thread could take it as well.
SIGNALLED = """
import os, pathlib, runpy, sys, threading
number, program = int(sys.argv[1]), sys.argv[2]
threading.Thread(target=threading.Event().wait, daemon=True).start()
def signalled(work):
    def wrapper(*arguments):
        work(*arguments)
        os.kill(os.getpid(), number)
    return wrapper
def start_moving(partial, *arguments):
    pathlib.Path.unlink, os.replace = signalled(pathlib.Path.unlink), signalled(os.replace)
    move(partial, *arguments)
sys.path.insert(0, os.path.dirname(program))
from llmdata import output
move, output.move_into_place = output.move_into_place, start_moving
sys.argv = sys.argv[2:]
runpy.run_path(program, run_name="__main__")
"""


@pytest.mark.parametrize("name, code", [("SIGTERM", 1), ("SIGINT", 1), ("SIGHUP", -signal.SIGHUP), ("SIGUSR1", -signal.SIGUSR1)])
def test_a_signal_among_the_moves_waits_for_the_last(tmp_path, name, code):
    text, out = good(tmp_path), tmp_path / "out"
    prepare(text, "--output", out, "--vocab-size", 264, "--shard-tokens", 4000)
    old = (out / "train_000.bin").read_bytes()
    command = [sys.executable, "-c", SIGNALLED, int(getattr(signal, name)), script("prepare_data"),
               text, "--output", out, "--vocab-size", 270, "--overwrite", "--workers", 1]  # fmt: skip
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (code, "")
    names = ["meta.json", "tokenizer.json", "tokenizer_config.json", "train_000.bin", "val_000.bin"]
    assert sorted(path.name for path in out.iterdir() if path.name != ".partial") == names
    assert json.loads((out / "meta.json").read_text())["vocab_size"] == 270 and (out / "train_000.bin").read_bytes() != old


def test_folder_is_locked(tmp_path):
    import fcntl

    (tmp_path / "out").mkdir()
    lock = os.open(tmp_path / "out", os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    assert "another run" in refused(good(tmp_path), "--output", tmp_path / "out", "--vocab-size", 264)
    os.close(lock)
