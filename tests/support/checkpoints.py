"""A store of checkpoints (llmc/checkpoint) for tests: structs and functions through ctypes, and programs that write one."""

import ctypes
import os
import pathlib
import subprocess
from ctypes import POINTER, byref, c_char_p, c_int, c_uint64, c_void_p

import cstructs
import llmc
import model as models

ROOT = pathlib.Path(__file__).resolve().parents[2]
ARRAYS = ["master", "moment1", "moment2"]
SUMS = "trainer/checksums.xxh128"


STRUCTS = cstructs.read("base/hash.h", "checkpoint/checkpoint.h", "checkpoint/store.h", "checkpoint/writer.h")
Content, StoreEntry, WriterResult, Digest = map(STRUCTS.get, "CheckpointContent StoreEntry WriterResult Digest".split())

REPORT = ctypes.CFUNCTYPE(None, c_void_p, c_char_p, c_char_p)


class Failure(Exception):
    def __init__(self, code, message):
        super().__init__(message)
        self.code, self.message = code, message


def call(lib, name, *arguments):
    """A fallible function, without its Error argument."""
    error = models.Error()
    code = getattr(lib, name)(*arguments, byref(error))
    if code:
        assert code == error.code and error.message
        raise Failure(code, error.message.decode())


def content(model, store, step, snapshot=None, state='{"format_version": 1}', tokenizer=None, keep_last=0, keep_every=0, part=0, parts=0):
    """What a checkpoint is written from. The model's fields: models.Model with .fields."""
    config = ctypes.pointer(models.c_config(model.fields))
    table = ctypes.cast(model.lib.llama3_parameters(model.handle), POINTER(models.ParameterTable))
    return Content(os.fsencode(store), step, config, table, part, parts, snapshot, model.handle, state.encode(), None,
                   os.fsencode(tokenizer or store), keep_last, keep_every)  # fmt: skip


def write(model, store, step, **more):
    """Size in bytes of what was written."""
    size = c_uint64()
    call(model.lib, "checkpoint_write", byref(content(model, store, step, **more)), byref(size))
    return size.value


def verify(lib, folder):
    call(lib, "checkpoint_verify", os.fsencode(folder))


def steps(lib, store):
    entries, count = POINTER(StoreEntry)(), c_int()
    call(lib, "store_list", byref(entries), byref(count), os.fsencode(store))
    found = [entries[i].step for i in range(count.value)]
    assert [entries[i].name.decode() for i in range(count.value)] == [f"step_{s:08d}" for s in found]
    lib.c.free(entries)
    return found


def newest_whole(lib, store):
    """(path or "", [(name, reason) of those passed over])"""
    path, passed_over = ctypes.create_string_buffer(4096), []
    report = REPORT(lambda _, where, why: passed_over.append((pathlib.Path(os.fsdecode(where)).name, why.decode())))
    call(lib, "store_newest_whole", path, os.fsencode(store), ctypes.cast(report, c_void_p), None)
    return os.fsdecode(path.value), passed_over


def digest(lib, data):
    lib.c.hash_bytes.restype = Digest
    return lib.c.hash_bytes(c_char_p(data), ctypes.c_size_t(len(data))).text.decode()


def write_sums(lib, folder, lines):
    """A checksum file of these lines ("DIGEST  FILE") that is right in itself."""
    text = "".join(line + "\n" for line in lines).encode()
    (folder / SUMS).write_bytes(text + f"# xxh128 of the lines above: {digest(lib, text)}\n".encode())


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def compile_c(source, output, *flags):
    command = ["gcc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE", "-g", str(source), "-o", str(output), *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return output


def compile_shim(folder):
    """What preloads, records calls of the file system and makes one of them fail."""
    return compile_c(ROOT / "tests/checkpoint/faulty_io.c", folder / "faulty_io.so", "-shared", "-fPIC", "-ldl")


def compile_program(name, folder, precision="bf16"):
    """tests/checkpoint/NAME.c over the library under test."""
    build = llmc.build_folders()[precision]
    flags = ["-Illmc", f"-DLLMC_PRECISION_{precision}", f"-L{build}", "-lllmc", f"-Wl,-rpath,{build}", "-lcjson", "-lm"]
    if llmc.load(precision).on_cpu:
        flags += ["-Illmc/cpu", "-DLLMC_TARGET_CPU"]
    else:
        home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
        flags += [f"-I{home}/include", f"-L{home}/lib64", f"-Wl,-rpath,{home}/lib64", "-lcudart", "-DLLMC_TARGET_CUDA"]
    return compile_c(ROOT / f"tests/checkpoint/{name}.c", folder / name, *flags)
