"""Safetensors: both ways with the reference library, and every lie a header can tell."""

import gc
import json
import os
import resource
import signal
from contextlib import contextmanager
from ctypes import byref, c_void_p

import numpy as np
import pytest
import safetensors.torch
import torch

from hostlib import (
    FAULT,
    INPUT,
    SafetensorsTensor,
    call,
    expect_refusal,
    fresh_random,
    library,
    path_bytes,
    pointer,
)

pytestmark = pytest.mark.checked

DTYPES = [torch.float32, torch.bfloat16, torch.float16]  # by SafetensorsType


@contextmanager
def opened(path, how="safetensors_open"):
    reader = c_void_p()
    call(how, byref(reader), path_bytes(path))
    try:
        yield reader
    finally:
        library.safetensors_close(reader)


def read_all(reader):
    result, names = {}, []
    for i in range(library.safetensors_count(reader)):
        tensor = library.safetensors_at(reader, i)
        info = tensor.contents
        data = np.zeros(library.safetensors_tensor_bytes(tensor), np.uint8)
        call("safetensors_read", reader, tensor, 0, len(data), pointer(data))
        values = (
            torch.frombuffer(bytearray(data), dtype=DTYPES[info.type])
            if len(data)
            else torch.empty(0, dtype=DTYPES[info.type])
        )
        assert list(info.shape[info.dims :]) == [1] * (4 - info.dims)
        names.append(info.name)
        result[info.name.decode()] = values.reshape(list(info.shape[: info.dims]))
    assert names == sorted(names)
    return result


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype and a[name].shape == b[name].shape, name
        bits = torch.int32 if a[name].dtype == torch.float32 else torch.int16
        assert torch.equal(a[name].view(bits), b[name].view(bits)), name  # bits: NaN too


def random_tensors(rng, count=12):
    tensors = {}
    for i in range(count):
        shape = [int(n) for n in rng.integers(0 if i == 3 else 1, 7, int(rng.integers(0, 5)))]
        values = torch.from_numpy(rng.standard_normal(shape)).to(DTYPES[i % 3])
        tensors[f'model.layers.{int(rng.integers(100))}.w{i}"é\\'] = values
    tensors["model.nan"] = torch.tensor([float("nan"), float("inf"), -0.0])
    return tensors


def declare(tensors):
    array = (SafetensorsTensor * max(1, len(tensors)))()
    for entry, (name, value) in zip(array, tensors.items()):
        entry.name, entry.type, entry.dims = name.encode(), DTYPES.index(value.dtype), value.dim()
        entry.shape[: value.dim()] = list(value.shape)
    return array


def raw_bytes(tensors):
    return b"".join(
        value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b""
        for value in tensors.values()
    )


def create(path, tensors):
    writer = c_void_p()
    call("safetensors_create", byref(writer), path_bytes(path), declare(tensors), len(tensors))
    return writer


def write(path, tensors, rng):
    writer, data = create(path, tensors), raw_bytes(tensors)
    while data:  # cut anywhere
        piece = int(rng.integers(0, 100))
        call("safetensors_write", writer, data[:piece], len(data[:piece]))
        data = data[piece:]
    call("safetensors_finish", writer)


def test_reads_what_the_reference_writes(tmp_path):
    tensors = random_tensors(fresh_random())
    safetensors.torch.save_file(tensors, tmp_path / "a.safetensors", metadata={"format": "pt", "x": "y"})
    with opened(tmp_path / "a.safetensors") as reader:
        same(read_all(reader), tensors)
        for name in tensors:
            found = library.safetensors_find(reader, name.encode())
            assert found.contents.name.decode() == name
            assert library.safetensors_path(reader, found) == path_bytes(tmp_path / "a.safetensors")
        assert not library.safetensors_find(reader, b"model") and not library.safetensors_find(
            reader, b"__metadata__"
        )


def test_the_reference_reads_what_we_write(tmp_path):
    rng = fresh_random()
    for count in (0, 1, 12):
        tensors, path = random_tensors(rng, count), tmp_path / "a.safetensors"
        write(path, tensors, rng)
        same(safetensors.torch.load_file(path), tensors)
        with safetensors.safe_open(path, "pt") as file:
            assert file.metadata() == {"format": "pt"}
        with opened(path) as reader:
            same(read_all(reader), tensors)
        assert (8 + int.from_bytes(path.read_bytes()[:8], "little")) % 8 == 0
        assert os.listdir(tmp_path) == ["a.safetensors"]


def test_reads_parts(tmp_path):
    value = torch.arange(1000, dtype=torch.float32)
    safetensors.torch.save_file({"a": torch.zeros(3), "b": value}, tmp_path / "a.safetensors")
    with opened(tmp_path / "a.safetensors") as reader:
        part = np.zeros(10, np.float32)
        call("safetensors_read", reader, library.safetensors_find(reader, b"b"), 400, 40, pointer(part))
        assert (part == np.arange(100, 110)).all()


def entry(begin=0, end=8, shape=(2,), dtype="F32", **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end], **more}


def file_bytes(header, data=bytes(8)):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


DEEP = b'{"a":' + b"[" * 500 + b"]" * 500 + b"}"
LIES = {
    "empty": (b"", ["0 bytes", "8"]),
    "under 8 bytes": (b"1234567", ["7 bytes", "8"]),
    "header beyond file": ((100).to_bytes(8, "little") + b"{}", ["header length 100 exceeds file size 10"]),
    "header 2^64-1": (b"\xff" * 8 + b"{}", [f"header length {2**64 - 1} exceeds file size 10"]),
    "header 2^64-8": ((2**64 - 8).to_bytes(8, "little") + b"{}", [f"header length {2**64 - 8} exceeds"]),
    "header 0": (bytes(8), ["header length is 0"]),
    "not utf-8": (file_bytes(b'{"\xff":1}'), ["UTF-8"]),
    "overlong utf-8": (file_bytes(b'{"\xc0\xaf":1}'), ["UTF-8"]),
    "surrogate": (file_bytes(b'{"\xed\xa0\x80":1}'), ["UTF-8"]),
    "zero byte": (file_bytes(b'{"a\0":1}'), ["zero byte"]),
    "not json": (file_bytes(b'{"a":'), ["JSON"]),
    "trailing text": (file_bytes(b"{} {}"), ["JSON"]),
    "leading space": (file_bytes(b" {}"), ["'{'"]),
    "list": (file_bytes(b"[]"), ["'{'"]),
    "deep": (file_bytes(DEEP), ["nested"]),
    "name twice": (
        file_bytes(
            b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
            b'"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
        ),
        ['"w"', "twice"],
    ),
    "key twice": (
        file_bytes(b'{"w":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}'),
        ["dtype", "twice"],
    ),
    "entry no object": (file_bytes({"w": 1}), ['"w"', "object"]),
    "overflow": (file_bytes({"w": entry(shape=[2**32, 2**32])}), ['"w"', "shape overflows"]),
    "overflow to zero": (
        file_bytes({"w": entry(0, 0, shape=[2**32, 2**32])}, b""),
        ['"w"', "shape overflows"],
    ),
    "overflow behind zero": (
        file_bytes({"w": entry(0, 0, shape=[0, 2**50, 2**50])}, b""),
        ['"w"', "shape overflows"],
    ),
    "overflow by dtype": (file_bytes({"w": entry(shape=[2**31, 2**31])}), ['"w"', "shape overflows"]),
    "negative shape": (file_bytes({"w": entry(shape=[-2])}), ['"w"', "shape[0]"]),
    "fraction": (file_bytes({"w": entry(shape=[1, 2.5])}), ['"w"', "shape[1]"]),
    "huge": (file_bytes({"w": entry(shape=[2**54])}), ['"w"', "shape[0]"]),
    "infinite": (
        file_bytes(b'{"w":{"dtype":"F32","shape":[1e999],"data_offsets":[0,8]}}'),
        ['"w"', "shape[0]"],
    ),
    "text in shape": (file_bytes({"w": entry(shape=["2"])}), ['"w"', "shape[0]"]),
    "5 dims": (file_bytes({"w": entry(shape=[1, 1, 1, 1, 2])}), ['"w"', "4 dimensions"]),
    "no shape": (file_bytes({"w": {"dtype": "F32", "data_offsets": [0, 8]}}), ['"w"', "shape"]),
    "unknown dtype": (file_bytes({"w": entry(dtype="F99")}), ['"w"', "F99", "F32, BF16 or F16"]),
    "int dtype": (file_bytes({"w": entry(dtype=4)}), ['"w"', "dtype"]),
    "negative offset": (file_bytes({"w": entry(-8, 0)}), ['"w"', "data_offsets"]),
    "reversed": (file_bytes({"w": entry(8, 0)}), ['"w"', "data_offsets"]),
    "one offset": (file_bytes({"w": {**entry(), "data_offsets": [0]}}), ['"w"', "data_offsets"]),
    "three offsets": (file_bytes({"w": {**entry(), "data_offsets": [0, 8, 8]}}), ['"w"', "data_offsets"]),
    "size disagrees": (file_bytes({"w": entry(shape=[3])}), ['"w"', "span 8 bytes", "expected 12"]),
    "dtype disagrees": (file_bytes({"w": entry(dtype="BF16")}), ['"w"', "span 8 bytes", "expected 4"]),
    "past the end": (file_bytes({"w": entry()}, bytes(7)), ['"w"', "byte 8", "7"]),
    "overlap": (file_bytes({"v": entry(), "w": entry(4, 12)}, bytes(12)), ['"w"', "overlap"]),
    "same place": (file_bytes({"v": entry(), "w": entry()}), ["overlap"]),
    "gap": (file_bytes({"v": entry(), "w": entry(12, 20)}, bytes(20)), ['"w"', "gap"]),
    "gap at start": (file_bytes({"w": entry(4, 12)}, bytes(12)), ['"w"', "gap"]),
    "more at the end": (file_bytes({"w": entry()}, bytes(9)), ["byte 8", "9"]),
    "reversed beyond 2^53": (file_bytes({"w": entry(2**60, 8)}), ['"w"', "data_offsets"]),
    "offset 1e400": (
        file_bytes(b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,1e400]}}'),
        ['"w"', "data_offsets"],
    ),
    "nested 10000 deep": (file_bytes(b'{"a":' + b"[" * 10000 + b"]" * 10000 + b"}"), ["nested"]),
    "five million values": (file_bytes(b'{"a":[' + b"0," * 5000000 + b"0]}"), ["values"]),
    "metadata": (file_bytes({"__metadata__": {"a": 1}, "w": entry()}), ["__metadata__"]),
    "newline in name": (file_bytes({"w\n\x1b[2Jx": entry(shape=[3])}), ["w??[2Jx"]),
}


@pytest.mark.parametrize("case", LIES)
def test_refused(tmp_path, case):
    content, words = LIES[case]
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    gc.collect()  # or a file that an earlier test has left in a cycle may be closed in between
    descriptors = len(os.listdir("/proc/self/fd"))
    expect_refusal(INPUT, [path, *words], "safetensors_open", byref(c_void_p()), path_bytes(path))
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_header_over_the_cap(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes((100000001).to_bytes(8, "little") + b"{}")
    os.truncate(path, 200000000)  # sparse
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    expect_refusal(
        INPUT, [path, "100000001", "100000000"], "safetensors_open", byref(c_void_p()), path_bytes(path)
    )
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50000, "kB: the header was read"


def save_sharded(folder):
    first, second = {"a": torch.ones(3), "c": torch.zeros(2, 2)}, {"b": torch.full((4,), 2.0).bfloat16()}
    safetensors.torch.save_file(first, folder / "model-00001-of-00002.safetensors")
    safetensors.torch.save_file(second, folder / "model-00002-of-00002.safetensors")
    weight_map = {
        **{name: "model-00001-of-00002.safetensors" for name in first},
        **{name: "model-00002-of-00002.safetensors" for name in second},
    }
    save_index(folder, weight_map)
    return {**first, **second}, weight_map


def save_index(folder, weight_map):
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )


def test_model_of_one_or_several_files(tmp_path):
    tensors, _ = save_sharded(tmp_path)
    with opened(tmp_path, "safetensors_open_model") as reader:
        same(read_all(reader), tensors)
        assert library.safetensors_path(reader, library.safetensors_find(reader, b"b")).endswith(
            b"00002-of-00002.safetensors"
        )
    single = {"x": torch.ones(1)}
    safetensors.torch.save_file(single, tmp_path / "model.safetensors")  # transformers prefers it too
    for path in (tmp_path, tmp_path / "model.safetensors", f"{tmp_path}/"):
        with opened(path, "safetensors_open_model") as reader:
            same(read_all(reader), single)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"a": "../x.safetensors"}, ["../x.safetensors", "leaves the folder"]),
        ({"a": "/etc/x.safetensors"}, ["/etc/x.safetensors", "leaves the folder"]),
        ({"a": "sub/x.safetensors"}, ["sub/x.safetensors", "leaves the folder"]),
        ({"a": ".."}, ["leaves the folder"]),
        ({"a": "pytorch_model.bin"}, ["pytorch_model.bin", "convert to safetensors"]),
        ({"a": "model.txt"}, ["model.txt", ".safetensors"]),
        ({"a": 5}, ['"a"', "text"]),
        ({"a": "missing.safetensors"}, ["missing.safetensors"]),
        ({"d": "model-00001-of-00002.safetensors"}, ['"d"', "missing"]),
        ({"a": None}, ['"a"', "not in the index"]),
        (
            {"a": "model-00002-of-00002.safetensors"},
            ['"a"', "model-00001-of-00002", "expected in model-00002-of-00002"],
        ),
    ],
)
def test_index_refused(tmp_path, change, words):
    _, weight_map = save_sharded(tmp_path)
    save_index(tmp_path, {name: file for name, file in {**weight_map, **change}.items() if file is not None})
    expect_refusal(INPUT, words, "safetensors_open_model", byref(c_void_p()), path_bytes(tmp_path))


def test_tensor_in_two_files(tmp_path):
    _, weight_map = save_sharded(tmp_path)
    safetensors.torch.save_file(
        {"a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "model-00002-of-00002.safetensors"
    )
    expect_refusal(
        INPUT, ['"a"', "one file"], "safetensors_open_model", byref(c_void_p()), path_bytes(tmp_path)
    )


def refuse_model(words, path):
    expect_refusal(INPUT, words, "safetensors_open_model", byref(c_void_p()), path_bytes(path))


@pytest.mark.parametrize("name", ["model.safetensors", "model.safetensors.index.json"])
def test_what_is_no_file_is_refused_without_waiting(tmp_path, name):
    place = tmp_path / name
    os.mkfifo(place)
    refuse_model([place, "regular file"], tmp_path)
    place.unlink()
    place.mkdir()
    refuse_model([place], tmp_path)
    place.rmdir()
    place.symlink_to("/dev/zero")
    refuse_model([place, "regular file"], tmp_path)
    place.unlink()
    place.symlink_to(place)
    refuse_model([tmp_path], tmp_path)


def test_links_to_files_are_followed(tmp_path):
    """As in Hugging Face's cache."""
    single = {"x": torch.ones(1)}
    safetensors.torch.save_file(single, tmp_path / "blob")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").symlink_to("../blob")
    with opened(tmp_path / "model", "safetensors_open_model") as reader:
        same(read_all(reader), single)


def test_index_of_very_many_files(tmp_path):
    save_index(tmp_path, {f"t{i}": f"{i}.safetensors" for i in range(100000)})
    refuse_model(["0.safetensors"], tmp_path)
    empty = file_bytes({}, b"")
    for i in range(4097):
        (tmp_path / f"{i}.safetensors").write_bytes(empty)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8000, limits[1]), limits[1]))
    try:
        refuse_model(["more than 4096 files"], tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize(
    "text, word",
    [
        ('{"weight_map": {"a": "a.safetensors", "a": "b.safetensors"}}', "twice"),
        ('{"weight_map": {"a": "a.safetensors"}, "weight_map": {}}', "twice"),
        ('{"weight_map": ' + "[" * 10000 + "]" * 10000 + "}", "nested"),
        ('{"weight_map": {}}', "weight_map"),
        ('{"weight_map": {"a": ""}}', "a.safetensors".split(".")[1]),
        ("[]", "object"),
    ],
)
def test_index_that_lies(tmp_path, text, word):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    refuse_model([tmp_path, word], tmp_path)


def test_pickles_and_empty_folders(tmp_path):
    def refuse(words, path, how="safetensors_open_model"):
        expect_refusal(INPUT, words, how, byref(c_void_p()), path_bytes(path))

    refuse([tmp_path, "model.safetensors"], tmp_path)
    refuse(["nowhere"], tmp_path / "nowhere")
    for name in ("pytorch_model.bin", "consolidated.00.pth", "model.pt"):
        folder = tmp_path / name.replace(".", "_")
        folder.mkdir()
        (folder / name).write_bytes(b"never read")
        (folder / name).chmod(0)
        for path, how in (
            (folder, "safetensors_open_model"),
            (folder / name, "safetensors_open_model"),
            (folder / name, "safetensors_open"),
        ):
            refuse([name, "not supported, convert to safetensors"], path, how)


def test_writer_refuses(tmp_path):
    def refused(words, tensors, edit=lambda array: None):
        array = declare(tensors)
        edit(array)
        expect_refusal(
            INPUT,
            words,
            "safetensors_create",
            byref(c_void_p()),
            path_bytes(tmp_path / "a"),
            array,
            len(tensors),
        )

    two = {"a": torch.ones(2), "b": torch.ones(2)}
    refused(['"a"', "twice"], two, lambda array: setattr(array[1], "name", b"a"))
    refused(['"b"'], two, lambda array: setattr(array[1], "dims", 5))
    refused(['"b"'], two, lambda array: setattr(array[1], "type", 3))
    refused(['"b"'], two, lambda array: array[1].shape.__setitem__(0, -1))
    refused(['"b"'], two, lambda array: array[1].shape.__setitem__(0, 2**62))
    refused(["__metadata__"], {"__metadata__": torch.ones(1)})
    expect_refusal(
        INPUT,
        ["nowhere"],
        "safetensors_create",
        byref(c_void_p()),
        path_bytes(tmp_path / "nowhere" / "a"),
        declare(two),
        2,
    )
    assert os.listdir(tmp_path) == []


def test_unfinished_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"old")
    two = {"a": torch.ones(2), "b": torch.ones(2)}
    writer = create(path, two)
    call("safetensors_write", writer, bytes(15), 15)
    expect_refusal(FAULT, [path, "15", "16"], "safetensors_finish", writer)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.safetensors"]
    writer = create(path, two)
    expect_refusal(FAULT, [path, "1 bytes more"], "safetensors_write", writer, bytes(17), 17)
    library.safetensors_discard(writer)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.safetensors"]


@pytest.mark.parametrize("mib, fails_in", [(2, "safetensors_finish"), (24, "safetensors_write")])
def test_full_disk(tmp_path, mib, fails_in):
    """A file size limit stands in for a full disk: the write fails, the old file stays."""
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"old")
    value = {"a": torch.ones(mib << 18)}
    writer = create(path, value)
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        data = [raw_bytes(value), mib << 20]
        if fails_in == "safetensors_finish":  # so little waits in memory
            call("safetensors_write", writer, *data)
            data = []
        expect_refusal(FAULT, [path, "write", "too large"], fails_in, writer, *data)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    if fails_in == "safetensors_write":
        library.safetensors_discard(writer)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.safetensors"]


def test_tensor_over_4_gib(tmp_path):
    count = 2**30 + 3  # sparse
    path = tmp_path / "a.safetensors"
    path.write_bytes(file_bytes({"w": entry(0, 4 * count, shape=[count])}, b""))
    start = path.stat().st_size
    os.truncate(path, start + 4 * count)
    with open(path, "r+b") as file:
        file.seek(start + 4 * (count - 1))
        file.write(np.float32(7).tobytes())
    with opened(path) as reader:
        tail = np.zeros(2, np.float32)
        call("safetensors_read", reader, library.safetensors_at(reader, 0), 4 * (count - 2), 8, pointer(tail))
        assert list(tail) == [0, 7]
        os.truncate(path, start + 100)
        expect_refusal(
            FAULT,
            [path, "shrink"],
            "safetensors_read",
            reader,
            library.safetensors_at(reader, 0),
            96,
            8,
            pointer(tail),
        )
