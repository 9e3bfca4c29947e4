"""A model whose micro-batches change their shape from step to step, beside models that are made for each shape.

    changing.py SEED     one model through build LLMC_BUILD: prints what it ends with, for test_changing_shape.py
"""

import hashlib
import sys

import torch

import llmc
from divided import update
from model import TINY, Model, random_batch
from packed import T as PACK_T
from packed import draw_packed
from rank_model import own_arrays

# (B, T, micro-batches): longer with fewer rows, the longest row, most positions, most micro-batches, and to and fro. Of the
# lengths two are not whole tiles of attention, and 600 positions take more than one chunk of logits.
SHAPES = [(2, 24, 2), (1, 130, 1), (2, 24, 2), (5, 7, 3), (3, 200, 1), (1, 1, 4), (2, 24, 2)]
PAIRS = [(1, PACK_T, 2), (3, PACK_T, 1), (1, PACK_T, 2), (2, PACK_T, 2)]
FIELDS = TINY | dict(max_position_embeddings=256)


def draw(case, shape):
    B, T, micro_batches = shape
    if case.get("preference"):
        pairs = [draw_packed(FIELDS["vocab_size"], B) for _ in range(micro_batches)]
        return [(packed, -5.0 * torch.rand(len(packed.answers))) for packed in pairs]
    return [random_batch(FIELDS["vocab_size"], B, T, documents=case.get("documents", True)) for _ in range(micro_batches)]


def make(lib, case, shape, rows=()):
    options = {name: value for name, value in case.items() if name not in ("fields", "documents", "shapes")}
    return Model(lib, case.get("fields", FIELDS), *shape, rows=rows, **options)


def copy_state(lib, model, to):
    """Parameters and what the optimizer keeps."""
    to.set_weights(model.weights())
    for (array, i), (first, values) in own_arrays(lib, model, 0).items():
        lib.llama3_set_training_piece(to.handle, array, i, first, values.numel(), values)


def begin(model, batches):
    """A step, to its gradients."""
    for i, batch in enumerate(batches):
        (model.fill_comparisons if model.compares else model.fill)(i, *batch)
    model.lib.llama3_begin_step(model.handle, 7)
    for i in range(len(batches)):
        model.lib.llama3_gradients(model.handle, i)


def step(lib, model, number, batches):
    """All that is known of a step: {name: tensor}."""
    begin(model, batches)
    known = {f"gradient of {name}": values for name, values in model.gradients().items()}
    model.update(llmc.AdamWStep(**update(number)))
    known["loss and norm"] = torch.tensor(model.result())
    known |= {f"{array} of {model.names[i]}": values for (array, i), (_, values) in own_arrays(lib, model, 0).items()}
    return known | model.weights()


def transcript(lib, case):
    """A digest of each of a run's steps, twice in each of the shapes, so that graphs are launched."""
    shapes = case.get("shapes", SHAPES)
    model = make(lib, case, shapes[0], shapes)
    lib.llama3_init_weights(model.handle, 3)
    for number, shape in enumerate([shape for shape in shapes for _ in range(2)]):
        model.set_rows(*shape)
        if number % 3 == 0:
            model.set_rope(1000.0 * (number + 1))
        known = step(lib, model, number + 1, draw(case, shape))
        digest = hashlib.sha256(b"".join(values.contiguous().view(torch.uint8).numpy().tobytes() for values in known.values()))
        yield f"{shape} {known['loss and norm'].tolist()} {digest.hexdigest()}"


if __name__ == "__main__":
    torch.manual_seed(int(sys.argv[1]))
    print(*transcript(llmc.load("bf16"), dict(graph=sys.argv[2] == "graph")), sep="\n")
