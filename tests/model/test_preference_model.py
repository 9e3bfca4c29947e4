"""Finetuning of the whole model against transformers, which computes every conversation, and every prompt with one of its
answers, as a sequence of its own: losses, every parameter's gradient, scores."""

import ctypes

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import compare
from hostlib import LoaderSpec
from model import TINY, Batch, Error, Model, transformers_model
from preference import LOSS, REWARD, check_sums, pair_terms, pairs
from modelchecks import LLAMA31, MODEL_LIMIT, check_loss, gradients_of
from packed import SPECS, T, Packed, draw_choice, draw_packed, draw_tokens, fields_of

from llmdata import rows  # noqa: E402


def answer_values(model, choices, scores):
    """[answers] the score, or the log-probability of the trained tokens, each from a sequence of its own."""
    found = []
    for choice in choices:
        for ids, trained in choice.answers:
            logits = model(torch.cat([choice.prompt, ids])[None]).logits[0]
            logits = logits.float() if logits.dtype == torch.bfloat16 else logits
            if scores:
                found.append(logits.reshape(()))
            else:
                nll = F.cross_entropy(logits[len(choice.prompt) - 1 : -1], ids, reduction="none")
                found.append(-(nll * trained).sum())
    return torch.stack(found)


def terms_of(spec, choices, values, references):
    """pair_terms of the answers of these choices, in the dtype of values"""
    counts = torch.tensor([float(trained.sum()) for choice in choices for _, trained in choice.answers])
    groups, first = [], 0
    for choice in choices:
        groups.append((first, len(choice.answers)))
        first += len(choice.answers)
    return pair_terms(spec, values, torch.cat(references).to(values.dtype), counts.to(values.dtype), groups)


def run_pytorch(fields, state, spec, choices, references, dtype):
    """(values, pair terms, {parameter: gradient of the mean loss of all pairs})"""
    model = transformers_model(fields, dtype)
    model.load_state_dict(state)
    values = answer_values(model, choices, spec.kind == REWARD)
    terms = terms_of(spec, choices, values, references)
    terms[:, LOSS].mean().backward()
    return values.detach(), terms.detach(), gradients_of(model)


def run_ours(lib, fields, state, spec, batches, references, recompute="none"):
    """(model, values, loss) with the gradients in the model"""
    model = Model(lib, fields, batches[0].B, T, len(batches), recompute, preference=spec)
    model.set_weights(state)
    for i, packed in enumerate(batches):
        model.fill_comparisons(i, packed, None if spec.kind == REWARD else references[i])
    values = torch.cat([model.answer_values(i, len(packed.answers)) for i, packed in enumerate(batches)])
    model.lib.llama3_begin_step(model.handle, sum(len(pairs(packed.groups.tolist())) for packed in batches))
    for i in range(len(batches)):
        model.forward_backward(i)
    return model, values, model.result()[0]


def check_results(lib, fields, state, spec, choices, references, values, loss, model):
    """values, loss and gradients of our model. The loss and the sums have to follow from the values, in bf16 as in fp32."""
    want_values, want_terms, want = run_pytorch(fields, state, spec, choices, references, torch.float64)
    their_values, theirs = None, {}
    if lib.precision == "bf16":
        their_values, _, theirs = run_pytorch(fields, state, spec, choices, references, torch.bfloat16)
    compare.check("values", values, want_values, their_values, MODEL_LIMIT)
    terms = terms_of(spec, choices, values.double(), references)
    check_sums(model.step_sums(), terms)
    for mean in [terms[:, LOSS].mean().item()] + [want_terms[:, LOSS].mean().item()] * (lib.precision == "fp32"):
        assert abs(loss - mean) <= compare.FP32_LIMIT * abs(mean), f"loss {loss}, expected {mean}"
    ours = model.gradients()
    assert set(ours) == set(want)
    for name in ours:
        compare.check(name, ours[name], want[name], theirs.get(name), MODEL_LIMIT)


def check_step(lib, fields, spec, batches, recompute="none"):
    state = transformers_model(fields).state_dict()
    scores = spec.kind == REWARD
    references = [torch.zeros(len(packed.answers)) for packed in batches]
    if not scores:  # log-probabilities of a model not far from this one
        model = transformers_model(fields)
        model.load_state_dict(state)
        with torch.no_grad():
            references = [answer_values(model, packed.choices, False).float() for packed in batches]
        references = [reference + torch.randn_like(reference) * 2 for reference in references]
    model, values, loss = run_ours(lib, fields, state, spec, batches, references, recompute)
    choices = [choice for packed in batches for choice in packed.choices]
    check_results(lib, fields, state, spec, choices, references, values, loss, model)


@pytest.mark.parametrize("name", SPECS)
def test_loss_and_every_gradient(lib, name):
    """Two micro-batches of groups of 2 and of 3 answers."""
    spec = SPECS[name]
    check_step(lib, fields_of(spec), spec, [draw_packed(TINY["vocab_size"], 3) for _ in range(2)])


SHAPES = {
    "tied": dict(tie_word_embeddings=True),
    "llama31_rope": dict(rope_scaling=LLAMA31, rope_theta=500000.0),
    "nine_heads_over_three_dim_48": dict(num_attention_heads=9, num_key_value_heads=3, hidden_size=144, head_dim=48),
    "head_dim_128": dict(num_attention_heads=2, num_key_value_heads=1, head_dim=128, num_hidden_layers=1),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(lib, shape):
    spec = SPECS["dpo_nll"]
    check_step(lib, fields_of(spec, **SHAPES[shape]), spec, [draw_packed(TINY["vocab_size"], 3)], recompute="cheap" if shape == "tied" else "none")


@pytest.mark.parametrize("lib", ["fp32"], indirect=True)  # two scores may both be next to 0: their error in bf16 says nothing
@pytest.mark.parametrize("name", ["dpo_nll", "reward"])
def test_one_pair(lib, name):
    """A batch that is padding but for one pair."""
    spec = SPECS[name]
    check_step(lib, fields_of(spec), spec, [Packed([draw_choice(TINY["vocab_size"], 2)], 2)])


def test_without_gradients_and_again(lib):
    """The loss without gradients, after recomputation and from other orders of threads, has the same bits."""
    spec, packed = SPECS["dpo_nll"], draw_packed(TINY["vocab_size"], 2)
    fields, reference = fields_of(spec), torch.randn(len(packed.answers)) - 40
    state = transformers_model(fields).state_dict()

    def run(recompute="none"):
        model, values, loss = run_ours(lib, fields, state, spec, [packed], [reference], recompute)
        gradients = model.gradients()
        model.lib.llama3_begin_step(model.handle, len(pairs(packed.groups.tolist())))
        model.lib.llama3_forward_loss(model.handle, 0)
        assert model.result()[0] == loss
        return (values, torch.tensor(loss), *gradients.values())

    plain, *_ = lib.forms(run)
    assert all(torch.equal(a, b) for a, b in zip(plain, run("block")))


# ---- supervised


def draw_talks(V, count):
    """[(tokens, trained)]"""
    lengths = [int(torch.randint(2, T // 2, ())) for _ in range(count)]
    talks = [(draw_tokens(V, n), torch.rand(n) < 0.5) for n in lengths]
    for _, trained in talks:
        trained[-1] = True
    return talks


def pack_talks(talks, B):
    """(tokens, targets, doc_start) of all that fit, and these"""
    tokens, targets = torch.zeros(B, T, dtype=torch.int64), torch.full((B, T), -1)
    doc_start, used = torch.arange(T).repeat(B, 1), []
    b, t = 0, 0
    for ids, trained in talks:
        n = len(ids)
        if t + n > T:
            b, t = b + 1, 0
        if b == B:
            break
        tokens[b, t : t + n], doc_start[b, t : t + n] = ids, t
        targets[b, t : t + n - 1] = torch.where(trained[1:], ids[1:], -1)
        used.append((ids, trained))
        t += n
    return (tokens, targets, doc_start), used


def run_pytorch_talks(fields, state, talks, dtype):
    """(losses of all targets, gradients of their mean), each conversation by itself"""
    model = transformers_model(fields, dtype)
    model.load_state_dict(state)
    losses = []
    for ids, trained in talks:
        logits = model(ids[None]).logits[0, :-1]
        logits = logits.float() if dtype == torch.bfloat16 else logits
        losses.append(F.cross_entropy(logits, ids[1:], reduction="none")[trained[1:]])
    losses = torch.cat(losses)
    losses.mean().backward()
    return losses.detach(), gradients_of(model)


def test_packed_conversations(lib):
    """The loss and gradients of packed rows are those of the rows one at a time."""
    fields = TINY
    batch, talks = pack_talks(draw_talks(fields["vocab_size"], 30), 4)
    state = transformers_model(fields).state_dict()
    expected_losses, expected = run_pytorch_talks(fields, state, talks, torch.float64)
    their_losses, theirs = None, {}
    if lib.precision == "bf16":
        their_losses, theirs = run_pytorch_talks(fields, state, talks, torch.bfloat16)
    assert len(expected_losses) == int((batch[1] >= 0).sum())
    model = Model(lib, fields, 4, T)
    model.set_weights(state)
    model.accumulate([batch])
    check_loss(model.result()[0], batch, expected_losses, their_losses)
    ours = model.gradients()
    for name in ours:
        compare.check(name, ours[name], expected[name], theirs.get(name), MODEL_LIMIT)
    alone = Model(lib, fields, 1, T, len(talks))
    alone.set_weights(state)
    alone.accumulate([pack_talks([talk], 1)[0] for talk in talks])
    if lib.precision == "bf16":
        # a row's tiles of attention begin elsewhere, so that probabilities are rounded relative to another maximum: each
        # has an error of its own, and how far the two are apart is luck
        check_loss(alone.result()[0], batch, expected_losses, their_losses)
        for name, gradient in alone.gradients().items():
            compare.check(name + " alone", gradient, expected[name], theirs[name], MODEL_LIMIT)
        return
    assert abs(alone.result()[0] - model.result()[0]) <= 2e-6 * model.result()[0]
    for name, gradient in alone.gradients().items():
        assert compare.relative_error(ours[name], gradient) <= 2e-6, name


def test_text_after_comparisons(lib):
    """A text sees all of itself, and its losses are next tokens', in a model whose last micro-batch was of comparisons."""
    spec, packed, state = SPECS["dpo_nll"], draw_packed(TINY["vocab_size"], 2), transformers_model(TINY).state_dict()
    model, plain = Model(lib, TINY, 2, T, preference=spec), Model(lib, TINY, 2, T)
    tokens, targets = torch.randint(TINY["vocab_size"], (2, 2, T))
    found = []
    for m in (model, plain):
        m.set_weights(state)
        if m is model:
            m.accumulate([(packed, torch.zeros(len(packed.answers)))])
        logits, losses = m.logits(tokens[0]), torch.empty(2 * T, dtype=torch.float32)
        if m is model:
            m.answer_values(0, len(packed.answers))
        m.fill(0, tokens, targets)
        lib.llama3_token_losses(m.handle, 2, torch.arange(2 * T, dtype=torch.int32), targets.reshape(-1).int(), 2 * T, losses, None)
        found.append((logits, losses))
    assert all(torch.equal(ours, expected) for ours, expected in zip(*found))


# ---- from row files


def test_from_row_files(lib, tmp_path):
    """Files of comparisons, through the loader into the model's own batches."""
    spec, V, B = SPECS["dpo_nll"], TINY["vocab_size"], 2
    choices = [draw_choice(V, 2 + i % 2) for i in range(9)]
    trained, made = int(rows.TRAINED), []
    for number, choice in enumerate(choices):
        answers = [np.where(t.numpy(), ids.numpy() | trained, ids.numpy()).astype(np.uint32) for ids, t in choice.answers]
        made.append(rows.Row(choice.prompt.numpy().astype(np.uint32), answers, 0, number + 1))
    rows.write(tmp_path, "train", 2, made, V, sha256=bytes(range(32)))
    loader, error = ctypes.c_void_p(), Error()
    loader_spec = LoaderSpec(B, T, 1, 0, 1, 5, False, True, True, 2, True, False)
    pattern = ctypes.create_string_buffer(str(tmp_path / "train_*.bin").encode())
    code = lib.loader_open(ctypes.byref(loader), pattern, ctypes.byref(loader_spec), V, None, ctypes.byref(error))
    assert code == 0, error.message.decode()
    batches = lib.loader_num_batches(loader)
    fields, state = TINY, transformers_model(TINY).state_dict()
    count = sum(len(choice.answers) for choice in choices)
    reference, seen, total_pairs = torch.randn(count) - 40, [], 0
    model = Model(lib, fields, B, T, batches, preference=spec)
    model.set_weights(state)
    values = torch.full((count,), float("nan"))
    for i in range(batches):
        pointer = lib.llama3_batch(model.handle, i)
        assert lib.loader_fetch(loader, i, 0, pointer, ctypes.byref(error)) == 0, error.message.decode()
        numbers, pairs_here = read_batch(pointer)
        seen += numbers
        total_pairs += pairs_here
        own = reference[numbers].contiguous()
        ctypes.memmove(lib.llama3_ref_logprobs(model.handle, i), own.data_ptr(), 4 * len(numbers))
        values[numbers] = model.answer_values(i, len(numbers))
    lib.loader_close(loader)
    assert sorted(seen) == list(range(count)), "every answer once"
    lib.llama3_begin_step(model.handle, total_pairs)
    for i in range(batches):
        model.forward_backward(i)
    check_results(lib, fields, state, spec, choices, [reference], values, model.result()[0], model)


def read_batch(pointer):
    """(numbers of the answers, number of pairs) of the batch at this address"""
    batch = ctypes.cast(pointer, ctypes.POINTER(Batch)).contents
    return batch.answer_numbers[: batch.num_answers], batch.num_targets
