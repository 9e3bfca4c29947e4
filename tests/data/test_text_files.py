"""Text in the formats that people have: the same content gives the same rows and tokens in every format, and a file that cannot be
read is refused with advice."""

import gzip
import json
import random
import subprocess
import sys

import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest
from chatprep import CHATML, model_folder, talk, write_jsonl
from checkout import ROOT, load_script, script
from chatprep import model, prepare, trained  # noqa: F401  fixtures
from textprep import documents, random_text, refused
from textprep import run as prepare_data

from llmdata import chat_set, files, formats, records, rows, split, text_file
from llmdata.errors import InputError
from llmround import settings
from llmtext import prompts

BOM = b"\xef\xbb\xbf"
LINE_ENDS = ["\u2028", "\x0b", "\x0c", "\x85", "\x1c", "\r", "\u2029"]  # which end no line


generate, plot, prepare_eval = load_script("generate"), load_script("plot"), load_script("prepare_eval")


# ---- containers


def zstd(data):
    return arrow.compress(data, codec="zstd", asbytes=True)


def zstd_behind_a_skipped_frame(data):
    """As pzstd and seekable zstd write it."""
    return b"\x5a\x2a\x4d\x18\x04\0\0\0more" + zstd(data)


def in_parts(pack):
    """Several members or frames, cut anywhere."""

    def packed(data):
        cuts = sorted(random.choices(range(len(data) + 1), k=3))
        return b"".join(pack(data[a:b]) for a, b in zip([0, *cuts], [*cuts, len(data)]))

    return packed


PACKINGS = {"": bytes, ".gz": in_parts(gzip.compress), ".zst": in_parts(zstd), ".GZ": gzip.compress, ".Zst": zstd,
            ".ZST": zstd_behind_a_skipped_frame}
ENCODINGS = {"": bytes, "mark": lambda data: BOM + data, "crlf": lambda data: data.replace(b"\n", b"\r\n"),
             "both": lambda data: BOM + data.replace(b"\n", b"\r\n")}  # fmt: skip


def as_lines(values):
    ends = ["\n", "\n\n", " \n"]
    return "".join(json.dumps(value, ensure_ascii=random.random() < 0.5) + random.choice(ends) for value in values)


def as_lines_cut_short(values):
    return as_lines(values).rstrip()


def as_array(values):
    text = json.dumps(values, ensure_ascii=False, indent=random.choice([None, 2]))
    return random.choice(["", " \n"]) + text + random.choice(["", "\n "])


TEXTS = [(".jsonl", as_lines), (".JSONL", as_lines_cut_short), (".json", as_array), (".Json", as_lines)]
TABLES = ["snappy", "gzip", "brotli", "zstd", "lz4", "none", "large_string", "dictionary"]


def write_table(path, values, kind):
    table = arrow.Table.from_pylist(values)
    for number, column in enumerate(table.schema):
        if arrow.types.is_string(column.type) and kind == "large_string":
            table = table.set_column(number, column.name, table.column(number).cast(arrow.large_string()))
        if arrow.types.is_string(column.type) and kind == "dictionary":
            table = table.set_column(number, column.name, table.column(number).dictionary_encode())
    codec = kind if kind in TABLES[:6] else "snappy"
    parquet.write_table(table, path, compression=codec, row_group_size=random.randint(1, len(values)))


def in_all_containers(folder, values):
    """Files with the same rows."""
    for index, (suffix, write) in enumerate(TEXTS):
        for packing, pack in PACKINGS.items():
            for name, encode in ENCODINGS.items():
                path = folder / f"{index}{name}{suffix}{packing}"
                path.write_bytes(pack(encode(write(values).encode())))
                yield path
    for kind in TABLES:
        write_table(folder / f"{kind}.PARQUET", values, kind)
        yield folder / f"{kind}.PARQUET"


def texts(count):
    draw = random.Random(random.random())
    return [random_text(draw, draw.randint(1, 60)) + draw.choice(LINE_ENDS) + "x" for _ in range(count)]


# ---- what each program reads of a file


def data_rows(path):
    return [(unit.text, unit.begins, unit.ends) for unit in split.read_units([path], 0, 1, files.Notes())]


def chat_rows(path):
    return [formats.parse_row(line.value) for line in chat_set.read_sources([chat_set.Source(path, 1.0)])]


def eval_rows(path):
    return [row.fields for row in prepare_eval.read_rows(path)]


def sampled_prompts(path):
    return [prompt.messages for prompt in prompts.read_prompts([path], None)[0]]


PROGRAMS = {
    "prepare_data": (data_rows, lambda said: {"text": said}, lambda said: (said, True, True)),
    "prepare_chat": (chat_rows, lambda said: {"prompt": said, "n": 3}, lambda said: {"prompt": said, "n": 3}),
    "prepare_eval": (eval_rows, lambda said: {"text": said}, lambda said: {"text": said}),
    "generate": (generate.read_prompts, lambda said: {"prompt": said}, lambda said: said),
    "rejection_sample": (sampled_prompts, lambda said: {"prompt": said}, lambda said: [{"role": "user", "content": said}]),
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_same_rows_of_every_container(tmp_path, monkeypatch, program):
    read, row_of, expected = PROGRAMS[program]
    said = texts(12)
    monkeypatch.setattr(text_file, "READ_BYTES", random.choice([16, 61, 1 << 20]))
    monkeypatch.setattr(records, "MOST_ROWS", random.choice([5, 256]))
    for path in in_all_containers(tmp_path, [row_of(text) for text in said]):
        assert read(path) == [expected(text) for text in said], path.name


def test_any_values_of_an_array(tmp_path, monkeypatch):
    """What ends where the held text ends may go on behind it."""
    kinds = [random.randrange(10**12), -1.5e-7, True, None, "a\\\"b\u2028", [1, [2]], {"a": {}}, ""]
    values = random.choices(kinds, k=200)
    (tmp_path / "a.json").write_text(json.dumps(values, indent=random.choice([None, 1])))
    for size in (5, 16, 61):
        monkeypatch.setattr(text_file, "READ_BYTES", size)
        assert [(number, value) for number, value, _ in records.read_rows(tmp_path / "a.json")] == list(enumerate(values, 1))


def test_columns_that_a_row_leaves_empty(tmp_path):
    parquet.write_table(arrow.Table.from_pylist([{"prompt": "a", "messages": None},
        {"prompt": None, "messages": [{"role": "user", "content": "b"}]}]), tmp_path / "a.parquet")  # fmt: skip
    assert sampled_prompts(tmp_path / "a.parquet") == [[{"role": "user", "content": said}] for said in "ab"]


def data_text(path):
    return "".join(text for text, _, _ in data_rows(path))


@pytest.mark.parametrize("read, expected", [
    (generate.read_prompts, lambda text: [line for line in text.split("\n") if line.strip()]),
    (data_text, str),
], ids=["generate", "prepare_data"])  # fmt: skip
def test_the_same_text_of_every_container(tmp_path, monkeypatch, read, expected):
    text = "".join(line.replace("\r\n", "\n") for line in texts(12)) + "\ufeff end"
    monkeypatch.setattr(text_file, "READ_BYTES", random.choice([16, 61, 1 << 20]))
    for packing, pack in PACKINGS.items():
        for name, encode in ENCODINGS.items():
            path = tmp_path / f"a{name}.Txt{packing}"
            path.write_bytes(pack(encode(text.encode())))
            assert read(path) == expected(text), path.name


def test_the_same_shards_of_every_container(tmp_path):
    """Blocks that are held out and the tokenizer's sample are chosen by the text, not by the size of what it is packed in."""
    text = random_text(random, 9_000).replace("\r\n", "\n") * 16
    (tmp_path / "a.txt").write_bytes(text.encode())
    (tmp_path / "b.TXT.gz").write_bytes(PACKINGS[".gz"](ENCODINGS["both"](text.encode())))
    options = ("--vocab-size", 300, "--val-fraction", 0.1, "--tokenizer-bytes", len(text.encode()) // 3, "--workers", 1)
    for name in ("a.txt", "b.TXT.gz"):
        done = prepare_data(tmp_path / name, "--output", tmp_path / name[0], *options)
        assert (done.returncode, done.stderr) == (0, "")
    assert len(text.encode()) // split.BLOCKS_WANTED > split.SMALLEST_BLOCK and len(documents(tmp_path / "a", "val")) > 3
    for name in ("val_000.bin", "train_000.bin", "tokenizer.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


# ---- what is damaged, or something else


@pytest.mark.parametrize("suffix", [".jsonl", ".txt", ".json"])
@pytest.mark.parametrize("packing", [".gz", ".zst"])
def test_compressed_files_cut_off_or_damaged(tmp_path, packing, suffix):
    path, values = tmp_path / f"a{suffix}{packing}", [{"text": text} for text in texts(30)]
    pack = {".gz": gzip.compress, ".zst": zstd}[packing]
    data = pack((as_array if suffix == ".json" else as_lines)(values).encode())
    for cut in random.sample(range(5, len(data)), 6) + [1, len(data) - 1]:
        path.write_bytes(data[:cut])
        with pytest.raises(InputError) as error:
            data_rows(path)
        assert str(path) in str(error.value) and ("at byte" in str(error.value) or cut < 4), error.value
    path.write_bytes(data + b"more")
    with pytest.raises(InputError, match=f"damaged {text_file.PACKED[packing]} data before byte {len(data) + 4} "):
        data_rows(path)
    flipped = bytearray(gzip.compress(as_lines(values).encode()))
    flipped[random.randrange(len(flipped) // 2, len(flipped))] ^= 1 << random.randrange(8)
    (tmp_path / "b.jsonl.gz").write_bytes(flipped)
    with pytest.raises(InputError, match="b.jsonl.gz: (damaged|cut off)"):
        data_rows(tmp_path / "b.jsonl.gz")


def test_a_damaged_file_ends_each_program_with_one_line(tmp_path, model, prepare):  # noqa: F811
    path, out = tmp_path / "a.jsonl.gz", tmp_path / "out"
    path.write_bytes(gzip.compress(b'{"text": "a"}\n')[:-3])
    message = "cut off: its gzip data do not end, though the file does at byte"
    assert message in refused(path, "--output", out, "--vocab-size", 264)
    assert message in prepare(path, "--tokenizer", model, "--output", out, code=2)[1]
    for name, arguments in {"prepare_eval": ("--tokenizer", model, "--output", tmp_path / "eval"),
                            "generate": ("--model", model, "--threads", 1)}.items():  # fmt: skip
        given = (path,) if name == "prepare_eval" else ("--prompts", path)
        command = [sys.executable, script(name), *map(str, (*given, *arguments))]
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1) and message in done.stderr
    with pytest.raises(InputError, match=message):
        prompts.read_prompts([path], None)


READ = """
import sys
from pathlib import Path
from llmdata.errors import InputError
from llmdata.records import read_rows
for path in sys.argv[1:]:
    try:
        list(read_rows(Path(path)))
    except InputError as error:
        print(error)
"""


def test_what_is_not_there_or_a_folder_is_told_once(tmp_path):
    """In the mode in which Python tells of errors while it clears up, as it does from 3.13 on without being asked."""
    suffixes = (".txt", ".jsonl", ".json", ".parquet", ".jsonl.gz", ".json.zst")
    paths = [tmp_path / f"{name}{suffix}" for name in ("missing", "folder") for suffix in suffixes]
    for path in paths[len(suffixes) :]:
        path.mkdir()
    done = subprocess.run([sys.executable, "-X", "dev", "-c", READ, *paths], cwd=ROOT / "data", capture_output=True, text=True)
    reasons = ["No such file or directory"] * len(suffixes) + ["Is a directory"] * len(suffixes)
    assert done.stdout == "".join(f"{path}: {reason}\n" for path, reason in zip(paths, reasons)) and not done.stderr


TAR = b"a.txt".ljust(257, b"\0") + b"ustar\x0000" + bytes(300)
HINTS = [
    ("a.txt", "na\u00efve".encode("latin-1"), "not UTF-8 at byte offset 2, expected UTF-8; if it is Latin-1 or Windows text: "
     "iconv -f WINDOWS-1252 -t UTF-8 {path} > NEW"),
    ("a b.txt.gz", gzip.compress(b"\xff"), "gzip -dc '{path}' | iconv -f WINDOWS-1252 -t UTF-8 > NEW"),
    ("a.jsonl", b'{"text": "\xe9"}', "line 1: not UTF-8 at byte 10 of the line (if the file is Latin-1"),
    ("a.txt", "text".encode("utf-16"), "UTF-16 text, expected UTF-8: iconv -f UTF-16 -t UTF-8 {path} > NEW"),
    ("a.jsonl", '{"text": "text"}'.encode("utf-16-le"), "iconv -f UTF-16LE -t UTF-8"),
    ("a.jsonl", '{"text": "text"}'.encode("utf-16-be"), "iconv -f UTF-16BE -t UTF-8"),
    ("a.txt", ("text " * 1000).encode("utf-16-le"), "UTF-16LE text"),
    ("a.txt", bytes(1000), "begins with zero bytes, expected text"),
    ("a.jsonl", b'{"text": "a"}\r{"text": "b"}\r', "line 1: not JSON (Extra data; a lone CR ends lines here: tr"),
    ("line\nend.txt", b"\xff", "not UTF-8 at byte offset 0"),
    ("a.txt.zst", zstd("text".encode("utf-32")), "UTF-32 text, expected UTF-8: zstd -dc {path} | iconv -f UTF-32 -t UTF-8 > NEW"),
    ("a.txt", gzip.compress(b"text"), "gzip-compressed, expected text: name it with .gz at the end, or gunzip it"),
    ("a.jsonl", zstd(b"text"), "zstd-compressed, expected text: name it with .zst at the end"),
    ("a.jsonl.gz", zstd(b"text"), "zstd-compressed, though its name ends in .gz"),
    ("a.jsonl.zst", b'{"text": "a"}', "not zstd-compressed, though its name ends in .zst: if it is text, name it without that"),
    ("a.json.gz", gzip.compress(gzip.compress(b"text")), "gzip-compressed, expected text"),
    ("a.tar", TAR, "a tar archive, expected text: unpack it by tar -xf"),
    ("a.tar.gz", gzip.compress(TAR), "a tar archive"),
    ("a.zip", b"PK\x03\x04 and more", "a zip archive, expected text: unpack it by unzip"),
    ("a.txt", b"PK\x03\x04 and more", "a zip archive"),
    ("a.jsonl", b"PAR1\x15\x04", "a Parquet table, expected text: name it with .parquet at the end"),
    ("a.parquet", gzip.compress(b"text"), "not a Parquet file (gzip-compressed"),
    ("a.txt", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", "a Git LFS pointer, expected text: fetch"),
    ("a.pdf", b"%PDF-1.7", "a PDF, expected text"),
    ("a.md", b"text", "expected a name that ends in .txt, .jsonl, .json, .parquet (also with .gz or .zst)"),
    ("a.parquet.gz", gzip.compress(b"text"), "expected a name that ends in"),
    ("a.json", b'{\n "data": [{"text": "a"}]\n}', "one object, expected an array of rows or a row in each line; "),
    ("a.json", b'[{"text": "a"}, {"text": "b"', "row 2: "),
    ("a.json", b'[{"text": "a"} {"text": "b"}]', "row 1: expected a comma or the array's end"),
    ("a.json", b'[{"text": "a"}] [', "row 1: text follows the end of the array"),
    ("a.json", b'[{"text": 1}]', "row 1: expected an object with a string"),
    ("a.json", b"[" + b"[" * 100_000, "row 1: not JSON (nested too deep)"),
    ("a.json", b"[tru]", "row 1: not JSON"),
    ("a.jsonl.zst", b"\x28\xb5\x2f\xfd\x00\xa8\x29\x00\x00hello", "zstd data of a window over 128 MiB: pack it anew, zstd"),
]  # fmt: skip


@pytest.mark.parametrize("name, content, expected", HINTS, ids=range(len(HINTS)))
def test_hints(tmp_path, name, content, expected):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        data_rows(*files.find_files([path], files.FORMATS, files.Notes()))
    shown = str(path).replace("\n", "\ufffd")
    assert str(error.value).startswith(f"{shown}: ") and expected.replace("{path}", shown) in str(error.value), error.value
    assert "\n" not in str(error.value)


def test_iconv_does_what_the_hint_says(tmp_path):
    text = "na\u00efve caf\u00e9 \u201cquoted\u201d\n"
    for name, encoding in (("a b.txt", "cp1252"), ("c.txt.gz", "cp1252"), ("d.txt", "utf-16"), ("e'.txt", "utf-16-be")):
        path = tmp_path / name
        path.write_bytes((gzip.compress if name.endswith("gz") else bytes)(text.encode(encoding)))
        with pytest.raises(InputError) as error:
            text_file.read_text(path)
        command = str(error.value).split(": ")[-1].replace("NEW", "new.txt")
        subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True)
        assert text_file.read_text(tmp_path / "new.txt") == text


# ---- configurations


def test_a_model_s_files_saved_on_windows(tmp_path, trained, prepare):  # noqa: F811
    """They mean the same, and what is copied opens in transformers."""
    chats = write_jsonl(tmp_path / "a.jsonl", *[{"messages": talk(2)} for _ in range(5)])
    folder = model_folder(tmp_path, trained, None)
    (folder / "chat_template.jinja").write_text(CHATML)
    plain = {name: (folder / name).read_bytes() for name in ("tokenizer_config.json", "chat_template.jinja")}
    for name in ("plain", "marked"):
        prepare(chats, "--tokenizer", folder, "--output", tmp_path / name, "--val-fraction", 0)
        for file, content in plain.items():
            (folder / file).write_bytes(ENCODINGS["both"](content))
            assert BOM not in (tmp_path / name / file).read_bytes()
    assert (tmp_path / "plain" / "train_000.bin").read_bytes() == (tmp_path / "marked" / "train_000.bin").read_bytes()
    (folder / "tokenizer.json").write_bytes(BOM + (folder / "tokenizer.json").read_bytes())
    message = f"{folder / 'tokenizer.json'}: begins with a byte order mark, which tokenizers do not take: remove it, tail -c +4"
    assert message in prepare(chats, "--tokenizer", folder, "--output", tmp_path / "c", code=2)[1]
    assert message in refused(chats, "--tokenizer", folder, "--output", tmp_path / "c")
    assert "is a file, expected the folder that holds it" in prepare(
        chats, "--tokenizer", folder / "tokenizer.json", "--output", tmp_path / "c", code=2)[1]  # fmt: skip


def test_a_round_and_a_log_saved_on_windows(tmp_path):
    (tmp_path / "round.json").write_bytes(ENCODINGS["both"](b'{\n"model": "a"\n}\n'))
    assert settings.read_file(tmp_path / "round.json")[1] == {"model": "a"}
    log = b'{"step": 1, "loss": 2.5}\n{"step": 2, "loss": 2.25, "note": "\xe2\x80\xa8"}\n{"step":'
    (tmp_path / "log.jsonl.gz").write_bytes(gzip.compress(ENCODINGS["both"](log)))
    run = plot.read_run(str(tmp_path / "log.jsonl.gz"), "steps")
    assert (run.train, run.unreadable) == ([(1, 2.5), (2, 2.25)], 1)


# ---- memory


@pytest.mark.parametrize("form", [".jsonl.gz", ".json.zst", ".txt.gz", ".parquet"])
def test_memory_of_a_large_compressed_file_is_bounded(tmp_path, form):
    """160 MB of text in a small file."""
    path, text = tmp_path / f"a{form}", ("word " * 2000).encode()
    unit, count = {".txt.gz": (text + b"\n", 256), ".json.zst": (b'{"text": "%s"},\n' % text, 256)}.get(
        form, (b'{"text": "%s"}\n' % text, 256))  # fmt: skip
    block, repeats = unit * count, 64
    if form == ".parquet":
        schema = arrow.schema([("text", arrow.string())])
        with parquet.ParquetWriter(path, schema, compression="zstd", use_dictionary=False) as writer:
            group = arrow.table({"text": [text.decode()] * count * repeats}, schema)
            writer.write_table(group, row_group_size=count * repeats)
            del group
    else:
        pack = gzip.compress(block, 1) if form.endswith("gz") else zstd(block)
        begin, end = ((zstd(b"["), zstd(unit[:-2] + b"]")) if "json.zst" in form else (b"", b""))
        path.write_bytes(begin + pack * repeats + end)
    program = f"""
import re, sys
sys.path.insert(0, {str(ROOT / "data")!r})
import pyarrow.parquet
from pathlib import Path
from llmdata.documents import read_pieces
peak = lambda: int(re.search("VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])  # ru_maxrss begins with the parent's
before = peak()
total = sum(len(piece.text) for piece in read_pieces(Path({str(path)!r}), 1 << 18))
print(total, peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    total, grown = map(int, done.stdout.split())
    assert total >= 64 * 256 * len(text) and grown < 80_000, f"{grown} kB"


@pytest.mark.parametrize("name, data, expected", [
    ("a.jsonl", b'{"text": "' + b"x" * 5000, "line 1 is longer than"),
    ("a.json", b'[{"text": "' + b"x" * 5000, "row 1: longer than"),
])  # fmt: skip
def test_a_row_without_end_is_not_read_whole(tmp_path, monkeypatch, name, data, expected):
    (tmp_path / name).write_bytes(data)
    monkeypatch.setattr(text_file, "READ_BYTES", 64)
    monkeypatch.setattr(text_file, "LONGEST_LINE", 1000)
    monkeypatch.setattr(records, "LARGEST_ROW", 1000)
    with pytest.raises(InputError, match=expected):
        data_rows(tmp_path / name)


# ---- files without text, and those that are left out


def write_blanks(folder):
    """Files without text of every kind."""
    folder.mkdir(exist_ok=True)
    contents = {"a.txt": b"", "b.txt": b" \r\n\n", "c.txt": BOM, "d.txt.gz": b"", "e.txt.gz": gzip.compress(b""),
                "f.jsonl": b"\n \n", "g.jsonl.zst": zstd(BOM + b"\n"), "h.jsonl": b'{"text": ""}\n', "i.parquet": b""}  # fmt: skip
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    parquet.write_table(arrow.table({"text": arrow.array([], arrow.string())}), folder / "j.parquet")
    return len(contents) + 1


def test_files_without_text_are_counted_and_named_at_the_end(tmp_path):
    count = write_blanks(tmp_path / "in")
    (tmp_path / "k.json").write_bytes(b" [ ]\n")
    (tmp_path / "in" / "z.txt").write_text("To be, or not to be, that is the question.\n\n" * 400)
    for name in ("x.md", "y.md", "README", ".hidden.md", "v.tar.gz", "w.json"):
        (tmp_path / "in" / name).write_text("{}")
    arguments = (tmp_path / "in", tmp_path / "k.json", "--vocab-size", 264, "--workers", 1)
    done = prepare_data(*arguments, "--output", tmp_path / "out")
    named = ", ".join(str(tmp_path / "in" / name) for name in ("a.txt", "b.txt", "c.txt"))
    assert (done.returncode, done.stderr) == (0, f"prepare_data: {count + 1} files without text: {named}, ...\n"
        "prepare_data: left out: 2 .md, 1 without ending, 1 .tar.gz, 1 .json "
        "(the names do not end in .txt, .jsonl, .parquet (also with .gz or .zst); a .json file is read where it is "
        "named itself)\n")  # fmt: skip
    assert f"{tmp_path / 'in' / 'a.txt'}: no text in this file, expected some (--strict)" in refused(
        *arguments, "--output", tmp_path / "strict", "--strict")  # fmt: skip
    (tmp_path / "in" / "z.txt").unlink()
    assert f"{tmp_path / 'in' / 'a.txt'}: no text in this file and in the {count} others" in refused(
        *arguments, "--output", tmp_path / "none")  # fmt: skip
    assert not (tmp_path / "none").exists()


def test_chats_without_rows_are_counted_and_named_at_the_end(tmp_path, model, prepare):  # noqa: F811
    good = json.dumps({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]}) + "\n"
    (tmp_path / "in").mkdir()
    for name, content in {"a.jsonl": "", "b.jsonl": "\n", "c.jsonl": good, "d.csv": "", "e.txt": ""}.items():
        (tmp_path / "in" / name).write_text(content)
    (tmp_path / "f.json").write_text("[]")
    arguments = (tmp_path / "in", "--source", tmp_path / "f.json", 2, "--tokenizer", model, "--val-fraction", 0)
    _, error = prepare(*arguments, "--output", tmp_path / "out")
    paths = f"{tmp_path / 'in' / 'a.jsonl'}, {tmp_path / 'in' / 'b.jsonl'}, {tmp_path / 'f.json'}"
    assert f"prepare_chat: 3 files without rows: {paths}\n" in error
    assert "prepare_chat: left out: 1 .csv, 1 .txt (the names do not end in .jsonl, .parquet" in error
    row = next(rows.read_rows(tmp_path / "out" / "train_000.bin"))
    assert json.loads((tmp_path / "out" / "meta.json").read_text())["sources"][row.source]["path"].endswith("c.jsonl")
    error = prepare(*arguments, "--output", tmp_path / "strict", "--strict", code=2)[1]
    assert f"{tmp_path / 'in' / 'a.jsonl'}: no rows in this file, expected some (--strict)" in error


def test_items_without_rows_are_counted_and_named_at_the_end(tmp_path, model):  # noqa: F811
    (tmp_path / "a.jsonl").write_text("\n")
    (tmp_path / "b.jsonl").write_text('{"text": "yes"}\n')
    command = [sys.executable, script("prepare_eval"), tmp_path / "a.jsonl", tmp_path / "b.jsonl", "--tokenizer", model,
               "--output", tmp_path / "c.eval"]  # fmt: skip
    done = subprocess.run([*command, "--strict"], capture_output=True, text=True)
    message = f"prepare_eval: {tmp_path}/a.jsonl: no items in this file, expected some (--strict)\n"
    assert (done.returncode, done.stderr) == (2, message)
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, f"prepare_eval: 1 file without items: {tmp_path}/a.jsonl\n")


def test_what_lies_unpacked_beside_is_read_once(tmp_path, capsys):
    """zstd leaves the file that it packs, gunzip --keep the one that it unpacks."""
    for name in ("a.jsonl", "a.jsonl.zst", "a.txt.gz", "b.TXT", "b.TXT.gz"):
        (tmp_path / name).write_bytes(b"")
    notes = files.Notes()
    assert [path.name for path in files.find_files([tmp_path], files.FORMATS, notes)] == ["a.jsonl", "a.txt.gz", "b.TXT"]
    notes.report("prepare_data", files.FORMATS)
    assert capsys.readouterr().err == "prepare_data: left out: 2 compressed files that lie beside their unpacked copies\n"


def test_prompts_without_rows_are_named(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n")
    (tmp_path / "b.jsonl").write_text('{"prompt": "hi"}\n')
    notes = files.Notes("prompts")
    found, _ = prompts.read_prompts([tmp_path / "a.jsonl", tmp_path / "b.jsonl"], None, notes)
    assert len(found) == 1 and [*notes.blank] == [tmp_path / "a.jsonl"]


def test_links_in_a_folder_and_files_named_beside_it(tmp_path, capsys):
    for name in ("in/a.txt", "in/b.json", "far/c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "in/link").symlink_to(tmp_path / "far")
    (tmp_path / "in/d.txt").symlink_to(tmp_path / "far/c.txt")
    given = [tmp_path / "in", tmp_path / "in/b.json"]
    for more, said in (([], "left out: 1 linked folders; name them"), ([tmp_path / "far"], "")):
        notes = files.Notes()
        found = files.find_files([*given, *more], files.FORMATS, notes)
        assert [path.name for path in found] == ["a.txt", "d.txt", "b.json", *["c.txt" for _ in more]]
        notes.report("program", files.FORMATS)
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == bool(said)


def test_json_in_a_folder_is_read_only_if_it_is_named(tmp_path):
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(InputError, match=r"no .txt, .jsonl, .parquet .* file in this folder \(it has 1 .json; a .json "):
        files.find_files([tmp_path], files.FORMATS, files.Notes())
    assert files.find_files([tmp_path / "a.json"], files.FORMATS, files.Notes()) == [tmp_path / "a.json"]
