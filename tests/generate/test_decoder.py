"""Decoding with a cache of keys and values: logits against the full forward pass, greedy texts against transformers'
generate, and what must not change a row."""

import ctypes

import pytest
import torch

import compare
from model import LEAD, TINY, Error, Model, greedy_text, transformers_model

# As in tests/model/test_model.py: PyTorch's own bf16 error on models of this kind is some per cent.
MODEL_LIMIT = 6e-2

LLAMA31 = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)

SHAPES = {
    "grouped_dim_16": dict(),
    "tied_dim_64": dict(tie_word_embeddings=True, head_dim=64),
    "nine_heads_over_three": dict(num_attention_heads=9, num_key_value_heads=3, hidden_size=144),
    "llama31_rope_dim_128": dict(rope_scaling=LLAMA31, rope_theta=500000.0, head_dim=128, num_attention_heads=2,
                                 num_key_value_heads=1),
    "one_kv_head_dim_48": dict(num_attention_heads=6, num_key_value_heads=1, head_dim=48, hidden_size=96),
    "as_many_kv_heads": dict(num_key_value_heads=4, num_hidden_layers=3),
}


class Sizes(ctypes.Structure):
    """llmc/generate/decoder.h"""

    _fields_ = [("rows", ctypes.c_int), ("capacity", ctypes.c_int), ("step", ctypes.c_int), ("pages", ctypes.c_int64)]


class Decoder:
    """Rows of texts over a Model."""

    def __init__(self, model, rows, capacity, step=0, pages=0):
        self.model, self.lib, self.V = model, model.lib, model.tensors[0].rows
        self.handle, error = ctypes.c_void_p(), Error()
        sizes = Sizes(rows, capacity, step, pages)
        code = self.lib.decoder_create(ctypes.byref(self.handle), model.handle, ctypes.byref(sizes), ctypes.byref(error))
        assert code == 0, error.message.decode()

    def __del__(self):
        if getattr(self, "handle", None):
            self.lib.decoder_destroy(self.handle)

    def call(self, name, *arguments):
        """(code, message) of a fallible function."""
        error = Error()
        code = getattr(self.lib, name)(self.handle, *arguments, ctypes.byref(error))
        return code, error.message.decode()

    def prefill(self, row, tokens):
        tokens = torch.as_tensor(tokens, dtype=torch.int32)
        assert self.call("decoder_prefill", row, tokens, len(tokens)) == (0, "")
        return self.logits(row)

    def step(self, rows, tokens):
        rows, tokens = torch.as_tensor(rows, dtype=torch.int32), torch.as_tensor(tokens, dtype=torch.int32)
        assert self.call("decoder_step", rows, tokens, len(rows)) == (0, "")
        return torch.stack([self.logits(int(row)) for row in rows])

    def logits(self, row):
        address = self.lib.decoder_logits(self.handle, row)
        return torch.tensor((ctypes.c_float * self.V).from_address(address))

    def greedy(self, prompts, count):
        """`count` tokens behind each prompt, all rows at once."""
        tokens = [[int(self.prefill(row, prompt).argmax())] for row, prompt in enumerate(prompts)]
        rows = list(range(len(prompts)))
        while len(tokens[0]) < count:
            for text, logits in zip(tokens, self.step(rows, [t[-1] for t in tokens])):
                text.append(int(logits.argmax()))
        return tokens


def make(lib, fields, T=256, training=False):
    """(Model, its reference in float64)"""
    reference = transformers_model(fields)
    model = Model(lib, fields, 1, T, training=training)
    model.set_weights(reference.state_dict())
    return model, reference


def prompts_of(V, lengths):
    return [torch.randint(V, (n,)).tolist() for n in lengths]


@pytest.fixture
def fp32():
    import llmc

    if "fp32" not in llmc.build_folders():
        pytest.skip("no fp32 build")
    return llmc.load("fp32")


def texts_without_ties(reference, V, lengths, count):
    """Prompts and their texts; one text in a few has a step that is luck, and is drawn again."""
    prompts, texts = [], []
    for length in lengths:
        while True:
            (prompt,) = prompts_of(V, [length])
            text, lead = greedy_text(reference, prompt, count)
            print(f"prompt of {length}: smallest lead {lead:.2g}")
            if lead > LEAD:
                break
        prompts.append(prompt), texts.append(text)
    return prompts, texts


@pytest.mark.parametrize("shape", SHAPES)
def test_greedy_is_transformers(fp32, shape):
    """120 tokens behind prompts of several lengths, in one batch and one at a time, token for token."""
    fields = TINY | SHAPES[shape]
    model, reference = make(fp32, fields)
    reference = reference.float()
    # a text of random weights may run on as well behind what would be an end token
    reference.generation_config.eos_token_id = reference.config.eos_token_id = None
    reference.generation_config.pad_token_id = 0
    prompts, expected = texts_without_ties(reference, fields["vocab_size"], [1, 7, 64, 30], 120)
    assert all(len(text) == 120 for text in expected)
    assert Decoder(model, 4, 256).greedy(prompts, 120) == expected
    alone = Decoder(model, 1, 200)
    assert [alone.greedy([prompt], 120)[0] for prompt in prompts] == expected


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_of_steps_are_those_of_the_full_pass(lib, shape):
    fields = TINY | SHAPES[shape]
    model, reference = make(lib, fields, T=400)
    texts = prompts_of(fields["vocab_size"], [300, 290])
    decoder, starts = Decoder(model, 3, 400), [270, 255]
    ours = [[decoder.prefill(2 - i, text[:start])] for i, (text, start) in enumerate(zip(texts, starts))]
    for step in range(20):
        found = decoder.step([2, 1], [text[start + step] for text, start in zip(texts, starts)])
        for logits, one in zip(ours, found):
            logits.append(one)
    half = transformers_model(fields, torch.bfloat16) if lib.precision == "bf16" else None
    if half:
        half.load_state_dict(reference.state_dict())
    with torch.no_grad():
        for i, (text, start) in enumerate(zip(texts, starts)):
            ids = torch.tensor([text[: start + 20]])
            expected = reference(ids).logits[0, start - 1 :]
            theirs = half(ids).logits[0, start - 1 :] if half else None
            compare.check(f"row {i}", torch.stack(ours[i]), expected, theirs, MODEL_LIMIT)


def test_rows_do_not_feel_each_other(lib):
    """The same bits for a row alone, beside others, behind others that ended, and in another row. (On a GPU products of
    other sizes may sum in another order.)"""
    if not lib.on_cpu:
        pytest.skip("cuBLASLt chooses by shape")
    fields = TINY | dict(num_hidden_layers=3)
    model, _ = make(lib, fields)
    first, second, third = prompts_of(fields["vocab_size"], [40, 5, 90])
    decoder = Decoder(model, 3, 160)
    alone = torch.stack([decoder.prefill(0, first), *(decoder.step([0], [t])[0] for t in range(10))])
    decoder.prefill(0, second), decoder.prefill(1, third)
    beside = [decoder.prefill(2, first)]
    for t in range(5):
        beside.append(decoder.step([1, 2, 0], [7, t, 9])[1])
    for t in range(5, 10):
        beside.append(decoder.step([2], [t])[0])
    assert torch.equal(torch.stack(beside), alone)


def test_padded_steps_have_the_same_bits(lib):
    """Where steps have more rows than the product for few rows takes, a row has the same bits in each padded one."""
    rows, fields = 31, TINY | dict(hidden_size=192, intermediate_size=800)
    model, _ = make(lib, fields)
    decoder = Decoder(model, rows + 2, 96)
    lib.decoder_pad_steps(decoder.handle, rows)
    prompts = prompts_of(fields["vocab_size"], [3 + row % 7 for row in range(rows)])
    for row, prompt in enumerate(prompts):
        decoder.prefill(row, prompt)
    together = torch.stack([decoder.step(list(range(rows)), [row + t for row in range(rows)]) for t in range(6)])
    for row, prompt in enumerate(prompts):
        decoder.prefill(row, prompt)
    for t, counts in enumerate([(31,), (13, 18), (1, 30), (29, 2), (20, 11), (8, 23)]):
        found, first = [], 0
        for count in counts:
            chosen = list(range(first, first + count))[::-1]
            found.append(decoder.step(chosen, [row + t for row in chosen]).flip(0))
            first += count
        assert torch.equal(torch.cat(found), together[t]), counts


def test_same_bits_in_any_order_of_threads(lib):
    fields = TINY
    model, _ = make(lib, fields)
    prompts = prompts_of(fields["vocab_size"], [3, 20])
    decoder = Decoder(model, 2, 64)

    def run():
        found = [decoder.prefill(row, prompt) for row, prompt in enumerate(prompts)]
        return torch.stack(found + [logits for t in range(3) for logits in decoder.step([1, 0], [t, t + 1])])

    lib.forms(run)


def test_copied_row(lib):
    """A copy goes on as the original would, and neither feels the other afterwards."""
    fields = TINY
    model, _ = make(lib, fields)
    decoder = Decoder(model, 4, 128)
    (prompt,) = prompts_of(fields["vocab_size"], [70])
    for row in (0, 2, 3):
        decoder.prefill(row, prompt)
    assert decoder.call("decoder_copy", 1, 0) == (0, "")
    assert lib.decoder_length(decoder.handle, 1) == 70
    assert torch.equal(decoder.logits(1), decoder.logits(0))
    for t in range(4):
        found = decoder.step([0, 1, 2, 3], [t, 100 - t, 100 - t, t])
        assert torch.equal(found[1], found[2]) and torch.equal(found[0], found[3]) and not torch.equal(found[0], found[1])


def test_beside_training(lib):
    """A decoder over a model with optimizer state, with recomputation or not, sees the weights as they are."""
    fields = TINY
    reference = transformers_model(fields)
    for recompute in ("none", "cheap", "block"):
        model = Model(lib, fields, 2, 64, recompute=recompute)
        model.set_weights(reference.state_dict())
        decoder = Decoder(model, 1, 64)
        (tokens,) = prompts_of(fields["vocab_size"], [20])
        decoder.prefill(0, tokens[:10])
        for token in tokens[10:]:
            last = decoder.step([0], [token])[0]
        theirs = None
        with torch.no_grad():
            expected = reference(torch.tensor([tokens])).logits[0, -1]
            if lib.precision == "bf16":
                half = transformers_model(fields, torch.bfloat16)
                half.load_state_dict(reference.state_dict())
                theirs = half(torch.tensor([tokens])).logits[0, -1]
        compare.check("logits", last, expected, theirs, MODEL_LIMIT)


def test_refused(lib):
    """One message each, and the rows as before."""
    model, _ = make(lib, TINY, T=64)
    decoder = Decoder(model, 2, 20)
    before = decoder.prefill(0, list(range(20)))
    ids = torch.arange(64, dtype=torch.int32)
    bad = torch.tensor([0, 193], dtype=torch.int32)
    for arguments, message in {
        ("decoder_prefill", 0, ids, 0): "the prompt is empty",
        ("decoder_prefill", 0, ids, 21): "the prompt has 21 tokens, the context holds 20",
        ("decoder_prefill", 0, bad, 2): "token 1 has the id 193, the model's vocabulary has 193 ids",
        ("decoder_prefill", 2, ids, 3): "row 2, expected 0 to 1",
        ("decoder_step", ids, ids, 1): "row 0: its context of 20 tokens is full",
        ("decoder_step", ids[2:], ids, 1): "row 2: expected one of the 2 rows",
        ("decoder_step", ids, ids, 3): "a step of 3 tokens, expected 1 to 2",
    }.items():
        code, found = decoder.call(*arguments)
        assert code == 2 and found.startswith(message), found
    assert torch.equal(decoder.logits(0), before) and lib.decoder_length(decoder.handle, 0) == 20
    for sizes in (Sizes(0, 10), Sizes(1, 65), Sizes(1, 0), Sizes(1, 10, -1), Sizes(1, 10, 0, -1)):
        handle, error = ctypes.c_void_p(), Error()
        assert lib.decoder_create(ctypes.byref(handle), model.handle, ctypes.byref(sizes), ctypes.byref(error)) == 2
