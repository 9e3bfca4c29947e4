"""Terms of sums over ranks in bf16: rounded for the way, and added up row by row. All to the bit: PyTorch rounds to nearest even, and
the order of additions is given."""

import pytest
import torch

SPECIAL = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, 1e-40, 3.4e38, torch.inf, 0.0, -0.0, 0.0])
SPECIAL.view(torch.int32)[5] = 0x7FFFFFFF  # a NaN with all bits set


def bits(values):
    return values.view(torch.int16)


def drawn(*shape):
    values = torch.randn(shape) * 10.0 ** torch.randint(-3, 4, shape)
    values.view(-1)[:8] = SPECIAL
    return values


@pytest.mark.checked
@pytest.mark.parametrize("rows, n, stride", [(1, 8, 8), (3, 8, 16), (2, 2048, 2048), (4, 2056, 4000)])
def test_rows_are_rounded(lib, rows, n, stride):
    source, to = drawn((rows - 1) * stride + n), lib.empty((rows, n), torch.bfloat16)
    lib.bf16_round_rows(to, lib.device(source), rows, n, stride)
    wanted = torch.stack([source[r * stride : r * stride + n] for r in range(rows)]).to(torch.bfloat16)
    got = to.get()
    assert torch.equal(got.isnan(), wanted.isnan()) and torch.equal(bits(got)[~got.isnan()], bits(wanted)[~got.isnan()])


@pytest.mark.checked
@pytest.mark.parametrize("rows", [1, 2, 3, 6, 17])
@pytest.mark.parametrize("n", [8, 2040, 2048, 2056, 70000])
def test_rows_are_added_up_in_their_order(lib, rows, n):
    terms = drawn(rows, n).to(torch.bfloat16)
    wanted = terms[0].float()
    for row in terms[1:]:
        wanted += row.float()
    out, narrow = lib.empty(n, torch.float32), lib.empty(n, torch.bfloat16)
    lib.bf16_sum_rows(out, lib.device(terms), rows, n)
    lib.bf16_sum_rows_rounded(narrow, lib.device(terms), rows, n)
    assert torch.equal(out.get().nan_to_num(7), wanted.nan_to_num(7))
    assert torch.equal(narrow.get().nan_to_num(7), wanted.to(torch.bfloat16).nan_to_num(7))
