"""Packed rows through loader and model: loss and every gradient are those of the rows one at a time, each answer behind its
prompt alone, by transformers in float64."""

import ctypes
from ctypes import byref, c_void_p

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import compare
import hostlib
from llmc import PreferenceLoss
from model import TINY, Model, transformers_model

from llmdata import rows  # noqa: E402

# "Small in itself" for a whole model, as in test_model.py.
MODEL_LIMIT = 6e-2
VOCAB, B, T = TINY["vocab_size"], 2, 96
TALKS, CHOICES = 1, 2  # LoaderKind
DPO, IPO, REWARD = range(3)

LOSSES = {
    "dpo": PreferenceLoss(DPO, 0.1, 0.0, 0.2, 0),
    "conservative_dpo_summed": PreferenceLoss(DPO, 0.3, 0.1, 0.05, 1),
    "ipo": PreferenceLoss(IPO, 0.5, 0.0, 0.0, 0),
    "reward": PreferenceLoss(REWARD, 1.0, 0.0, 0.0, 0),
}


# ---- rows, and batches of them


def tokens(count, *flags):
    ids = torch.randint(VOCAB, (count,)).numpy().astype(np.uint32)
    picks = torch.randint(len(flags), (count,)).numpy()
    return ids | np.array(flags, np.uint32)[picks]


def draw_rows(kind, count):
    """Prompts and answers of one token occur."""
    made = []
    for _ in range(count):
        lengths = torch.randint(1, 16, (4,)).tolist()
        if kind == TALKS:
            made.append(rows.Row(np.append(tokens(sum(lengths), 0, rows.TRAINED), tokens(1, rows.TRAINED | rows.FORMAT))))
            continue
        answers = [tokens(n, rows.TRAINED, 0, rows.TRAINED | rows.FORMAT) for n in lengths[1 : 3 + int(torch.rand(()) < 0.5)]]
        for answer in answers:
            answer[0] = tokens(1, rows.TRAINED)[0]
        made.append(rows.Row(tokens(lengths[0], 0), answers))
    return made


class Packed:
    """The model's micro-batches hold all rows, once; `reference`: of the answers, in the order of the rows."""

    def __init__(self, lib, folder, kind, made, fields, preference=None, reference=None):
        rows.write(folder, "train", kind, made, VOCAB)
        spec = hostlib.LoaderSpec(B=B, T=T, grad_accum=1, world=1, seed=5, shuffle=True, once=True, kind=kind, shuffle_answers=True)
        loader = c_void_p()
        pattern = hostlib.path_bytes(folder / "train_*.bin")
        hostlib.call("loader_open", byref(loader), pattern, byref(spec), VOCAB, None)
        self.count = hostlib.library.loader_num_batches(loader)
        self.model = Model(lib, fields, B, T, self.count, preference=preference)
        self.num_targets = 0
        for i in range(self.count):
            batch = ctypes.cast(lib.llama3_batch(self.model.handle, i), ctypes.POINTER(hostlib.Batch)).contents
            hostlib.call("loader_fetch", loader, i, 0, byref(batch))
            self.num_targets += batch.num_targets
            if reference is not None:
                self.set_reference(i, batch, reference)
        hostlib.library.loader_close(loader)

    def set_reference(self, i, batch, reference):
        numbers = ctypes.cast(batch.answer_numbers, ctypes.POINTER(ctypes.c_int64))
        to = ctypes.cast(self.model.lib.llama3_ref_logprobs(self.model.handle, i), ctypes.POINTER(ctypes.c_float))
        for a in range(batch.num_answers):
            to[a] = float(reference[numbers[a]])

    def step(self):
        """(loss, gradients)"""
        lib, handle = self.model.lib, self.model.handle
        lib.llama3_begin_step(handle, self.num_targets)
        for i in range(self.count):
            self.model.forward_backward(i)
        return self.model.result()[0], self.model.gradients()


# ---- the same, one at a time


def ids(*parts):
    return torch.tensor(np.concatenate([part & rows.ID_MASK for part in parts]).astype(np.int64))


def flags(part, mask):
    return torch.tensor((part & mask) == rows.TRAINED)


def losses(model, sequence):
    """Of sequence[1:]."""
    logits = model(sequence[None]).logits[0, :-1]
    return F.cross_entropy(logits.float() if logits.dtype == torch.bfloat16 else logits, sequence[1:], reduction="none")


def sft_loss(model, made):
    """(sum, number of targets)"""
    found = [losses(model, ids(row.prompt))[flags(row.prompt, rows.TRAINED)[1:]] for row in made]
    return torch.cat(found).sum(), sum(map(len, found))


def answer_losses(model, row, answer):
    mask = rows.TRAINED | rows.FORMAT
    return losses(model, ids(row.prompt, answer))[-len(answer) :][flags(answer, mask)]


def score(model, head, row, answer):
    hidden = model.model(ids(row.prompt, answer)[None]).last_hidden_state[0, -1]
    return (hidden.double() * head.double()).sum()


def pair_loss(spec, better, worse):
    """better, worse: (value, reference, number of targets)"""
    (b, b_ref, b_count), (w, w_ref, w_count) = better, worse
    if spec.kind == IPO:
        return ((b - b_ref) / b_count - (w - w_ref) / w_count - 1 / (2 * spec.beta)) ** 2
    margin = b - w if spec.kind == REWARD else spec.beta * ((b - b_ref) - (w - w_ref))
    loss = -(1 - spec.label_smoothing) * F.logsigmoid(margin) - spec.label_smoothing * F.logsigmoid(-margin)
    return loss + spec.nll * -b / (1 if spec.nll_summed else b_count)


def preference_loss(model, head, made, spec, reference):
    """(sum, number of pairs)"""
    terms, number = [], 0
    for row in made:
        values = []
        for answer in row.answers:
            if spec.kind == REWARD:
                values.append((score(model, head, row, answer), 0, 1))
            else:
                found = answer_losses(model, row, answer)
                values.append((-found.sum(), reference[number], len(found)))
            number += 1
        terms += [pair_loss(spec, values[i], values[j]) for i in range(len(values)) for j in range(i + 1, len(values))]
    return torch.stack(terms).sum(), len(terms)


def gradients(state, dtype, head, loss_of):
    """(mean loss, {parameter: gradient}); head: of a reward model, which takes lm_head's place"""
    model = transformers_model(TINY, dtype)
    model.load_state_dict(state)
    if head is not None:
        head = torch.nn.Parameter(head.to(dtype))
    total, count = loss_of(model, head)
    (total / count).backward()
    found = {name: p.grad for name, p in model.named_parameters()}
    if head is not None:
        del found["lm_head.weight"]
        found["score.weight"] = head.grad[None]
    return total.item() / count, found


def check(lib, packed, expected, theirs):
    loss, ours = packed.step()
    compare.check("loss", torch.tensor([loss]), torch.tensor([expected[0]], dtype=torch.float64),
                  torch.tensor([theirs[0]]) if theirs else None, MODEL_LIMIT)  # fmt: skip
    assert set(ours) == set(expected[1])
    for name in ours:
        compare.check(name, ours[name], expected[1][name], theirs[1][name] if theirs else None, MODEL_LIMIT)


def run_references(lib, state, head, loss_of):
    expected = gradients(state, torch.float64, head, loss_of)
    return expected, gradients(state, torch.bfloat16, head, loss_of) if lib.precision == "bf16" else None


def test_conversations(lib, tmp_path):
    made = draw_rows(TALKS, 8)
    state = transformers_model(TINY).state_dict()
    expected, theirs = run_references(lib, state, None, lambda model, head: sft_loss(model, made))
    packed = Packed(lib, tmp_path, TALKS, made, TINY)
    assert packed.count < len(made) / B  # several in a pack
    packed.model.set_weights(state)
    check(lib, packed, expected, theirs)


@pytest.mark.parametrize("name", LOSSES)
def test_comparisons(lib, tmp_path, name):
    made, spec = draw_rows(CHOICES, 7), LOSSES[name]
    state = transformers_model(TINY).state_dict()
    with torch.no_grad():
        model = transformers_model(TINY)
        model.load_state_dict(state)
        near = torch.stack([-answer_losses(model, row, answer).sum() for row in made for answer in row.answers])
        reference = (near + 3 * torch.randn_like(near)).float()  # margins of either sign, none so large that its loss is flat
    head = torch.randn(TINY["hidden_size"]).to(torch.bfloat16) / 8 if spec.kind == REWARD else None
    expected, theirs = run_references(lib, state, head, lambda model, head: preference_loss(model, head, made, spec, reference.double()))
    fields = TINY | dict(num_labels=1, eos_token_id=7) if spec.kind == REWARD else TINY
    packed = Packed(lib, tmp_path, CHOICES, made, fields, spec, None if spec.kind == REWARD else reference)
    assert packed.count < len(made) / B
    packed.model.set_weights(state if head is None else state | {"score.weight": head[None]})
    check(lib, packed, expected, theirs)
