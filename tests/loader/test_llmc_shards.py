"""Token shards of llm.c, and what a file is called that is no shard or row file."""

import gzip
import io
import json
import shutil
import struct
import zipfile
from ctypes import byref, c_void_p

import numpy as np
import pytest
from safetensors.numpy import save

import trainrun
from hostlib import INPUT, LoaderSpec, Shard, call, expect_refusal, fresh_random, library, path_bytes, pointer, shard_header
from hostlib import write_shard
from shardfiles import opened, read
from trainrun import Workplace, losses, read_log


from llmdata import shards  # noqa: E402

GPT2 = {"magic": 20240520, "version": 1, "bits": 16, "vocab": 50257, "bos": 50256}
LLAMA3 = {"magic": 20240801, "version": 7, "bits": 32, "vocab": 128256, "bos": 128000}
DOCUMENTS, CONVERSATIONS = 0, 1
NONE = 0xFFFFFFFF
T = trainrun.T


def llmc_bytes(tokens, kind, count=None, **changes):
    """As write_datafile of llm.c's dev/data/data_common.py."""
    kind = kind | changes
    header = np.zeros(256, np.int32)
    header[:3] = kind["magic"], kind["version"], len(tokens) if count is None else count
    return header.tobytes() + np.asarray(tokens).astype(f"uint{kind['bits']}").tobytes()


def write_llmc(path, tokens, kind, **changes):
    path.write_bytes(llmc_bytes(tokens, kind, **changes))
    return path


def documents(rng, kind, count, vocab=None):
    tokens = rng.integers(0, vocab or kind["vocab"] - 1, count)
    tokens[0] = tokens[count // 3] = kind["bos"]
    return tokens


def spec(kind=DOCUMENTS, mask=True):
    return LoaderSpec(B=2, T=T, grad_accum=1, rank=0, world=1, seed=1, document_mask=mask, shuffle=True, kind=kind)


def loader_refuses(words, path, vocab=200_000, **fields):
    expect_refusal(INPUT, words, "loader_open", byref(c_void_p()), path_bytes(path), byref(spec(**fields)), vocab, None)


# ---- the format


@pytest.mark.checked
@pytest.mark.parametrize("kind", [GPT2, LLAMA3], ids=["gpt2", "llama3"])
def test_reads_back_in_c_and_python(tmp_path, kind):
    rng = fresh_random()
    tokens = documents(rng, kind, int(rng.integers(300, 5000)))
    tokens[-1] = kind["vocab"] - 1
    path = write_llmc(tmp_path / "a.bin", tokens, kind)
    shard = opened(path)
    assert (shard.token_bits, shard.vocab_size, shard.bos_id, shard.eos_id) == (kind["bits"], kind["vocab"], kind["bos"], NONE)
    assert shard.llmc and bytes(shard.tokenizer_sha256) == bytes(32)
    assert (read(shard, 0, len(tokens)) == tokens).all() and (read(shard, 17, 200) == tokens[17:217]).all()
    library.shard_close(byref(shard))
    assert (shards.read_tokens(path) == tokens).all()
    header = shards.read_header(path)
    assert (header["vocab_size"], header["bos_id"], header["tokenizer_sha256"]) == (kind["vocab"], kind["bos"], None)


@pytest.mark.checked
@pytest.mark.parametrize(
    "content, words",
    [
        (llmc_bytes([1] * 9, GPT2)[:100], ["100 bytes", "1024", "llm.c"]),
        (llmc_bytes([1] * 9, GPT2)[:300], ["300 bytes", "1024"]),
        (llmc_bytes([1] * 9, GPT2)[:-1], ["9 tokens", "room for 8", "truncated"]),
        (llmc_bytes([1] * 9, LLAMA3) + b"\0", ["9 tokens", "1 bytes more"]),
        (llmc_bytes([1] * 9, GPT2, count=-1), ["4294967295 tokens", "room for 9"]),
        (llmc_bytes([1] * 9, GPT2, version=7), ["version is 7", "expected 1", "GPT-2"]),
        (llmc_bytes([1] * 9, LLAMA3, version=1), ["version is 1", "expected 7", "Llama 3"]),
    ],
)
def test_damaged(tmp_path, content, words):
    path = tmp_path / "bad.bin"
    path.write_bytes(content)
    expect_refusal(INPUT, [path, *words], "shard_open", byref(Shard()), path_bytes(path))
    if len(content) >= 1024:
        with pytest.raises(shards.InputError):
            shards.read_header(path)


@pytest.mark.checked
@pytest.mark.parametrize("bad, kind", [(50257, GPT2), (65535, GPT2), (128256, LLAMA3), (2**32 - 1, LLAMA3)])
def test_id_outside_the_vocabulary(tmp_path, bad, kind):
    tokens = documents(fresh_random(), kind, 400)
    tokens[273] = bad
    shard = opened(write_llmc(tmp_path / "a.bin", tokens, kind))
    buffer = np.empty(400, np.int32)
    expect_refusal(INPUT, ["token 273 ", f"id {bad},", kind["vocab"]], "shard_read", byref(shard), 0, 400, pointer(buffer))
    library.shard_close(byref(shard))


@pytest.mark.checked
def test_a_model_of_fewer_ids(tmp_path):
    """The model's vocabulary counts then: ids beyond it are refused when the set is opened, and no token begins documents."""
    good = write_llmc(tmp_path / "good.bin", fresh_random().integers(0, 300, 500), GPT2)
    loader_refuses([good, "no begin-of-document id", "--document-mask off"], good, vocab=300)
    loader = c_void_p()
    call("loader_open", byref(loader), path_bytes(good), byref(spec(mask=False)), 300, None)
    library.loader_close(loader)
    bad = write_llmc(tmp_path / "bad.bin", [*range(300), 499, *range(100)], GPT2)
    loader_refuses([bad, "token 300 ", "id 499", "300"], bad, vocab=300, mask=False)


@pytest.mark.checked
def test_sets_are_of_one_kind(tmp_path):
    write_llmc(tmp_path / "a.bin", documents(fresh_random(), GPT2, 500), GPT2)
    write_llmc(tmp_path / "b.bin", documents(fresh_random(), LLAMA3, 500), LLAMA3)
    loader_refuses([tmp_path / "b.bin", "token width is 32", "a.bin"], tmp_path / "*.bin")
    (tmp_path / "b.bin").unlink()
    write_shard(tmp_path / "c.bin", np.zeros(500), bits=16, vocab=50257, bos=50256, eos=NONE)
    loader_refuses([tmp_path / "c.bin", "prepare_data.py", "llm.c", "a.bin"], tmp_path / "*.bin")


# ---- other files


def megatron():
    return b"MMIDIDX\x00\x00" + struct.pack("<QB", 1, 8) + bytes(300)


def array(values):
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def archive():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as zipped:
        zipped.writestr("data.pkl", "x" * 300)
    return file.getvalue()


def parquet():
    import pyarrow
    import pyarrow.parquet

    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"]}), file)
    return file.getvalue()


OTHERS = {
    "empty": (b"", ["0 bytes"]),
    "text": ("Ein Text mit Umlauten: äöü.\n".encode() * 20, ["a text", "prepare_data.py"]),
    "short_text": (b"hi\n", ["a text", "prepare_data.py"]),
    "jsonl": (b'{"text": "a"}\n' * 40, ["JSON", "prepare_data.py", "prepare_chat.py"]),
    "json_with_mark": (b'\xef\xbb\xbf[{"text": "a"}]', ["JSON"]),
    "utf16": (("hello " * 50).encode("utf-16"), ["UTF-16", "iconv"]),
    "parquet": (parquet(), ["Parquet", "prepare_data.py"]),
    "gzip": (gzip.compress(shard_header(10) + bytes(20)), ["gzip", "unpack"]),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(100), ["zstd", "unpack"]),
    "zip": (archive(), ["zip", "PyTorch"]),
    "pickle": (b"\x80\x02}q\x00" + bytes(300), ["pickle"]),
    "safetensors": (save({"a": np.zeros((3, 4), np.float32)}), ["safetensors", "whole folder"]),
    "gguf": (b"GGUF" + bytes(300), ["GGUF"]),
    "npy": (array(np.arange(500, dtype=np.uint16)), ["NumPy", "prepare_data.py"]),
    "megatron": (megatron(), ["Megatron"]),
    "nanogpt": (np.arange(1, 500, dtype=np.uint16).tobytes(), ["nanoGPT", "prepare_data.py", "llm.c's header"]),
    "llmc_evaluation": (np.array([20240522, 1, 3] + [0] * 253, np.int32).tobytes(), ["evaluation of llm.c", "prepare_eval.py"]),
    "llmc_model": (np.array([20240326, 3] + [0] * 254, np.int32).tobytes(), ["a model of llm.c"]),
    "evaluation": (b"L3EVALS\0" + bytes(300), ["an evaluation of prepare_eval.py"]),
    "reference": (b"L3REFER\0" + bytes(300), ["DPO keeps", "train_*.bin"]),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", ["Git LFS"]),
}


@pytest.mark.checked
@pytest.mark.parametrize("name", OTHERS)
def test_other_files_are_called_what_they_are(tmp_path, name):
    content, words = OTHERS[name]
    path = tmp_path / "data.bin"
    path.write_bytes(content)
    loader_refuses([path, "expected documents", *words], path)
    loader_refuses([path, "expected conversations", *words], path, kind=CONVERSATIONS)
    expect_refusal(INPUT, [path, *words[:1]], "shard_open", byref(Shard()), path_bytes(path))


def test_kinds_of_our_own_are_told_apart(tmp_path):
    rows = tmp_path / "rows.bin"
    rows.write_bytes(b"L3ROWS\0\0" + bytes(300))
    loader_refuses([rows, "expected documents", "prepare_chat.py", "for SFT"], rows)
    for name, content in (("own", shard_header(10) + bytes(20)), ("llmc", llmc_bytes([1] * 9, GPT2))):
        path = tmp_path / f"{name}.bin"
        path.write_bytes(content)
        loader_refuses([path, "expected conversations", "token shard", "for pretraining"], path, kind=CONVERSATIONS)


def test_a_folder(tmp_path):
    for given in (tmp_path, f"{tmp_path}/"):
        loader_refuses(["a folder", f"give '{tmp_path}/train_*.bin'"], given)


# ---- training on them


SMALL = {"vocab_size": 50304, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1,
         "num_key_value_heads": 1}  # fmt: skip


@pytest.fixture
def work(tmp_path):
    """Shards of llm.c for GPT-2 alone in a folder, and a small model of so many ids."""
    work = Workplace(tmp_path)
    work.llmc = tmp_path / "llmc"
    work.llmc.mkdir()
    rng = fresh_random()
    for name, count in (("train_000000", 4000), ("train_000001", 3000), ("val_000000", 10 * T + 1)):
        write_llmc(work.llmc / f"fineweb_{name}.bin", documents(rng, GPT2, count), GPT2)
    work.write_config(**SMALL)
    work.options = {"train_data": work.llmc / "*_train_*.bin", "val_data": work.llmc / "*_val_*.bin", "threads": None}
    return work


def tokenizer_of(count, path):
    """A byte-level tokenizer of so many ids."""
    tokenizer = json.loads((path.parent / "data" / "tokenizer.json").read_text())
    vocab = tokenizer["model"]["vocab"]
    for i in range(len(vocab), count):
        vocab[f"x{i}"] = i
    tokenizer["added_tokens"] = []
    path.write_text(json.dumps(tokenizer))
    return path


def test_trains_and_resumes_without_a_tokenizer(work, tmp_path):
    out, _ = work.run(**work.options, steps=4, save_every=2)
    assert "7.00k tokens in 2 shards" in out and "tokenizer none" in out and "--tokenizer" in out
    checkpoint = work.output / "checkpoint"
    assert not list(checkpoint.glob("tokenizer*")) and (checkpoint / "model.safetensors").is_file()
    config = json.loads((checkpoint / "config.json").read_text())
    assert config["bos_token_id"] == config["eos_token_id"] == 50256
    whole = tmp_path / "whole"
    shutil.copytree(work.output, whole, symlinks=True)
    work.run(**work.options, output=whole, steps=6, resume="auto", schedule_steps=4)
    assert len(losses(read_log(whole / "log.jsonl"))) == 6
    none = {name: None for name in ("config", "train_data", "output", "steps", "warmup_steps", "lr")}
    out, _ = work.run("--eval-only", **work.options | none, init_from=checkpoint, seq_len=T)
    assert "validation loss" in out and "all 10 windows" in out
    work.refused("--sample-every", "--tokenizer FILE", "train_000000.bin", **work.options, sample_every=2, output=tmp_path / "n")
    fewer = work.options | {"train_data": work.llmc / "*_train_000000.bin"}
    work.refused("--train-data", "fingerprint", **fewer, steps=8, resume="auto")


def test_takes_a_tokenizer(work, tmp_path):
    """--tokenizer's, with as many ids as GPT-2's: it travels, and a text is sampled. One of another size is refused."""
    path = tokenizer_of(50257, tmp_path / "tokenizer.json")
    out, _ = work.run(**work.options, steps=2, tokenizer=path, sample_every=2, sample_tokens=4)
    assert "step 2: sample" in out and "tokenizer none" not in out
    assert (work.output / "checkpoint" / "tokenizer.json").read_bytes() == path.read_bytes()
    for count in (49152, 50258):
        other = tokenizer_of(count, tmp_path / "other.json")
        work.refused("other.json", f"{count} ids", "50257", "llm.c", **work.options, tokenizer=other, output=tmp_path / "n")


def test_a_replaced_runs_tokenizer_does_not_stay(work):
    work.write_config()
    work.run()
    assert (work.output / "tokenizer.json").is_file()
    work.write_config(**SMALL)
    work.run(**work.options, steps=1, overwrite=True)
    assert not list(work.output.glob("checkpoint/tokenizer*"))


def test_wrong_files_at_the_programs_boundary(work, tmp_path):
    """Before a tokenizer is looked for beside them."""
    lone = tmp_path / "lone"
    lone.mkdir()
    (lone / "corpus.txt").write_text("To be, or not to be.\n" * 50)
    work.refused("corpus.txt", "a text", "prepare_data.py", train_data=lone / "corpus.txt")
    work.refused("a folder", f"'{work.data}/train_*.bin'", train_data=work.data)
    work.refused("corpus.txt", "a text", val_data=lone / "corpus.txt")
    shutil.copy(work.data / "train_000.bin", lone)
    work.refused(lone / "tokenizer.json", "--tokenizer FILE", train_data=lone / "train_000.bin")
