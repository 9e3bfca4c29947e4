"""How the loss and the gradients of a whole model are judged."""

import compare
from model import reference_losses, transformers_model

# "Small in itself" for a whole model: PyTorch's bf16 gradients of these models are off by 1 to 4 %; a wrong term, by more.
MODEL_LIMIT = 6e-2
LLAMA31 = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)


def gradients_of(model):
    return {name: p.grad for name, p in model.named_parameters()}


def run_reference(fields, state, batch, dtype):
    """(the loss of each target, {parameter: gradient of their mean})"""
    model = transformers_model(fields, dtype)
    model.load_state_dict(state)
    losses = reference_losses(model, *batch)
    (losses.sum() / int((batch[1] >= 0).sum())).backward()
    return losses.detach(), gradients_of(model)


def check_loss(loss, batch, expected, theirs):
    """The mean loss. In bf16 the targets' errors have either sign, so that PyTorch's error of the mean is luck: ours may be
    1.5 times PyTorch's mean absolute error over the targets."""
    targets = int((batch[1] >= 0).sum())
    mean = expected.sum().item() / targets
    if theirs is None:
        limit = compare.FP32_LIMIT * abs(mean)
    else:
        limit = compare.BF16_FACTOR * (theirs.double() - expected).abs().sum().item() / targets
    assert abs(loss - mean) <= limit, f"loss {loss}, expected {mean} up to {limit:.3g}"
