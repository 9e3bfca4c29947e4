"""SentencePiece's tokenizer.model, converted: ids are those of the library itself, and a model without a counterpart is refused."""

import json
import random

import pytest

import tokenizerkinds as kinds

from llmdata import sentencepiece_model  # noqa: E402
from llmdata import tokenizer as tokenizers  # noqa: E402
from llmdata.errors import InputError  # noqa: E402
from llmdata.tokenizer import open_tokenizer  # noqa: E402

VARIANTS = {
    "llama 2": {},
    "no prefix": dict(add_dummy_prefix=False),
    "no bytes": dict(byte_fallback=False, vocab_size=300),
    "other tokens": dict(bos_piece="<begin>", eos_piece="<end>", unk_piece="<what>", pad_id=3, pad_piece="<pad>"),
    "no begin": dict(bos_id=-1, eos_id=1),
    "words in words": dict(split_by_whitespace=False, split_by_unicode_script=False, split_digits=False, max_sentencepiece_length=24),
}


def runs():
    """Of the same few characters: what is joined first shows there."""
    return "".join(random.choice([" ", "  ", "e", "ee", "t", "et", "-", "1", "a"]) * random.randint(1, 9) for _ in range(20))


def texts(count):
    odd = ["", " ", "   ", "\n", "▁", "▁▁a ▁", "<s>", "a</s>b<unk>", "<0x41>", "\u0000", "\ud7ff\uffff", "e" * 400, " " * 300]
    return odd + [kinds.text(random.randint(1, 60)) for _ in range(count)] + [runs() for _ in range(count)]


@pytest.mark.parametrize("variant", VARIANTS)
def test_ids_and_texts_are_the_librarys(tmp_path, variant):
    theirs = kinds.write_model(tmp_path / "tokenizer.model", **VARIANTS[variant])
    begin = theirs.bos_id() if theirs.bos_id() >= 0 else theirs.eos_id()
    ours = tokenizers.load(tmp_path, None if theirs.bos_id() >= 0 else theirs.id_to_piece(begin), None)
    assert ours.vocab_size == theirs.vocab_size() and not ours.guessed
    assert (ours.bos, ours.eos) == (begin, None if begin == theirs.eos_id() else theirs.eos_id())
    ours.save(tmp_path)
    encoder = tokenizers.encoder(tmp_path / "tokenizer.json")
    for text in texts(150):
        ids = encoder.encode(text, add_special_tokens=False).ids
        assert ids == theirs.encode(text), repr(text)
        if theirs.unk_id() not in ids:
            assert encoder.decode(ids) == theirs.decode(ids), repr(text)


def test_text_becomes_no_token_of_a_text_by_merging(tmp_path):
    """Where the parts of "<s>" are pieces too."""
    sentences = [f"{letter}<s {letter}s> s>{letter} {letter}</ /s>{letter}" for letter in kinds.LETTERS] * 99
    theirs = kinds.write_model(tmp_path / "tokenizer.model", sentences, split_by_unicode_script=False, split_digits=False)
    assert theirs.piece_to_id("<s") != theirs.unk_id() != theirs.piece_to_id("s>")
    tokenizers.load(tmp_path, None, None).save(tmp_path)
    encoder = tokenizers.encoder(tmp_path / "tokenizer.json")
    for text in ("<s>", "a</s>", "<0x41>", "s><s></s><s", "<unk>"):
        assert encoder.encode(text, add_special_tokens=False).ids == theirs.encode(text)


def test_pieces_in_another_order_than_that_of_their_scores(tmp_path):
    import sentencepiece

    def field(number, data):
        size = len(data)
        return bytes([8 * number + sentencepiece_model.LENGTH]) + bytes([size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14]) + data

    path = tmp_path / "tokenizer.model"
    kinds.write_model(path)
    fields = list(sentencepiece_model._fields(path.read_bytes()))
    pieces = [data for number, data in fields if number == 1]
    pieces[259:] = random.sample(pieces[259:], len(pieces) - 259)
    path.write_bytes(b"".join(field(1, data) for data in pieces) + b"".join(field(*one) for one in fields if one[0] != 1))
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(path))
    tokenizers.load(tmp_path, None, None).save(tmp_path)
    encoder = tokenizers.encoder(tmp_path / "tokenizer.json")
    for text in texts(100):
        assert encoder.encode(text, add_special_tokens=False).ids == theirs.encode(text), repr(text)


@pytest.mark.parametrize("fields, begin, end", [
    (None, [1], []), ({}, [1], []), ({"add_bos_token": True, "add_eos_token": False}, [1], []),
    ({"add_bos_token": False}, [], []), ({"add_bos_token": False, "add_eos_token": True}, [], [2]), ({"add_eos_token": True}, [1], [2]),
])  # fmt: skip
def test_what_stands_around_a_text(tmp_path, fields, begin, end):
    """Llama's begin token, unless tokenizer_config.json says otherwise; a text that looks like a token is none."""
    theirs = kinds.write_model(tmp_path / "tokenizer.model")
    if fields is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(fields))
    tokenizer = open_tokenizer(tmp_path)
    assert tokenizer.encode("ten  sun").ids == begin + theirs.encode("ten  sun") + end
    assert tokenizer.encode("</s>", add_special_tokens=False).ids == [2]
    tokenizer.encode_special_tokens = True
    assert tokenizer.encode("</s>", add_special_tokens=False).ids == theirs.encode("</s>")


@pytest.mark.parametrize("options, words", [
    (dict(model_type="unigram", vocab_size=400), "model_type is 1, expected 2"),
    (dict(normalization_rule_name="nmt_nfkc"), "precompiled_charsmap is "),
    (dict(remove_extra_whitespaces=True), "remove_extra_whitespaces is 1, expected 0"),
    (dict(treat_whitespace_as_suffix=True), "treat_whitespace_as_suffix is 1, expected 0"),
    (dict(user_defined_symbols=["<tool>"]), "piece 3 is user-defined"),
])  # fmt: skip
def test_what_is_refused(tmp_path, options, words):
    path = tmp_path / "tokenizer.model"
    kinds.write_model(path, **options)
    with pytest.raises(InputError) as refused:
        tokenizers.load(tmp_path, None, None)
    assert str(refused.value).startswith(f"{path}: {words}") and "transformers" in str(refused.value)


def test_damaged_files(tmp_path):
    path = tmp_path / "tokenizer.model"
    kinds.write_model(path)
    whole = path.read_bytes()
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(random.randint(1, 4)):
            damaged[random.randrange(1, len(damaged))] = random.randrange(256)
        path.write_bytes(damaged[: random.choice([len(damaged), random.randrange(1, len(damaged))])])
        try:
            tokenizers.load(tmp_path, None, None)
        except InputError as error:
            assert str(error).startswith(f"{path}: ") or str(error).startswith("--")
            assert "\n" not in str(error)
