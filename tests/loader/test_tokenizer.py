"""Decoding against `tokenizers`, and the files that are refused."""

import hashlib
import json
from contextlib import contextmanager
from ctypes import byref, c_void_p, create_string_buffer

import numpy as np
import pytest
import tokenizers

from hostlib import INPUT, call, expect_refusal, fresh_random, library, path_bytes, pointer

pytestmark = pytest.mark.checked

# Llama 3 splits by a pattern, then maps bytes to characters without splitting by them
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEXT = "To be, or not to be: that is the question.\n\tWhether 'tis nobler — ñandú, Ġ, 東京, 🙂 — in 1602?\x00\x7f\u00ad  "


SENTENCEPIECE = [
    {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
    {"type": "ByteFallback"},
    {"type": "Fuse"},
    {"type": "Strip", "content": " ", "start": 1, "stop": 0},
]  # Llama 2's decoder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(tokenizers.Regex(SPLIT), "isolated"),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|begin_of_text|>", "<|end_of_text|>"],
        show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator([TEXT] * 50, trainer)
    tokenizer.add_tokens(["Ġnée"])  # an added token that is not special, all of characters of the byte map
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(path))
    return tokenizer, path


@contextmanager
def opened(path):
    handle = c_void_p()
    call("tokenizer_open", byref(handle), path_bytes(path))
    try:
        yield handle
    finally:
        library.tokenizer_close(handle)


def decode(handle, ids, skip_special=False):
    ids = np.asarray(ids, np.int32)
    need = library.tokenizer_decode(handle, pointer(ids), len(ids), skip_special, None, 0)
    buffer = create_string_buffer(b"\xaa" * (need + 9))
    assert library.tokenizer_decode(handle, pointer(ids), len(ids), skip_special, buffer, need + 1) == need
    assert buffer.raw[need : need + 9] == b"\0" + b"\xaa" * 8
    return buffer.raw[:need]


def test_round_trip(trained):
    tokenizer, path = trained
    with opened(path) as handle:
        assert library.tokenizer_vocab_size(handle) == tokenizer.get_vocab_size()
        assert bytes(library.tokenizer_sha256(handle)[:32]) == hashlib.sha256(path.read_bytes()).digest()
        assert decode(handle, tokenizer.encode(TEXT).ids) == TEXT.encode()
        assert decode(handle, []) == b""


def test_random_ids_against_tokenizers(trained):
    tokenizer, path = trained
    rng = fresh_random()
    with opened(path) as handle:
        added = tokenizer.token_to_id("Ġnée")
        for skip in (False, True):
            for _ in range(50):
                ids = rng.integers(0, added, 40)
                ours = decode(handle, ids, skip).decode(errors="replace")
                assert ours == tokenizer.decode(ids.tolist(), skip_special_tokens=skip)
        for skip in (False, True):
            assert decode(handle, [added], skip) == "Ġnée".encode()  # by its content


DECODERS = {
    "llama 2": {"type": "Sequence", "decoders": SENTENCEPIECE},
    "nested": {"type": "Sequence", "decoders": [{"type": "Sequence", "decoders": SENTENCEPIECE[:2]}, *SENTENCEPIECE[2:]]},
    "gemma": {"type": "Sequence", "decoders": SENTENCEPIECE[:3]},
    "two blanks": {"type": "Sequence", "decoders": [*SENTENCEPIECE[:3], SENTENCEPIECE[3] | {"start": 2}]},
    "no bytes": {"type": "Sequence", "decoders": [SENTENCEPIECE[0], *SENTENCEPIECE[2:]]},
    "replace": SENTENCEPIECE[0],
    "metaspace": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False},
    "metaspace without": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": False},
    "metaspace with bytes": {
        "type": "Sequence",
        "decoders": [{"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}, *SENTENCEPIECE[1:3]],
    },
}


@pytest.mark.parametrize("kind", DECODERS)
def test_decoders_against_tokenizers(tmp_path, kind):
    """Blanks at the begin, rows of byte tokens that are text, that are none and that special tokens stand in."""
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "<0xaf>", "<0x+F>", "<0xG0>", "<0x0A >"]
    names += ["▁", "▁▁", "▁a", "a▁", "▁▁b▁", "c", "ñ", "東", " ", "  d"]
    vocab = {name: number for number, name in enumerate(names)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.add_special_tokens(names[:3])
    tokenizer.add_tokens(["▁added▁"])
    fields = json.loads(tokenizer.to_str()) | {"decoder": DECODERS[kind]}
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(fields))
    tokenizer, rng = tokenizers.Tokenizer.from_file(str(path)), fresh_random()
    text, bytes_of = np.arange(259, len(names) + 1), 3 + np.frombuffer("é▁東🦙 \n".encode(), np.uint8)
    with opened(path) as handle:
        for round in range(600):
            ids = rng.choice(text, 30)
            several = rng.random(30)
            ids[several < 0.3] = rng.choice(bytes_of, 30)[several < 0.3]
            ids[several < 0.08] = rng.integers(0, 3, 30)[several < 0.08]
            at = rng.integers(0, 20)
            ids[at : at + len(bytes_of)] = bytes_of[: len(ids) - at]  # a row that is text if none of its neighbours is a byte
            ids = ids[: rng.integers(0, 31)]
            for skip in (False, True):
                assert decode(handle, ids, skip).decode() == tokenizer.decode(ids.tolist(), skip_special_tokens=skip), ids


def test_all_bytes(trained):
    tokenizer, path = trained
    with opened(path) as handle:
        alphabet = [
            decode(handle, [tokenizer.token_to_id(c)]) for c in tokenizers.pre_tokenizers.ByteLevel.alphabet()
        ]
    assert sorted(alphabet) == [bytes([b]) for b in range(256)]


def test_special_unknown_and_short_buffers(trained):
    tokenizer, path = trained
    with opened(path) as handle:
        bos = tokenizer.token_to_id("<|begin_of_text|>")
        assert decode(handle, [bos]) == b"<|begin_of_text|>" and decode(handle, [bos], True) == b""
        assert decode(handle, [-1, 10**6, 2**31 - 1]) == "\ufffd".encode() * 3
        ids = np.asarray([bos] * 3, np.int32)
        whole = b"<|begin_of_text|>" * 3
        for capacity in range(1, 60):
            buffer = create_string_buffer(b"\xaa" * 80)
            assert library.tokenizer_decode(handle, pointer(ids), 3, False, buffer, capacity) == len(whole)
            fits = whole[: capacity - 1]
            assert (
                buffer.raw[: len(fits) + 1] == fits + b"\0"
                and buffer.raw[capacity : capacity + 4] == b"\xaa" * 4
            )


def change(path, out, edit):
    content = json.loads(path.read_text())
    edit(content)
    out.write_text(json.dumps(content))


def put(*where, value):
    def edit(content):
        for name in where[:-1]:
            content = content[name]
        content[where[-1]] = value

    return edit


@pytest.mark.parametrize(
    "edit, words",
    [
        (put("model", "type", value="WordPiece"), ["WordPiece", "BPE"]),
        (put("model", value=None), ["model"]),
        (put("model", "vocab", value=[]), ["vocab"]),
        (put("model", "vocab", value={}), ["vocab"]),
        (put("model", "vocab", "x", value="7"), ["vocab", '"x"']),
        (put("model", "vocab", "x", value=-1), ["vocab", '"x"']),
        (put("model", "vocab", "x", value=1.5), ["vocab", '"x"']),
        (put("model", "vocab", "x", value=2**40), ["vocab", '"x"']),
        (put("model", "vocab", "xyzxyz", value=5), ["id 5", "twice", "xyzxyz"]),
        (put("decoder", value=None), ["decoder", "ByteLevel"]),
        (put("decoder", value={"type": "Metaspace"}), ["decoder is Metaspace", "ByteLevel"]),
        (put("decoder", value={"type": "WordPiece", "prefix": "##", "cleanup": True}), ["decoder is WordPiece", "ByteLevel"]),
        (put("decoder", value=SENTENCEPIECE[1:]), ["decoder is ", "ByteFallback"]),
        *(
            (put("decoder", value={"type": "Sequence", "decoders": parts}), ["decoder is " + ", ".join(p["type"] for p in parts)])
            for parts in (
                SENTENCEPIECE[1:],
                SENTENCEPIECE[::-1],
                SENTENCEPIECE[:2] + SENTENCEPIECE[3:],  # blanks stripped from each token
                [{"type": "ByteLevel"}, {"type": "ByteFallback"}],
                [SENTENCEPIECE[0] | {"content": "_"}],
                [SENTENCEPIECE[0] | {"pattern": {"Regex": "▁"}}],
                [*SENTENCEPIECE[:3], SENTENCEPIECE[3] | {"stop": 1}],
                [*SENTENCEPIECE[:3], SENTENCEPIECE[3] | {"content": "x"}],
            )
        ),
        (put("added_tokens", value={}), ["added_tokens"]),
        (put("added_tokens", 0, value=5), ["added_tokens"]),
        (put("added_tokens", 0, "id", value=-5), ["added_tokens", "id"]),
        (put("added_tokens", 0, "id", value=1), ["added_tokens", "id 1", "twice"]),
        (put("added_tokens", 0, "content", value=None), ["added_tokens", "content"]),
    ],
)
def test_malformed(trained, tmp_path, edit, words):
    path = tmp_path / "tokenizer.json"
    change(trained[1], path, edit)
    expect_refusal(INPUT, [path, *words], "tokenizer_open", byref(c_void_p()), path_bytes(path))


@pytest.mark.parametrize("cut", [0, 1, 100, -1, -2])
def test_truncated(trained, tmp_path, cut):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(trained[1].read_bytes().rstrip()[:cut])
    expect_refusal(INPUT, [path, "JSON"], "tokenizer_open", byref(c_void_p()), path_bytes(path))


def test_missing(tmp_path):
    expect_refusal(INPUT, ["missing"], "tokenizer_open", byref(c_void_p()), path_bytes(tmp_path / "missing"))
