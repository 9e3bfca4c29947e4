"""Batches of packed choices: prompts with several answers each, as the loader makes them, and the losses computed on them."""

import torch

from llmc import PreferenceLoss
from model import TINY
from preference import DPO, IPO, REWARD

T = 96


class Choice:
    """A prompt and its answers, best first: (tokens, which of them are trained); places: the order they stand in."""

    def __init__(self, prompt, answers, places):
        self.prompt, self.answers, self.places = prompt, answers, places

    def positions(self):
        return len(self.prompt) - 1 + sum(len(ids) + 1 for ids, _ in self.answers)


def draw_tokens(V, count):
    tokens = torch.randint(2, V, (count,))
    tokens[torch.rand(count) < 0.2] = 1  # one that comes often
    return tokens


def draw_trained(count):
    trained = torch.rand(count) < 0.7
    trained[int(torch.randint(count, ()))] = True
    return trained


def draw_choice(V, count):
    prompt = draw_tokens(V, int(torch.randint(1, 20, ())))
    lengths = [int(torch.randint(1, 16, ())) for _ in range(count)]
    return Choice(prompt, [(draw_tokens(V, n), draw_trained(n)) for n in lengths], torch.randperm(count).tolist())


class Packed:
    """Rows of choices, one behind the other, as llmc/loader/batch.h has them."""

    def __init__(self, choices, B):
        self.B = B
        self.choices, self.answers, self.groups = [], [], []
        self.tokens, self.targets = torch.zeros(B, T, dtype=torch.int64), torch.full((B, T), -1)
        self.doc_start = torch.arange(T).repeat(B, 1)
        self.excluded = torch.zeros(B, T, 2, dtype=torch.int64)
        b, t = 0, 0
        for choice in choices:
            if t + choice.positions() > T:
                b, t = b + 1, 0
            if b == B:
                break
            self.put(choice, b, t)
            t += choice.positions()
        self.answers, self.groups = torch.tensor(self.answers), torch.tensor(self.groups)

    def put(self, choice, b, begin):
        first = begin + len(choice.prompt) - 1
        self.tokens[b, begin:first] = choice.prompt[:-1]
        self.doc_start[b, begin : begin + choice.positions()] = begin
        spans, t = {}, first
        for k in choice.places:
            ids, trained = choice.answers[k]
            end = t + 1 + len(ids)
            self.tokens[b, t], self.tokens[b, t + 1 : end] = choice.prompt[-1], ids
            self.targets[b, t : end - 1] = torch.where(trained, ids, -1)
            self.excluded[b, t:end] = torch.tensor([first, t])
            spans[k] = (b * T + t, b * T + end - 1)
            t = end
        self.groups.append((len(self.answers), len(spans)))
        self.answers += [spans[k] for k in range(len(spans))]
        self.choices.append(choice)


def draw_packed(V, B, counts=(2, 3)):
    return Packed([draw_choice(V, counts[i % len(counts)]) for i in range(6 * B)], B)


SPECS = {
    "dpo": PreferenceLoss(DPO, 0.1, 0.0, 0.0, 0),
    "dpo_nll": PreferenceLoss(DPO, 0.1, 0.0, 0.2, 0),
    "conservative_dpo_nll_summed": PreferenceLoss(DPO, 0.2, 0.15, 0.02, 1),
    "ipo": PreferenceLoss(IPO, 0.3, 0.0, 0.1, 0),
    "reward": PreferenceLoss(REWARD, 0.1, 0.0, 0.0, 0),
    "reward_smoothed": PreferenceLoss(REWARD, 0.1, 0.1, 0.0, 0),
}


def fields_of(spec, **changed):
    return TINY | (dict(num_labels=1) if spec.kind == REWARD else {}) | changed
