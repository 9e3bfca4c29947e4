"""The rule of what is right. The reference is computed in float64 from the very inputs the kernel had (already rounded
to floatX), so that only the kernel's own error is measured.

  bf16: the error is at most 1.5 times that of PyTorch's own bf16 operator on the same input, and small in itself.
  fp32: relative L2 error at most 1e-5.
"""

import torch

FP32_LIMIT = 1e-5
BF16_FACTOR = 1.5
BF16_LIMIT = 2e-2  # a result that is wrong somewhere exceeds this, whatever PyTorch's error is
# Of few elements (a loss is one) PyTorch's error can be next to nothing by luck, and 1.5 times that says nothing about
# ours. There an error up to one correct rounding, half a unit in the last place of bf16, is allowed. Tensors get no such room.
FEW_ELEMENTS = 16
BF16_ROUNDING = 2.0**-9


def relative_error(value, reference):
    value, reference = value.double(), reference.double()
    norm = reference.norm().item()
    return (value - reference).norm().item() / (norm if norm > 0 else 1.0)


def check(name, ours, reference, torch_bf16=None, small=BF16_LIMIT):
    """ours against the float64 reference; torch_bf16: the result of PyTorch's bf16 operator, given iff ours is judged by
    the bf16 rule, with `small` for "small in itself"."""
    assert ours.shape == reference.shape, f"{name}: shape {tuple(ours.shape)}, expected {tuple(reference.shape)}"
    assert bool(torch.isfinite(ours).all()), f"{name}: not finite"
    error = relative_error(ours, reference)
    if torch_bf16 is None:
        assert error <= FP32_LIMIT, f"{name}: relative error {error:.3g}, limit {FP32_LIMIT}"
        return
    theirs = relative_error(torch_bf16, reference)
    room = BF16_ROUNDING if reference.numel() < FEW_ELEMENTS else 0.0
    limit = min(max(BF16_FACTOR * theirs, room), small)
    assert error <= limit, f"{name}: relative error {error:.3g}, PyTorch's {theirs:.3g}, limit {limit:.3g}"
