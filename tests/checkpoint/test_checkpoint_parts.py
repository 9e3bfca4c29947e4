"""Checkpoints of N parts (llmc/checkpoint/parts.h): written by the shards of N models, read by those of M, in one process."""

import ctypes
import json
import os
import random
import shutil
from ctypes import byref, c_char_p, c_uint64, c_void_p

import pytest
import safetensors
import safetensors.torch
import torch

import checkpoints
from checkpoints import ARRAYS, Failure, call
from model import TINY, Model, Parallel, ParameterPiece, ParameterTable

FIELDS = TINY | dict(num_hidden_layers=3, vocab_size=300)
PARTS = [1, 2, 3, 4]


# what is kept in bf16: {master weights or moments: by option}
MODES = {"moments": dict(moments="bf16"), "weights": dict(master_weights="none"), "both": dict(moments="bf16", master_weights="none")}


def shard_model(lib, shards, shard, fields=FIELDS, **modes):
    made = Model(lib, fields, 1, 8, parallel=Parallel(shards=shards, shard=shard), **modes)
    made.fields = fields
    made.shards, made.shard = shards, shard
    return made


def piece(m, tensor):
    function = m.lib.c.parameter_piece
    function.restype = ParameterPiece
    return function(c_void_p(m.lib.llama3_parameters(m.handle)), tensor, m.shard)


class Truth:
    """Parameters and training arrays of a whole model; master weights that round to the parameters. Of numbers that the modes
    can hold."""

    def __init__(self, lib, fields=FIELDS, moments="fp32", master_weights="fp32"):
        m = shard_model(lib, 1, 0, fields)
        self.names, self.shapes = m.names, [m.shape(i) for i in range(len(m.names))]
        self.arrays = [[torch.randn(shape) for shape in self.shapes] for _ in ARRAYS]
        kinds = [lib.floatX if master_weights == "none" else torch.float32, *2 * [torch.bfloat16 if moments == "bf16" else torch.float32]]
        self.arrays = [[x.to(kind).float() for x in array] for kind, array in zip(kinds, self.arrays)]
        self.parameters = [master.to(lib.floatX) for master in self.arrays[0]]

    def give(self, m):
        for i, values in enumerate(self.parameters):
            m.lib.llama3_set_parameter(m.handle, i, values)
            for array in range(3):
                whole = self.arrays[array][i].reshape(-1)
                m.lib.llama3_set_training_piece(m.handle, array, i, 0, whole.numel(), whole)

    def check(self, m):
        not_zero = 0  # elements of this shard; randn gives an exact 0 now and then
        for i, values in enumerate(m.weights().values()):
            assert torch.equal(values, self.parameters[i]), self.names[i]
            own = piece(m, i)
            for array in range(3) if own.count else ():
                found = torch.empty(own.count)
                m.lib.llama3_get_training_piece(m.handle, array, i, own.first, own.count, found)
                assert torch.equal(found, self.arrays[array][i].reshape(-1)[own.first : own.first + own.count])
                not_zero += int((found != 0).sum())
        flat = torch.empty(3, table(m).num_shard_elements)
        m.lib.llama3_get_training(m.handle, flat)
        assert flat.isfinite().all()  # padding too
        assert int((flat != 0).sum()) == not_zero  # nothing else: padding is zero


def table(m):
    return ctypes.cast(m.lib.llama3_parameters(m.handle), ctypes.POINTER(ParameterTable)).contents


def write_parts(models, store, step, snapshots=False, parts=None):
    """The lines of all parts, in any order written."""
    lib, lines = models[0].lib, {}
    contents = [checkpoints.content(m, store, step, part=m.shard, parts=len(models)) for m in models]
    call(lib, "checkpoint_begin", byref(contents[0]))
    for i in random.sample(range(len(models)), len(models)) if parts is None else parts:
        text, size, snapshot = c_char_p(), c_uint64(), c_void_p()
        if snapshots:
            call(lib, "snapshot_create", byref(snapshot), models[i].handle)
            lib.snapshot_take(snapshot, models[i].handle)
            contents[i].snapshot, contents[i].model = snapshot.value, None
        call(lib, "checkpoint_write_part", byref(contents[i]), byref(text), byref(size))
        lines[i] = text.value
        if snapshots:
            lib.snapshot_destroy(snapshot)
    return contents[0], b"".join(lines[i] for i in sorted(lines))


def commit(lib, content, lines):
    size = c_uint64()
    call(lib, "checkpoint_commit", byref(content), c_char_p(lines), byref(size))
    return size.value


@pytest.fixture
def store(tmp_path):
    (tmp_path / "store").mkdir()
    return tmp_path / "store"


def write_whole(lib, store, parts, step=7, truth=None, snapshots=False, **modes):
    truth = truth or Truth(lib, **modes)
    models = [shard_model(lib, parts, i, **modes) for i in range(parts)]
    for m in models:
        truth.give(m)
    content, lines = write_parts(models, store, step, snapshots)
    commit(lib, content, lines)
    return truth, store / f"step_{step:08d}"


@pytest.mark.parametrize("modes", MODES.values(), ids=MODES)
@pytest.mark.parametrize("parts", [1, 3])
def test_less_memory(lib, store, parts, modes):
    """What is kept in bf16 comes back exactly, for any number of shards; in fp32 it is the same numbers."""
    truth, folder = write_whole(lib, store, parts, snapshots=parts == 3, **modes)
    for shards, kept in ((1, modes), (2, modes), (2, {})):
        for shard in range(shards):
            m = shard_model(lib, shards, shard, **kept)
            call(lib, "checkpoint_read_training", c_char_p(bytes(folder)), m.handle)
            truth.check(m)


def test_fp32_into_less_memory(lib, store):
    """To the nearest bf16 number; weights are those of the checkpoint's model."""
    truth, folder = write_whole(lib, store, 1)
    m = shard_model(lib, 1, 0, **MODES["both"])
    call(lib, "checkpoint_read_training", c_char_p(bytes(folder)), m.handle)
    truth.arrays = [[x.to(kind).float() for x in a] for kind, a in zip((lib.floatX, torch.bfloat16, torch.bfloat16), truth.arrays)]
    truth.check(m)



@pytest.mark.parametrize("parts", PARTS)
def test_any_number_reads_any_number(lib, store, parts):
    truth, folder = write_whole(lib, store, parts, snapshots=random.random() < 0.5)
    checkpoints.verify(lib, folder)
    names = sorted(p.name for p in folder.iterdir() if p.suffix == ".safetensors")
    assert names == (["model.safetensors"] if parts == 1 else [f"model-{i + 1:05d}-of-{parts:05d}.safetensors" for i in range(parts)])
    for readers in PARTS:
        for shard in range(readers):
            m = shard_model(lib, readers, shard)
            call(lib, "checkpoint_read_training", os.fsencode(folder), m.handle)
            truth.check(m)


@pytest.mark.parametrize("snapshots", [False, True])
def test_transformers_opens_it(lib, store, snapshots):
    from transformers import AutoModelForCausalLM

    truth, folder = write_whole(lib, store, 3, snapshots=snapshots)
    state = AutoModelForCausalLM.from_pretrained(folder, dtype=lib.floatX).state_dict()
    for name, values in zip(truth.names, truth.parameters):
        assert torch.equal(state[name], values), name
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(v.numel() * v.element_size() for v in truth.parameters)
    sizes = [path.stat().st_size for path in folder.glob("model-*.safetensors")]
    largest = max(v.numel() * v.element_size() for v in truth.parameters)
    assert max(sizes) - min(sizes) <= 2 * largest + 4096  # as even as whole tensors allow


def test_parts_without_tensors(lib, store):
    """More parts than tensors, and than pieces of some."""
    fields = TINY | dict(num_hidden_layers=1, hidden_size=16, intermediate_size=16, num_attention_heads=1, num_key_value_heads=1, vocab_size=2000)
    truth, parts = Truth(lib, fields), 17
    models = [shard_model(lib, parts, i, fields) for i in range(parts)]
    for m in models:
        truth.give(m)
    content, lines = write_parts(models, store, 1)
    commit(lib, content, lines)
    checkpoints.verify(lib, store / "step_00000001")
    m = shard_model(lib, 1, 0, fields)
    call(lib, "checkpoint_read_training", os.fsencode(store / "step_00000001"), m.handle)
    truth.check(m)


# ---- what is refused


def part_file(folder, part, parts=3):
    return folder / f"trainer/optimizer-{part:05d}-of-{parts:05d}.safetensors"


def change(path, what=lambda state: None, **metadata):
    state = safetensors.torch.load_file(path)
    with safetensors.safe_open(path, "pt") as file:
        kept = {**file.metadata(), **metadata}
    what(state)
    safetensors.torch.save_file(state, path, {name: value for name, value in kept.items() if value})


def piece_key(state, array="moment1"):
    return next(name for name in sorted(state) if "[" in name and name.startswith(array))


def rename(new):
    def what(state):
        key = piece_key(state)
        state[key.partition("[")[0] + new] = state.pop(key)

    return what


def shorten(state):
    key = piece_key(state)
    state[key] = state[key][:-1].clone()


BROKEN = {
    "a part is missing": (lambda f: part_file(f, 2).unlink(), r"optimizer-00002-of-00003.safetensors: missing, expected the 3 parts"),
    "a part of fewer": (lambda f: part_file(f, 3).rename(part_file(f, 3, 4)), "00003-of-00004.safetensors: a part of 4, beside optimizer-00001-of-00003.safetensors of 3"),
    "a part twice": (lambda f: shutil.copy(part_file(f, 1), part_file(f, 2)), r"optimizer-00002-of-00003.*: __metadata__ says part 1, expected 2"),
    "a part twice, renamed": (lambda f: (shutil.copy(part_file(f, 1), part_file(f, 2)), change(part_file(f, 2), part="2")), r"tensor \w+\.\S+ is missing|stand in another piece too"),
    "a part of another step": (lambda f: change(part_file(f, 2), step="6"), r"optimizer-00002-of-00003.*: __metadata__ says step 6, expected 7"),
    "of another number": (lambda f: change(part_file(f, 3), parts="4"), r"optimizer-00003-of-00003.*: __metadata__ says parts 4, expected 3"),
    "without a step": (lambda f: change(part_file(f, 2), step=None), "__metadata__ says step nothing, expected 7"),
    "a piece is gone": (lambda f: change(part_file(f, 2), lambda s: s.pop(piece_key(s))), r"tensor moment1\.\S+ is missing"),
    "a piece is short": (lambda f: change(part_file(f, 2), shorten), r"moment1\.\S+: expected 1 dimension of"),
    "backwards": (lambda f: change(part_file(f, 2), rename("[5:3]")), r"expected elements as \[first:end\]"),
    "empty": (lambda f: change(part_file(f, 2), rename("[3:3]")), r"expected elements as \[first:end\]"),
    "too large a number": (lambda f: change(part_file(f, 2), rename("[1:99999999999999999999]")), r"expected elements as \[first:end\]"),
    "no number": (lambda f: change(part_file(f, 2), rename("[:7]")), r"expected elements as \[first:end\]"),
    "something behind": (lambda f: change(part_file(f, 2), rename("[1:7]x")), r"expected elements as \[first:end\]"),
    "beyond the tensor": (lambda f: change(part_file(f, 2), rename("[1:99999999]")), r"the parameter has \d+ elements"),
    "not finite": (lambda f: change(part_file(f, 2), lambda s: s[piece_key(s)].fill_(float("nan"))), "values are not finite"),
    "another type": (lambda f: change(part_file(f, 2), lambda s: s.update({piece_key(s): s[piece_key(s)].half()})), "dtype is F16, expected F32"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_broken_parts(lib, store, how):
    _, folder = write_whole(lib, store, 3)
    damage, words = BROKEN[how]
    damage(folder)
    m = shard_model(lib, 1, 0)
    with pytest.raises(Failure, match=words) as failure:
        call(lib, "checkpoint_read_training", os.fsencode(folder), m.handle)
    assert failure.value.code == 2 and str(folder) in failure.value.message
    with pytest.raises(Failure):
        checkpoints.verify(lib, folder)


# ---- writes that end half-way


def test_abandoned(lib, store):
    """A part that could not be written: nothing is left, and the checkpoint before is the newest."""
    truth, _ = write_whole(lib, store, 2, step=1)
    models = [shard_model(lib, 2, i) for i in range(2)]
    for m in models:
        truth.give(m)
    content, _ = write_parts(models, store, 2, parts=[1])
    assert (store / "step_00000002.tmp").is_dir()
    lib.checkpoint_abandon(byref(content))
    assert sorted(p.name for p in store.iterdir()) == ["latest", "step_00000001"]
    assert checkpoints.newest_whole(lib, store) == (str(store / "step_00000001"), [])


def test_begun_again(lib, store):
    """What a killed write left behind is gone when the next begins."""
    truth, _ = write_whole(lib, store, 2, step=1)
    models = [shard_model(lib, 2, i) for i in range(2)]
    for m in models:
        truth.give(m)
    write_parts(models, store, 2, parts=[0])  # killed here
    assert checkpoints.steps(lib, store) == [1]
    write_whole(lib, store, 2, step=3, truth=truth)
    assert sorted(p.name for p in store.iterdir()) == ["latest", "step_00000001", "step_00000003"]


def test_commit_without_a_part(lib, store):
    """The lines of one part are lost: the folder is no whole checkpoint."""
    truth = Truth(lib)
    models = [shard_model(lib, 2, i) for i in range(2)]
    for m in models:
        truth.give(m)
    content, lines = write_parts(models, store, 1, parts=[1])
    commit(lib, content, lines)
    with pytest.raises(Failure, match="has no checksum of config.json"):
        checkpoints.verify(lib, store / "step_00000001")


def test_no_space_is_found_at_the_beginning(lib, store):
    m = shard_model(lib, 2, 0)
    content = checkpoints.content(m, store, 1, part=0, parts=2)
    whole = table(m)
    honest, whole.num_parameters = whole.num_parameters, 1 << 50
    try:
        with pytest.raises(Failure, match="no space for a checkpoint"):
            call(lib, "checkpoint_begin", byref(content))
    finally:
        whole.num_parameters = honest
    assert not list(store.iterdir())


def test_writer_jobs(lib, store):
    truth = Truth(lib)
    models = [shard_model(lib, 2, i) for i in range(2)]
    writers, results, total = [], [], 0
    for m in models:
        truth.give(m)
        writers.append(c_void_p())
        call(lib, "writer_create", byref(writers[-1]))
    contents = [checkpoints.content(m, store, 4, part=m.shard, parts=2) for m in models]
    call(lib, "checkpoint_begin", byref(contents[0]))
    for writer, content in zip(writers, contents):
        call(lib, "writer_begin", writer, 1, byref(content), None)
    for writer in writers:
        results.append(checkpoints.WriterResult())
        assert lib.writer_wait(writer, byref(results[-1])) and results[-1].error.code == 0 and results[-1].job == 1
        total += results[-1].bytes
    lines = b"".join(r.lines for r in results)
    call(lib, "writer_begin", writers[0], 2, byref(contents[0]), c_char_p(lines))
    done = checkpoints.WriterResult()
    assert lib.writer_wait(writers[0], byref(done)) and done.error.code == 0 and not done.lines
    folder = store / "step_00000004"
    assert total + done.bytes == sum((folder / name).stat().st_size for name in checkpoints.files(folder))
    checkpoints.verify(lib, folder)
    for writer in writers:
        lib.writer_destroy(writer)
    lib.c.free.argtypes = [c_void_p]
    for result in results:
        lib.c.free(c_void_p.from_buffer(result, checkpoints.WriterResult.lines.offset))


@pytest.mark.checked
@pytest.mark.parametrize("name, expected", [
    ("a.b", (True, "a.b", None)), ("a[0:1]", (False, "a", (0, 1))), ("a[12:9223372036854775807]", (False, "a", (12, 2**63 - 1))),
    ("a[12:9223372036854775808]", None), ("a[1:1]", None), ("a[2:1]", None), ("a[-1:1]", None), ("a[1:2", None), ("a[1:2]]", None),
    ("a[ 1:2]", None), ("a[1]", None), ("[0:1]", (False, "", (0, 1))), ("x" * 200, None), ("x" * 159 + "[0:1]", (False, "x" * 159, (0, 1))),
])  # fmt: skip
def test_piece_names(lib, name, expected):
    base, whole, first, end = ctypes.create_string_buffer(160), ctypes.c_bool(), c_uint64(), c_uint64()
    lib.c.piece_parse.restype = ctypes.c_bool
    parsed = lib.c.piece_parse(c_char_p(name.encode()), base, byref(whole), byref(first), byref(end))
    if expected is None:
        assert not parsed
        return
    assert parsed and (whole.value, base.value.decode()) == expected[:2]
    assert expected[0] or (first.value, end.value) == expected[2]
