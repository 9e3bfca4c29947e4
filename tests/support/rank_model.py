"""One rank of a model's training through the C API, started by mpirun for divided.py.

    rank_model.py FOLDER PRECISION     FOLDER/0.pt, 1.pt, ... have jobs, and are done as they come; of each, rank R leaves
                                       FOLDER/R_0.pt, ...; it ends with the process that holds the other end of its stdin
"""

import ctypes
import itertools
import pathlib
import sys
import threading
import time

import torch

import llmc
from model import Error, Model, Parallel, ParameterPiece, constant, targets_of

TRAINING_ARRAYS = 3


def checked(code, err):
    assert code == 0, err.message.decode()


def meet(lib):
    world, err = ctypes.c_void_p(), Error()
    checked(lib.world_open(ctypes.byref(world), 0, ctypes.byref(err)), err)
    return world


def group(lib, world, color):
    comm, err = ctypes.c_void_p(), Error()
    checked(lib.world_split(ctypes.byref(comm), world, color, ctypes.byref(err)), err)
    return comm.value


def parallel(lib, world, zero, shards, overlap, grad_reduce):
    rank, size = lib.world_rank(world), lib.world_size(world)
    lib.c.world_comm.restype = ctypes.c_void_p
    return Parallel(
        zero=zero, shards=shards, shard=rank % shards, replicas=size // shards, overlap=overlap,
        grad_reduce=constant("GRAD_REDUCE", grad_reduce),
        shard_comm=group(lib, world, rank // shards), replica_comm=group(lib, world, rank % shards), world=lib.c.world_comm(world),
    )  # fmt: skip


def own_arrays(lib, model, shard):
    """{(array, tensor): (first element, values)} of what this shard owns."""
    function = lib.c.parameter_piece
    function.restype = ParameterPiece
    found = {}
    for i in range(len(model.names)):
        piece = function(ctypes.c_void_p(lib.llama3_parameters(model.handle)), i, shard)
        for array in range(TRAINING_ARRAYS) if piece.count else ():
            values = torch.empty(piece.count, dtype=torch.float32)
            lib.llama3_get_training_piece(model.handle, array, i, piece.first, piece.count, values)
            found[array, i] = (piece.first, values)
    return found


def train(lib, world, job):
    rank, size = lib.world_rank(world), lib.world_size(world)
    groups = parallel(lib, world, job["zero"], job["shards"], job["overlap"], job.get("grad_reduce", "fp32"))
    steps = job["steps"]
    micro = len(steps[0]) // size
    model = Model(lib, job["fields"], job["B"], job["T"], micro, job["recompute"], parallel=groups, only=job.get("only"),
                  lora=job.get("lora"), preference=job.get("preference"))  # fmt: skip
    lib.llama3_init_weights(model.handle, 7)
    curve, applied, compared = [], [], []
    for number, batches in enumerate(steps):
        targets = sum(map(targets_of, batches))
        if job["poison"] == (number, rank):
            model.lib.llama3_set_parameter_piece(model.handle, 0, 0, 1, torch.full((1,), float("nan"), dtype=lib.floatX))
            batches[rank][0].fill_(0)  # the token whose embedding is poisoned now
        if job.get("abandon"):  # a step that is begun, and never updates the weights
            model.accumulate([batches[(i * size + rank + 1) % len(batches)] for i in range(micro)], targets)
        model.accumulate([batches[i * size + rank] for i in range(micro)], targets)
        model.update(llmc.AdamWStep(**job["updates"][number]))
        curve.append(model.result())
        compared.append(model.step_sums())
        applied.append(model.applied())
    sums = torch.empty(len(model.names), dtype=torch.int64)
    lib.llama3_checksums(model.handle, sums)
    found = {"curve": curve, "compared": compared, "applied": applied, "weights": model.weights(), "sums": sums}
    return found | {"arrays": own_arrays(lib, model, groups.shard)}


def save(what, path):
    """Whoever sees the file finds all of it there."""
    torch.save(what, path.with_suffix(".new"))
    path.with_suffix(".new").rename(path)


def main(folder, precision):
    lib, end = llmc.load(precision), folder / "end"
    world = meet(lib)
    rank = lib.world_rank(world)
    if rank == 0:  # the rank to which mpirun passes stdin on
        threading.Thread(target=lambda: (sys.stdin.read(), end.touch()), daemon=True).start()
    for number in itertools.count():
        jobs = folder / f"{number}.pt"
        while not jobs.exists():
            if end.exists():
                return lib.world_close(world)
            time.sleep(0.02)
        save([train(lib, world, job) for job in torch.load(jobs, weights_only=False)], folder / f"{rank}_{number}.pt")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), sys.argv[2])
