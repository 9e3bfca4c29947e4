"""Attention by cuDNN against float64 and against this program's kernels, by the rule of support/attention.py. Without a GPU it is
the stand-in's (dev/standins/cudnn*.cpp), which computes the graph that cudnn-frontend builds."""

import pytest
import torch
from attention import Case, check_case
from compare import relative_error
from llmc import AttentionMask, AttentionShape
from llmcudnn import ANY_ORDER, NO_BACKWARD, SAME_BITS, cudnn_build, plan

# T on both sides of 64 and 128, two tokens; groups of 1, 2, 3, 4 and 8 heads; head dimensions that are no power of two
SHAPES = [(2, 8, 2, 64, 2), (64, 4, 1, 64, 2), (65, 6, 2, 48, 2), (130, 4, 2, 128, 1), (200, 8, 1, 32, 1), (63, 3, 3, 80, 1),
          (40, 2, 1, 256, 1)]  # fmt: skip


@pytest.fixture(scope="module")
def lib():
    return cudnn_build()[0]


class CudnnCase(Case):
    """One document a row."""

    def __init__(self, lib, shape, backward=SAME_BITS):
        super().__init__(lib, (*shape, False))
        self.kernels = AttentionShape(self.B, self.T, self.NH, self.NKV, self.HD)
        self.plan = plan(lib, self.kernels, backward)
        self.workspace_bytes = lib.cudnn_attention_workspace(self.plan)

    def __del__(self):
        if hasattr(self, "plan"):
            self.lib.cudnn_attention_destroy(self.plan)

    def forward(self, qkv, out, lse):
        workspace = self.lib.empty(self.workspace_bytes, torch.uint8)
        self.lib.cudnn_attention_forward(self.plan, out, lse, qkv, workspace)
        workspace.get()  # nothing was written around it

    def backward(self, dqkv, *given):
        workspace = self.lib.empty(self.workspace_bytes, torch.uint8)
        self.lib.cudnn_attention_backward(self.plan, dqkv, *given, workspace)
        workspace.get()

    def run(self):
        lib, stats = self.lib, (self.B, self.NH, self.T)
        qkv, dout = lib.x(self.qkv), lib.x(self.dout)
        out, lse, dqkv = lib.empty(dout.shape), lib.empty(stats, torch.float32), lib.empty(qkv.shape)
        self.forward(qkv, out, lse)
        self.backward(dqkv, dout, out, qkv, lse)
        return out.get(), lse.get(), dqkv.get()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_attention(lib, shape):
    check_case(lib, CudnnCase(lib, shape))


def test_near_our_kernels(lib):
    """The same inputs give both the same, up to the rounding of each; and one's forward pass fits the other's backward pass."""
    theirs = CudnnCase(lib, (130, 8, 2, 64, 2))
    ours = Case(lib, (130, 8, 2, 64, 2, False))
    ours.qkv, ours.dout = theirs.qkv, theirs.dout
    for name, a, b in zip(("out", "lse", "dqkv"), theirs.run(), ours.run()):
        assert relative_error(a, b) <= (1e-5 if name == "lse" else 2.0**-7), name
    qkv, dout, mask = lib.x(ours.qkv), lib.x(ours.dout), AttentionMask(lib.device(ours.starts))
    out, lse, dqkv = lib.empty(dout.shape), lib.empty((2, 8, 130), torch.float32), lib.empty(qkv.shape)
    lib.attention_forward(out, lse, qkv, mask, theirs.kernels)
    theirs.backward(dqkv, dout, out, qkv, lse)
    assert relative_error(dqkv.get(), theirs.run()[2]) <= 2.0**-7


@pytest.mark.parametrize("backward", [SAME_BITS, ANY_ORDER])
def test_bits(lib, backward):
    """Only the deterministic backward pass gives the same bits again; the other's are near."""
    case = CudnnCase(lib, (200, 4, 2, 64, 2), backward)
    first, *others = [case.run() for _ in range(4)]
    for other in others:
        assert torch.equal(first[0], other[0]) and torch.equal(first[1], other[1])
        assert relative_error(other[2], first[2]) <= 2.0**-9
    same = all(torch.equal(first[2], other[2]) for other in others)
    assert same or backward == ANY_ORDER
    assert not same or backward == SAME_BITS or not lib.on_cpu, "the stand-in draws another order for each call"


def test_workspace(lib):
    """The deterministic backward pass keeps a bf16 number for each score and, with the gradients of keys and values of all
    query heads, little else; the forward pass nothing."""
    shape = AttentionShape(2, 1024, 8, 2, 64)
    scores, heads, stats = 2 * 2 * 8 * 1024**2, 2 * 2 * 2 * 8 * 1024 * 64, 4 * 2 * 8 * 1024
    found = {}
    for backward in (NO_BACKWARD, SAME_BITS, ANY_ORDER):
        attention = plan(lib, shape, backward)
        found[backward] = lib.cudnn_attention_workspace(attention)
        lib.cudnn_attention_destroy(attention)
    assert found[NO_BACKWARD] == 0
    assert 0 <= found[SAME_BITS] - (scores + heads + stats) <= 1 << 20
    assert found[ANY_ORDER] < found[SAME_BITS] / 2


@pytest.mark.parametrize("T, HD", [(64, 20), (1, 64)])
def test_refused(lib, T, HD):
    assert f"rows of {T} tokens with 2 heads over 1 of {HD}" in plan(lib, AttentionShape(1, T, 2, 1, HD), SAME_BITS, refused=True)
