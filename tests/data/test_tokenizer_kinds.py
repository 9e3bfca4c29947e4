"""Tokenizers of every kind through generate.py, chats and the stream of a text, against transformers."""

import json
import pathlib
import random
import sys

import numpy as np
import pytest
import torch

import llmc
import tokenizerkinds as kinds
from model import LEAD, TINY, greedy_text, transformers_model

ROOT = pathlib.Path(__file__).resolve().parents[2]
from llmdata.chat_template import Template  # noqa: E402
from llmdata.detokenizer import TextStream, decode_behind  # noqa: E402
from checkout import load_script

PRECISION = "fp32" if "fp32" in llmc.build_folders() else "bf16"
TARGET = "cpu" if all("cuda" not in folder.name for folder in llmc.build_folders().values()) else "cuda"

generate = load_script("generate")


def generated(monkeypatch, capsys, folder, *arguments, code=0):
    """(stdout, stderr) of generate.py."""
    command = ["generate.py", "--model", folder, "--target", TARGET, "--precision", PRECISION, *arguments]
    monkeypatch.setattr(sys, "argv", list(map(str, command)))
    capsys.readouterr()
    assert generate.main() == code
    return capsys.readouterr()


def model_in(folder, tokenizer, eos):
    model = transformers_model(TINY | dict(vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=256), torch.float32)
    for config in (model.config, model.generation_config):
        config.bos_token_id, config.eos_token_id, config.pad_token_id = None, tokenizer.token_to_id(eos), 0
    model.save_pretrained(folder)
    return model


def opened(folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("kind", ["llama 3", "smollm", "llama 2", "with an end"])
def test_greedy_texts_are_transformers(tmp_path, monkeypatch, capsys, kind):
    """With what the tokenizer itself puts around a prompt; an end behind it ends no text. Text goes on with its blanks."""
    tokenizer = kinds.write(tmp_path, kind)
    prompts, leads = ["Once upon a time", kinds.text(6), " a blank first"], [0]
    while min(leads) <= LEAD:
        model, theirs = model_in(tmp_path, tokenizer, kinds.KINDS[kind][0][1]), opened(tmp_path)
        texts, leads = zip(*(greedy_text(model, theirs(prompt).input_ids, 20) for prompt in prompts))
    arguments = ("--json", "--temperature", 0, "--max-tokens", 20, *(f"--prompt={prompt}" for prompt in prompts))
    out, _ = generated(monkeypatch, capsys, tmp_path, *arguments)
    found = sorted((json.loads(line) for line in out.split("\n") if line), key=lambda text: text["index"])
    assert [text["prompt"] for text in found] == prompts
    for prompt, text, new in zip(prompts, found if PRECISION == "fp32" else [], texts):
        ids = theirs(prompt).input_ids
        assert text["tokens"] == len(new)
        assert text["text"] == decode_behind(tokenizer, new)
        if not theirs.decode(ids, skip_special_tokens=True).endswith("\ufffd"):
            both = theirs.decode(ids, skip_special_tokens=True) + text["text"]
            assert both == theirs.decode(ids + new, skip_special_tokens=True) or "\ufffd" in both


def test_one_prompt_streams_with_its_blanks(tmp_path, monkeypatch, capsys):
    tokenizer = kinds.write(tmp_path, "llama 2")
    model_in(tmp_path, tokenizer, "</s>")
    arguments = ("--prompt=Once upon", "--temperature", 0.9, "--seed", 4, "--max-tokens", 40)
    out, said = generated(monkeypatch, capsys, tmp_path, *arguments)
    whole = json.loads(generated(monkeypatch, capsys, tmp_path, "--json", *arguments)[0])
    assert out == "Once upon" + whole["text"] + "\n"
    assert said.count("tokens/s") == (whole["tokens"] >= generate.FEWEST_FOR_A_RATE)
    _, said = generated(monkeypatch, capsys, tmp_path, *arguments, "--max-tokens", 3)
    assert "tokens/s" not in said and "3 new tokens" in said


# ---- text as it comes


def random_ids(tokenizer, count):
    """Words, bytes that are text and bytes that are none, special tokens and unknown ids among them."""
    size, ids = tokenizer.get_vocab_size() + 3, []  # a model may have more ids than its tokenizer
    while len(ids) < count:
        part = random.random()
        if part < 0.4:
            ids += tokenizer.encode(kinds.text(2), add_special_tokens=False).ids
        elif part < 0.7:
            ids += [tokenizer.token_to_id(token) or 0 for token in random.choices(kinds.BYTES, k=random.randint(1, 3))]
        else:
            ids += random.choices(range(size), k=2)
    return ids[:count]


@pytest.mark.parametrize("kind", kinds.KINDS)
def test_pieces_are_the_whole_text(tmp_path, kind):
    tokenizer = kinds.write(tmp_path, kind)
    for _ in range(150):
        ids = random_ids(tokenizer, random.randint(1, 40))
        for follows, whole in ((False, tokenizer.decode(ids)), (True, decode_behind(tokenizer, ids))):
            stream = TextStream(tokenizer, [], follows)
            pieces = [*map(stream.add, ids), stream.finish()]
            assert "".join(pieces) == stream.text == whole, ids


@pytest.mark.parametrize("kind", kinds.KINDS)
def test_text_goes_on_behind_another(tmp_path, kind):
    """What is behind a prompt is what the whole has more than the prompt, where no bytes meet at its end."""
    tokenizer = kinds.write(tmp_path, kind)
    prompt = tokenizer.encode("some words", add_special_tokens=False).ids
    for _ in range(100):
        ids = random_ids(tokenizer, 20)
        assert tokenizer.decode(prompt) + decode_behind(tokenizer, ids) == tokenizer.decode(prompt + ids), ids


def test_words_come_at_once(tmp_path):
    tokenizer = kinds.write(tmp_path, "llama 2")
    ids = tokenizer.encode("ten sun é the don\nson", add_special_tokens=False).ids
    stream = TextStream(tokenizer, [])
    for place, token in enumerate(ids):
        stream.add(token)
        if tokenizer.id_to_token(token) not in kinds.BYTES:
            assert stream.text == tokenizer.decode(ids[: place + 1])


# ---- chats


def talk(turns=2):
    return [{"role": role, "content": kinds.text(random.randint(1, 12))} for _ in range(turns) for role in ("user", "assistant")]


def joined(parts):
    return np.concatenate(parts).tolist()


@pytest.mark.parametrize("template", kinds.TEMPLATES)
@pytest.mark.parametrize("kind", kinds.KINDS)
def test_chats_are_transformers(tmp_path, kind, template):
    tokenizer = kinds.write(tmp_path, kind, template)
    ours, theirs = Template(tmp_path, tokenizer), opened(tmp_path)
    for _ in range(20):
        messages = talk()
        want = theirs.apply_chat_template(messages, tokenize=True, return_dict=False)
        assert joined(ours.encode(ours.pieces(messages, False), [])) == want
        want = theirs.apply_chat_template(messages[:-1], tokenize=True, add_generation_prompt=True, return_dict=False)
        assert ours.ask(messages[:-1]) == want


@pytest.mark.parametrize("template", kinds.TEMPLATES)
@pytest.mark.parametrize("kind", kinds.KINDS)
def test_pieces_by_themselves_have_the_blanks_of_the_whole(tmp_path, kind, template):
    """Where a message has the text of a special token all pieces are encoded apart: the text is that of the whole again, no blank
    more or less, and nothing that is said is a special token."""
    tokenizer = kinds.write(tmp_path, kind, template)
    ours = Template(tmp_path, tokenizer)
    for _ in range(20):
        messages = talk()
        evil = [m | {"content": m["content"] + random.choice([*kinds.TURNS, *kinds.KINDS[kind][0]]) + "x"} for m in messages]
        plain, said = ours.pieces(messages, False), ours.pieces(evil, False)
        parts = ours.encode(said, [])
        for piece, ids in zip(said, parts):
            assert piece.message is None or not np.isin(ids, ours.special_ids).any()
        # decoded each for itself, as the whole has them: a special token's neighbours keep the blank that the tokenizer adds
        apart, whole = joined(ours._encode_apart(plain)), joined(ours.encode(plain, []))
        assert decode_behind(tokenizer, apart, False) == decode_behind(tokenizer, whole, False)
