"""Checkpoints: what is written, that it comes back, that damage is named, that the right ones stay."""

import ctypes
import json
import os
import shutil
import struct
import subprocess
import threading
from ctypes import byref, c_void_p

import pytest
import safetensors.torch
import torch

import checkpoints
import llmc
import model as models
from checkpoints import ARRAYS, SUMS, Failure, call, steps, verify, write

pytestmark = pytest.mark.checked

B, T = 2, 8
PIECE = 1 << 20  # elements that reading and writing handle at a time (llmc/checkpoint)


def trained(lib, fields=models.TINY, updates=2, seed=1):
    """A model with moments."""
    m = models.Model(lib, fields, B, T)
    m.fields = dict(fields)
    lib.llama3_init_weights(m.handle, seed)
    for step in range(1, updates + 1):
        update(m, step)
    return m


def update(m, step):
    torch.manual_seed(step)
    m.accumulate([models.random_batch(m.fields["vocab_size"], B, T)])
    m.update(llmc.AdamWStep(1e-2, 0.9, 0.95, 1e-8, 0.1, 1 - 0.9**step, 1 - 0.95**step, 1.0))
    return m.result()


def other_weights(m):
    return trained(m.lib, m.fields, updates=1, seed=99)


def no_weights(m):
    """The same model as it is born: on the cpu target its memory is NaN."""
    again = models.Model(m.lib, m.fields, B, T)
    again.fields = m.fields
    return again


def arrays(m):
    """{"master.NAME": tensor, ...}"""
    found = {}
    for number, array in enumerate(ARRAYS):
        for i, name in enumerate(m.names):
            values = found[f"{array}.{name}"] = torch.empty(m.shape(i))
            m.lib.llama3_get_training_piece(m.handle, number, i, 0, values.numel(), values)
    return found


def padded(m):
    """The flat arrays, padding included."""
    last = m.tensors[-1]
    most = max(t.offset + t.padded_rows * t.cols for t in m.tensors)
    flat = torch.empty(3 * ((most + 127) // 128 * 128))
    assert last.offset < most
    m.lib.llama3_get_training(m.handle, flat)
    return flat


def same_bits(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype and a[name].shape == b[name].shape, name
        assert torch.equal(a[name].contiguous().view(torch.uint8), b[name].contiguous().view(torch.uint8)), name


@pytest.fixture
def store(tmp_path):
    folder = tmp_path / "checkpoints"
    return folder


@pytest.fixture
def written(lib, store):
    """(model, its checkpoint)"""
    m = trained(lib)
    write(m, store, 5)
    return m, store / "step_00000005"


# ---- what is written


def test_weights_are_those_of_the_model(written):
    m, folder = written
    same_bits(safetensors.torch.load_file(folder / "model.safetensors"), m.weights())


def test_optimizer_file(written):
    m, folder = written
    found = safetensors.torch.load_file(folder / "trainer/optimizer.safetensors")
    assert all(found[f"moment{i}.{name}"].abs().sum() > 0 for i in (1, 2) for name in m.names[1:])
    same_bits(found, arrays(m))


def test_files_and_size(lib, store, tmp_path):
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    names = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
             "tokenizer.model"]  # fmt: skip
    for name in [*names, "other.txt"]:
        (tokenizer / name).write_text(name * 3)
    state = json.dumps({"format_version": 1, "step": 5, "text": "é"})
    size = write(trained(lib), store, 5, tokenizer=tokenizer, state=state)
    folder = store / "step_00000005"
    made = ["config.json", "generation_config.json", "model.safetensors", SUMS, "trainer/optimizer.safetensors",
            "trainer/state.json"]  # fmt: skip
    assert checkpoints.files(folder) == sorted([*names, *made])
    assert all((folder / name).read_text() == name * 3 for name in names)
    assert (folder / "trainer/state.json").read_text() == state
    assert size == sum((folder / name).stat().st_size for name in checkpoints.files(folder))
    assert os.readlink(store / "latest") == "step_00000005" and sorted(os.listdir(store)) == ["latest", "step_00000005"]
    verify(lib, store / "latest")


def test_transformers_opens_it(written):
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import transformers

    m, folder = written
    opened = transformers.LlamaForCausalLM.from_pretrained(folder)
    assert opened.dtype == m.lib.floatX
    same_bits({k: v.detach() for k, v in opened.state_dict().items()}, m.weights())


def test_snapshot_stays_what_it_was(lib, store):
    """Training goes on after the snapshot; what is written is what was. From the model itself the same bytes come."""
    m = trained(lib)
    snapshot = c_void_p()
    call(lib, "snapshot_create", byref(snapshot), m.handle)
    lib.snapshot_take(snapshot, m.handle)
    store.mkdir()
    write(m, store / "model", 5)
    before = m.weights()
    update(m, 3)
    write(m, store / "snapshot", 5, snapshot=snapshot)
    lib.snapshot_destroy(snapshot)
    assert not all(torch.equal(a, b) for a, b in zip(before.values(), m.weights().values()))
    for name in checkpoints.files(store / "model/step_00000005"):
        paths = [store / where / "step_00000005" / name for where in ("model", "snapshot")]
        assert paths[0].read_bytes() == paths[1].read_bytes(), name


def test_snapshot_that_does_not_fit(lib):
    """A model of which three fp32 arrays are more than this machine's memory, while its bf16 weights are not planned."""
    m = trained(lib, updates=0)
    free = int(next(line for line in open("/proc/meminfo") if line.startswith("MemAvailable")).split()[1]) << 10
    table = ctypes.cast(lib.llama3_parameters(m.handle), ctypes.POINTER(models.ParameterTable)).contents
    honest, table.num_shard_elements = table.num_shard_elements, free // 8
    try:
        with pytest.raises(Failure, match=r"host memory.* MiB needed, [\d.]+ MiB free") as failure:
            call(lib, "snapshot_create", byref(c_void_p()), m.handle)
    finally:
        table.num_shard_elements = honest
    assert failure.value.code == 1


# ---- that it comes back


@pytest.mark.parametrize("tied, other", [(False, "weights"), (True, "weights"), (False, "poison")])
def test_everything_comes_back(lib, store, tied, other):
    """All bits, padding too, and so the next steps' bits; into a model with other weights or with none."""
    m = trained(lib, dict(models.TINY, tie_word_embeddings=tied))
    write(m, store, 5)
    again = other_weights(m) if other == "weights" else no_weights(m)
    call(lib, "checkpoint_read_training", os.fsencode(store / "latest"), again.handle)
    same_bits(m.weights(), again.weights())
    same_bits(arrays(m), arrays(again))
    assert torch.equal(padded(m).view(torch.int32), padded(again).view(torch.int32))
    for step in (3, 4):
        assert update(m, step) == update(again, step)
    same_bits(m.weights(), again.weights())


LARGE = dict(models.TINY, vocab_size=1501, hidden_size=1024, num_hidden_layers=1, num_attention_heads=2,
             num_key_value_heads=1, head_dim=16, tie_word_embeddings=True)  # fmt: skip


def test_tensors_larger_than_a_piece(lib, store):
    assert LARGE["vocab_size"] * LARGE["hidden_size"] > PIECE + PIECE // 3
    m = trained(lib, LARGE, updates=1)
    write(m, store, 1)
    same_bits(safetensors.torch.load_file(store / "latest/model.safetensors"), m.weights())
    again = trained(lib, LARGE, updates=0, seed=2)
    call(lib, "checkpoint_read_training", os.fsencode(store / "latest"), again.handle)
    same_bits(m.weights(), again.weights())
    assert torch.equal(padded(m).view(torch.int32), padded(again).view(torch.int32))


def save_shifted(state, path, pad):
    """A safetensors file whose data begin at an odd place."""
    data = safetensors.torch.save(state, {"format": "pt"})
    length = struct.unpack("<Q", data[:8])[0]
    header = data[8 : 8 + length].rstrip() + b" " * pad
    path.write_bytes(struct.pack("<Q", len(header)) + header + data[8 + length :])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("pad", [0, 1, 2, 3])
def test_weights_of_any_type_and_place(lib, tmp_path, dtype, pad):
    """Rounding to floatX is PyTorch's; subnormal numbers and zeros of both signs among them. Masters follow, moments go."""
    m = trained(lib)
    state = {name: (w.float() * torch.exp2(-30 * torch.rand(w.shape))).to(dtype) for name, w in m.weights().items()}
    state[m.names[0]][0, :4] = torch.tensor([0.0, -0.0, 2e-7, -65504.0]).to(dtype)
    save_shifted(state, tmp_path / "model.safetensors", pad)
    call(lib, "checkpoint_read_weights", os.fsencode(tmp_path), m.handle)
    expected = {name: w.to(lib.floatX) for name, w in state.items()}
    same_bits(m.weights(), expected)
    found = arrays(m)
    same_bits({name: found[f"master.{name}"] for name in m.names}, {name: w.float() for name, w in expected.items()})
    assert all(not found[f"moment{i}.{name}"].any() for i in (1, 2) for name in m.names)


def test_not_finite_behind_a_piece(lib, tmp_path):
    m = trained(lib, LARGE, updates=0)
    state = m.weights()
    state[m.names[0]][-1, -1] = float("nan")
    state[m.names[0]][0, 0] = float("inf")
    safetensors.torch.save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(Failure, match=f"{m.names[0]}: 2 of 1537024 values are not finite") as failure:
        call(lib, "checkpoint_read_weights", os.fsencode(tmp_path), m.handle)
    assert failure.value.code == 2


def test_file_that_shrinks_is_an_error_and_no_signal(lib, written):
    """Between opening and reading, where a mapped file would be a SIGBUS."""
    m, folder = written
    path = folder / "model.safetensors"
    reader, data = c_void_p(), c_void_p()
    call(lib, "safetensors_open", byref(reader), os.fsencode(path))
    lib.c.safetensors_at.restype = c_void_p
    tensor = lib.c.safetensors_at(reader, 0)
    call(lib, "safetensors_view", reader, tensor, 0, 64, byref(data))
    os.truncate(path, 4096)
    with pytest.raises(Failure, match="model.safetensors: .*did it shrink") as failure:
        call(lib, "safetensors_view", reader, tensor, 0, 8192, byref(data))
    assert failure.value.code == 1
    lib.safetensors_close(reader)


def change_optimizer(folder, change):
    path = folder / "trainer/optimizer.safetensors"
    state = safetensors.torch.load_file(path)
    change(state)
    safetensors.torch.save_file(state, path)


NORM = "moment2.model.norm.weight"


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda s: s.pop(NORM), f"{NORM} is missing"),
        (lambda s: s.update(more=torch.zeros(1)), "tensor more: the model has none of that name"),
        (lambda s: s.update({NORM: s[NORM][1:].clone()}), "model.norm.weight: expected 1 dim"),
        (lambda s: s.update({NORM: s[NORM].bfloat16()}), f"{NORM}: dtype is BF16, expected F32"),
        (lambda s: s[NORM].fill_(float("inf")), f"{NORM}: 64 of 64 values are not finite"),
    ],
)
def test_wrong_optimizer_state(written, change, words):
    m, folder = written
    change_optimizer(folder, change)
    with pytest.raises(Failure, match=words) as failure:
        call(m.lib, "checkpoint_read_training", os.fsencode(folder), m.handle)
    assert failure.value.code == 2 and "optimizer.safetensors" in failure.value.message


@pytest.mark.parametrize(
    "state, words",
    [
        ('{"format_version": 2, "program_version": "9.1"}', "format_version is 2, written by version 9.1.*up to 1"),
        ('{"format_version": 0}', "format_version is 0"),
        ('{"step": 3}', "format_version is missing"),
        ('{"format_version": 1, "format_version": 1}', "format_version"),
        ('{"format_version": 1', "state.json"),
        (None, "state.json: No such file"),
    ],
)
def test_state_of_another_version(lib, tmp_path, state, words):  # row 23
    (tmp_path / "trainer").mkdir()
    if state:
        (tmp_path / "trainer/state.json").write_text(state)
    with pytest.raises(Failure, match=words) as failure:
        call(lib, "checkpoint_read_state", os.fsencode(tmp_path), byref(c_void_p()))
    assert failure.value.code == 2


def test_state_comes_back(written):
    _, folder = written
    state = c_void_p()
    call(written[0].lib, "checkpoint_read_state", os.fsencode(folder), byref(state))
    assert state.value
    written[0].lib.c.cJSON_Delete(state)


# ---- damage

FILES = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", SUMS,
         "trainer/optimizer.safetensors", "trainer/state.json"]  # fmt: skip


@pytest.fixture
def whole(lib, store, tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    write(trained(lib, updates=0), store, 5, tokenizer=tmp_path)
    folder = store / "step_00000005"
    assert checkpoints.files(folder) == sorted(FILES)
    verify(lib, folder)
    return folder


def refused(lib, folder, *words):
    with pytest.raises(Failure) as failure:
        verify(lib, folder)
    assert failure.value.code == 2, failure.value.message
    for word in words:
        assert str(word) in failure.value.message


@pytest.mark.parametrize("name", FILES)
def test_flipped_bit(lib, whole, name):
    data = (whole / name).read_bytes()
    for bit in [0, 8 * len(data) - 1, *torch.randint(8 * len(data), (20,)).tolist()]:
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        (whole / name).write_bytes(damaged)
        refused(lib, whole, f"{whole / name}: ")
    (whole / name).write_bytes(data)
    verify(lib, whole)


@pytest.mark.parametrize("name", FILES)
def test_cut_grown_and_missing_file(lib, whole, name):
    data = (whole / name).read_bytes()
    for length in {0, 1, len(data) // 2, len(data) - 1}:
        (whole / name).write_bytes(data[:length])
        refused(lib, whole, f"{whole / name}: ")
    (whole / name).write_bytes(data + b"\n")
    refused(lib, whole, f"{whole / name}: ")
    os.remove(whole / name)
    refused(lib, whole, f"{whole / name}: No such file")


def test_checksum_lines(lib, whole):
    lines = (whole / SUMS).read_text().splitlines()[:-1]
    assert sorted(line[34:] for line in lines) == [name for name in sorted(FILES) if name != SUMS]
    checkpoints.write_sums(lib, whole, lines)
    verify(lib, whole)
    (whole / "extra").write_text("x")
    verify(lib, whole)  # a file that nobody listed is nobody's affair
    digest = checkpoints.digest(lib, b"x")
    checkpoints.write_sums(lib, whole, [*lines, f"{digest}  extra"])
    verify(lib, whole)
    (whole / "extra").unlink()
    refused(lib, whole, whole / "extra")
    for bad in ["../extra", "/etc/passwd", "trainer/../../x", "trainer/..", "..", "", "a\\..\\b", "trainer//x", "x/"]:
        checkpoints.write_sums(lib, whole, [*lines, f"{digest}  {bad}"])
        refused(lib, whole, SUMS, "not in the folder")
    for bad in [digest, digest[1:] + "  extra", digest + " extra", digest.upper() + "  extra", ""]:
        checkpoints.write_sums(lib, whole, [*lines, bad])
        refused(lib, whole, SUMS, "expected a checksum")
    for missing in ["config.json", "trainer/state.json", "trainer/optimizer", "model"]:
        checkpoints.write_sums(lib, whole, [line for line in lines if not line[34:].startswith(missing)])
        refused(lib, whole, SUMS, missing)


def test_folder_in_the_place_of_a_file(lib, whole):
    os.remove(whole / "config.json")
    (whole / "config.json").mkdir()
    refused(lib, whole, whole / "config.json", "regular file")


def test_xxhsum_agrees(lib, whole):
    program = shutil.which("xxhsum")
    if not program:
        pytest.skip("no xxhsum here")
    check = [program, "-c", SUMS]
    done = subprocess.run(check, cwd=whole, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    good = [line.removesuffix(": OK") for line in done.stdout.splitlines() if line.endswith(": OK")]
    assert sorted(good) == [name for name in sorted(FILES) if name != SUMS]
    (whole / "config.json").write_text("{}")
    assert subprocess.run(check, cwd=whole, capture_output=True).returncode != 0


# ---- the store


def small(lib):
    return trained(lib, dict(models.TINY, num_hidden_layers=1), updates=0)


@pytest.mark.parametrize(
    "keep_last, keep_every, expected",
    [(0, 0, [1, 2, 3, 4, 5, 6, 7]), (1, 0, [7]), (3, 0, [5, 6, 7]), (2, 3, [3, 6, 7]), (1, 2, [2, 4, 6, 7]), (9, 0, [1, 2, 3, 4, 5, 6, 7])],
)
def test_which_stay(lib, store, keep_last, keep_every, expected):
    m = small(lib)
    for step in range(1, 8):
        write(m, store, step, keep_last=keep_last, keep_every=keep_every)
    assert steps(lib, store) == expected[::-1]
    assert os.readlink(store / "latest") == "step_00000007"
    for step in expected:
        verify(lib, store / f"step_{step:08d}")


def test_the_one_just_written_stays(lib, store):
    """Also where older runs left later ones."""
    m = small(lib)
    for step in (8, 9, 3):
        write(m, store, step, keep_last=2)
    assert steps(lib, store) == [9, 8, 3] and os.readlink(store / "latest") == "step_00000003"


def test_newest_whole(lib, store):
    m = small(lib)
    assert checkpoints.newest_whole(lib, store) == ("", [])
    for step in (1, 20, 300, 123456789):
        write(m, store, step)
    assert steps(lib, store) == [123456789, 300, 20, 1]
    for junk in ("step_5", "step_00000400.tmp", "step_00000400.old", "step_0000400x", "step_-0000001", "other"):
        (store / junk).mkdir()
    (store / "step_00000500").write_text("a file")
    assert checkpoints.newest_whole(lib, store) == (str(store / "step_123456789"), [])
    os.truncate(store / "step_123456789" / "config.json", 3)
    shutil.rmtree(store / "step_00000300" / "trainer")
    path, passed_over = checkpoints.newest_whole(lib, store)
    assert path == str(store / "step_00000020")
    assert [name for name, _ in passed_over] == ["step_123456789", "step_00000300"]
    assert "step_123456789/config.json: " in passed_over[0][1] and SUMS in passed_over[1][1]
    for step in (20, 1):
        (store / f"step_{step:08d}" / SUMS).write_text("")
    path, passed_over = checkpoints.newest_whole(lib, store)
    assert path == "" and len(passed_over) == 4


def test_clean(lib, store):
    """Leftovers go; an old one that was set aside gets its name back, unless there is a new one; others' files stay."""
    m = small(lib)
    for step in (1, 2):
        write(m, store, step)
    (store / "step_00000001").rename(store / "step_00000001.old")
    shutil.copytree(store / "step_00000002", store / "step_00000002.old")
    (store / "step_00000003.tmp/trainer").mkdir(parents=True)
    (store / "step_00000003.tmp/trainer/x").write_text("x")
    os.symlink("step_00000003", store / "latest.tmp")
    (store / "notes.tmp").write_text("mine")
    lib.store_clean(os.fsencode(store))
    assert sorted(os.listdir(store)) == ["latest", "notes.tmp", "step_00000001", "step_00000002"]
    for step in (1, 2):
        verify(lib, store / f"step_{step:08d}")
    lib.store_clean(os.fsencode(store / "missing"))


def test_store_that_cannot_be(lib, tmp_path):
    (tmp_path / "file").write_text("")
    for where, words in ((tmp_path / "file", "Not a directory"), (tmp_path / "no/such", "No such file")):
        with pytest.raises(Failure, match=f"{where}.*{words}"):
            write(small(lib), where, 1)
    assert os.listdir(tmp_path) == ["file"]


def test_links_are_not_followed_when_removing(lib, store, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/file").write_text("x")
    (store / "step_00000001.tmp").mkdir(parents=True)
    os.symlink(tmp_path / "precious", store / "step_00000001.tmp/link")
    write(small(lib), store, 1)
    assert (tmp_path / "precious/file").exists() and steps(lib, store) == [1]


# ---- the writer


@pytest.fixture
def writer(lib):
    handle = c_void_p()
    call(lib, "writer_create", byref(handle))
    yield handle
    lib.writer_destroy(handle)


def begin(lib, writer, content):
    call(lib, "writer_begin", writer, 0, byref(content), None)


def test_writer(lib, store, writer):
    m = trained(lib)
    snapshot, result = c_void_p(), checkpoints.WriterResult()
    call(lib, "snapshot_create", byref(snapshot), m.handle)
    assert not lib.writer_finished(writer, byref(result)) and not lib.writer_wait(writer, byref(result))
    for step in (5, 6):
        lib.snapshot_take(snapshot, m.handle)
        expected = m.weights()
        content = checkpoints.content(m, store, step, snapshot=snapshot, state='{"format_version": 1, "a": 1}')
        begin(lib, writer, content)
        content.state = content.store = b"gone"  # its own copies are used
        update(m, step)  # training goes on
        if step == 5:
            assert lib.writer_wait(writer, byref(result))
        else:
            while not lib.writer_finished(writer, byref(result)):
                threading.Event().wait(0.002)
        assert (result.step, result.error.code) == (step, 0) and result.seconds > 0
        folder = store / f"step_{step:08d}"
        assert result.bytes == sum((folder / name).stat().st_size for name in checkpoints.files(folder))
        same_bits(safetensors.torch.load_file(folder / "model.safetensors"), expected)
        assert not lib.writer_finished(writer, byref(result)) and not lib.writer_wait(writer, byref(result))
    lib.snapshot_destroy(snapshot)


def test_writer_that_fails(lib, tmp_path, writer):
    """The error comes with the result; the next write is not touched by it."""
    m, result = small(lib), checkpoints.WriterResult()
    begin(lib, writer, checkpoints.content(m, tmp_path / "no/such", 1))
    assert lib.writer_wait(writer, byref(result))
    assert result.error.code == 2 and b"no/such" in result.error.message
    begin(lib, writer, checkpoints.content(m, tmp_path / "store", 2))
    assert lib.writer_wait(writer, byref(result)) and result.error.code == 0
    verify(lib, tmp_path / "store/latest")
