#!/usr/bin/env python3
"""How far PyTorch's own bf16 is from float64 on the models of test_llama3.cu.

transformers' LlamaForCausalLM runs in bf16 and in float64, with the same weights and tokens. The tolerances of test_llama3's bf16
build are 1.5 times the worst errors that this prints.

    dev/bench/bf16_error.py [--seeds 12]
"""

import argparse
import collections

import torch
import transformers

# V, C, F, L, NH, NKV, HD, tied, llama3 rope, B, T: the cases of test_llama3.cu
CASES = {
    "4 heads over 2": (300, 64, 112, 2, 4, 2, 16, False, False, 2, 37),
    "9 heads over 3, tied": (193, 144, 80, 2, 9, 3, 16, True, False, 2, 33),
    "llama3 rope": (128, 64, 96, 3, 4, 1, 32, False, True, 2, 65),
    "head_dim 64, tied": (257, 32, 48, 2, 2, 2, 64, True, True, 1, 131),
    "head_dim 128": (130, 48, 64, 2, 2, 1, 128, False, False, 2, 71),
    "head_dim 48": (131, 96, 64, 1, 3, 1, 48, False, False, 3, 19),
    "vocabulary 50257": (50257, 32, 48, 1, 2, 1, 16, True, False, 1, 21),
    "one token": (129, 32, 48, 2, 2, 1, 16, False, False, 1, 1),
}


def build(case, dtype):
    V, C, F, L, NH, NKV, HD, tied, llama3_rope, _, _ = case
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    if llama3_rope:
        rope.update(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                    original_max_position_embeddings=64)
    config = transformers.LlamaConfig(
        vocab_size=V, hidden_size=C, intermediate_size=F, num_hidden_layers=L, num_attention_heads=NH,
        num_key_value_heads=NKV, head_dim=HD, tie_word_embeddings=tied, rope_parameters=rope, rms_norm_eps=1e-5,
        max_position_embeddings=1024, attn_implementation="sdpa")
    return transformers.LlamaForCausalLM(config).to(dtype)


def draw_batch(case, documents):
    V, B, T = case[0], case[-2], case[-1]
    tokens, targets = torch.randint(V, (B, T)), torch.randint(V, (B, T))
    tokens[torch.rand(B, T) < 0.2] = 1
    doc_start = torch.zeros(B, T, dtype=torch.int64)
    if documents:
        begins = torch.rand(B, T) < 0.17
        begins[:, 0] = True
        doc_start = torch.cummax(torch.where(begins, torch.arange(T).expand(B, T), 0), dim=1).values
        targets[torch.rand(B, T) < 0.1] = -1
        targets[:, :-1][begins[:, 1:]] = -1
        targets[0, -1] = 0
    return tokens, targets, doc_start


def run(model, tokens, targets, doc_start):
    T = tokens.shape[1]
    dtype = next(model.parameters()).dtype
    i, j = torch.arange(T)[:, None], torch.arange(T)[None, :]
    allowed = (j <= i) & (j >= doc_start[:, :, None])
    mask = torch.zeros(allowed.shape, dtype=dtype).masked_fill_(~allowed, torch.finfo(dtype).min)[:, None]
    logits = model(tokens, attention_mask=mask, position_ids=torch.arange(T) - doc_start).logits
    wide = logits if dtype == torch.float64 else logits.float()
    loss = torch.nn.functional.cross_entropy(wide.flatten(0, 1), targets.flatten(), ignore_index=-1)
    loss.backward()
    return loss.item(), {name: p.grad.double() for name, p in model.named_parameters()}, logits.detach().double()


def draw_weights(model):
    with torch.no_grad():
        for p in model.parameters():
            values = 1 + 0.2 * torch.randn(p.shape) if p.ndim == 1 else torch.randn(p.shape) / p.shape[-1] ** 0.5
            p.copy_(values.to(torch.bfloat16).to(p.dtype))


def relative(value, expected, whole=0.0):
    """The error as test_llama3 measures it: that of a vanishing gradient is relative to the norm of the whole gradient."""
    norm = expected.norm().item()
    return ((value - expected).norm() / max(norm if norm > 1e-8 * whole else whole, 1e-30)).item()


def measure(case, documents):
    exact, rounded = build(case, torch.float64), build(case, torch.bfloat16)
    draw_weights(exact)
    rounded.load_state_dict(exact.state_dict())
    batch = draw_batch(case, documents)
    loss, grads, logits = run(exact, *batch)
    their_loss, theirs, their_logits = run(rounded, *batch)
    whole = sum(g.norm() ** 2 for g in grads.values()).sqrt().item()
    errors = {name: relative(theirs[name], grads[name], whole) for name in grads}
    return abs(their_loss - loss) / loss, errors, relative(their_logits[0, -1], logits[0, -1])


def kind(name):
    return name.replace(".weight", "").split(".")[-1]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=12, metavar="N", help="draws of weights and tokens (default: %(default)s)")
    seeds = parser.parse_args().seeds
    kinds, by_case = collections.defaultdict(list), collections.defaultdict(list)
    for seed in range(seeds):
        torch.manual_seed(seed)
        for name, case in CASES.items():
            for documents in (False, True):
                loss, errors, logits = measure(case, documents)
                kinds["(loss)"].append(loss)
                kinds["(logits)"].append(logits)
                by_case[name].append(max(errors.values()))
                for tensor, error in errors.items():
                    kinds[kind(tensor)].append(error)
    for title, table in (("tensor", kinds), ("worst tensor of", by_case)):
        print(f"{title:<28} {'median':>9} {'99 %':>9} {'worst':>9}")
        for name, errors in sorted(table.items()):
            e = torch.tensor(errors)
            print(f"{name:<28} {e.median():9.1e} {e.quantile(0.99):9.1e} {e.max():9.1e}")


if __name__ == "__main__":
    main()
