"""Token embedding against PyTorch's gather and float64 scatter-add."""

import pytest
import torch

import compare

# N, C, V: one token, narrow rows, C not a multiple of 256, odd vocabularies, more columns than a block has threads
SHAPES = [(1, 16, 5), (7, 48, 3), (33, 144, 50257), (300, 256, 2048), (65, 2064, 17), (40, 64, 128256)]


def draw(lib, N, C, V):
    return torch.randint(V, (N,)), torch.randn(N, C).to(lib.floatX)


def run_backward(lib, tokens, dout, start):
    order = torch.sort(tokens, stable=True).indices
    dweight = lib.device(start)
    lib.embedding_backward(dweight, lib.x(dout), lib.device(tokens), lib.device(order), *dout.shape)
    return dweight.get()


@pytest.mark.checked
@pytest.mark.parametrize("N, C, V", SHAPES)
def test_forward(lib, N, C, V):
    tokens, _ = draw(lib, N, C, V)
    tokens[0] = V - 1  # the table's last row
    weight = torch.randn(V, C).to(lib.floatX)

    def run():
        out = lib.empty((N, C))
        lib.embedding_forward(out, lib.device(tokens), lib.x(weight), N, C)
        return out.get()

    assert torch.equal(lib.same_bits(run), weight[tokens])


@pytest.mark.checked
@pytest.mark.parametrize("N, C, V", SHAPES)
def test_backward(lib, N, C, V):
    tokens, dout = draw(lib, N, C, V)
    start = torch.randn(V, C)
    dweight = lib.same_bits(lambda: run_backward(lib, tokens, dout, start))
    reference = start.double().index_add(0, tokens, dout.double())
    compare.check("dweight", dweight, reference)  # fp32 sums in both builds
    absent = torch.ones(V, dtype=torch.bool)
    absent[tokens] = False
    assert torch.equal(dweight[absent], start[absent])


def test_backward_one_token_everywhere(lib):
    """A run as long as the batch, and runs of one beside it."""
    N, C, V = 1000, 32, 11
    tokens = torch.full((N,), 7)
    tokens[[0, 500, N - 1]] = torch.tensor([10, 0, 3])
    _, dout = draw(lib, N, C, V)
    start = torch.zeros(V, C)
    dweight = lib.same_bits(lambda: run_backward(lib, tokens, dout, start))
    compare.check("dweight", dweight, start.double().index_add(0, tokens, dout.double()))


def test_backward_sums_in_order_of_positions(lib):
    """fp32 addition is not associative: the bits are those of adding one position after another."""
    N, C = 50, 16
    _, dout = draw(lib, N, C, 1)
    expected = torch.zeros(1, C)
    for row in dout.float():
        expected += row
    assert torch.equal(run_backward(lib, torch.zeros(N, dtype=torch.int64), dout, torch.zeros(1, C)), expected)
