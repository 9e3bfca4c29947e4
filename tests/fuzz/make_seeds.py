#!/usr/bin/env python3
"""Writes tests/fuzz/seeds/NAME/*: small whole inputs from which the fuzzers start. Run again after a format changes."""

import json
import pathlib
import struct

SEEDS = pathlib.Path(__file__).parent / "seeds"


def write(target, name, content):
    folder = SEEDS / target
    folder.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, bytes):
        content = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    (folder / name).write_bytes(content)


def shard(tokens, bits=16, vocab=300, bos=256, eos=257):
    header = b"L3SHARD\0" + struct.pack("<IIIIQII", 1, 0x01020304, bits, vocab, len(tokens), bos, eos)
    data = b"".join(token.to_bytes(bits // 8, "little") for token in tokens)
    return (header + bytes(range(32))).ljust(256, b"\0") + data


def llmc(tokens, magic=20240520, version=1, bits=16):
    header = struct.pack("<III", magic, version, len(tokens)).ljust(1024, b"\0")
    return header + b"".join(token.to_bytes(bits // 8, "little") for token in tokens)


def items(entries, kind=1, vocab=300):
    """entries: [(context tokens, label, [ending tokens])], of needles with the depth behind it"""
    endings = [ending for _, _, group, *_ in entries for ending in group]
    tokens = [t for context, _, group, *_ in entries for part in (context, *group) for t in part]
    header = b"L3EVALS\0" + struct.pack("<IIIIQQQ", 1, 0x01020304, kind, vocab, len(entries), len(endings), len(tokens))
    table = b"".join(struct.pack("<IIII", len(context), len(group), label, *(depth or [0]))
                     for context, label, group, *depth in entries)  # fmt: skip
    table += b"".join(struct.pack("<IIII", len(ending), len(ending), 2 * len(ending), 0) for ending in endings)
    return (header + bytes(range(32))).ljust(256, b"\0") + table + struct.pack(f"<{len(tokens)}I", *tokens)


def rows(entries, kind, vocab=300, bos=256, end=257):
    """entries: [(prompt, [answers])], lists of ids; every second token of each is trained, the last one ends a turn."""
    tokens, table = [], b""
    for line, (prompt, answers) in enumerate(entries, 1):
        lengths = ([len(answer) for answer in answers] + [0, 0, 0])[:3]
        table += struct.pack("<QIIIIII", len(tokens), len(prompt), *lengths, 0, line)
        for part in (prompt, *answers):
            tokens += [id | (i % 2) << 31 for i, id in enumerate(part[:-1], 1)] + [part[-1] | 3 << 30]
    header = b"L3ROWS\0\0" + struct.pack("<IIIIQII", 1, 0x01020304, kind, vocab, len(tokens), bos, end) + bytes(range(32))
    return (header + struct.pack("<Q", len(entries))).ljust(256, b"\0") + struct.pack(f"<{len(tokens)}I", *tokens) + table


def safetensors(tensors, metadata=None):
    """tensors: {name: (dtype, shape)}; the data count upwards."""
    sizes, header, at = {"F32": 4, "BF16": 2, "F16": 2}, {}, 0
    if metadata is not None:
        header["__metadata__"] = metadata
    for name, (dtype, shape) in tensors.items():
        size = sizes[dtype]
        for n in shape:
            size *= n
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + bytes(i % 251 for i in range(at))


def model(weight_map, *files):
    index = json.dumps({"metadata": {"total_size": 0}, "weight_map": weight_map}, separators=(",", ":")).encode()
    return index + b"\0" + b"".join(len(f).to_bytes(2, "little") + f for f in files)


CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 260, "hidden_size": 64,
    "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 16, "hidden_act": "silu", "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0, "initializer_range": 0.02, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "attention_bias": False, "mlp_bias": False, "attention_dropout": 0.0, "bos_token_id": 256, "eos_token_id": 257,
}  # fmt: skip
SCALING = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
           "original_max_position_embeddings": 64}  # fmt: skip


def tokenizer(**changes):
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": 6, "content": "<|begin_of_text|>", "special": True},
            {"id": 8, "content": "plain", "special": False},
        ],
        "decoder": {"type": "ByteLevel", "add_prefix_space": True},
        "model": {"type": "BPE", "vocab": {"a": 0, "Ġ": 1, "Ċ": 2, "é": 3, "aĠ": 4, "€": 5}, "merges": ["a Ġ"]},
        **changes,
    }


def recipe(stages, **more):
    first = {"name": "a", "steps": 5, "seq_len": 8, "tokens_per_step": 32, "batch_size": 2, "mixture": [{"source": "x", "weight": 1}]}
    rate = [{"shape": "linear", "from": 0, "to": 1e-3, "steps": 3}, {"shape": "cosine", "to": 1e-5}]
    return {"name": "r", "sources": {"x": {"train": "x"}, "y": {"train": "y", "val": "z", "max_epochs": 2}}, "learning_rate": rate,
            "stages": [first, *stages], **more}  # fmt: skip


def write_all():
    write("shard", "16_bits", shard([256, 1, 2, 3, 257, 256, 4, 5, 6, 7, 8, 257]))
    write("shard", "32_bits", shard([256, 1, 2, 3, 257, 256, 4, 5, 6], bits=32))
    write("shard", "no_documents", shard(list(range(40)), bos=0xFFFFFFFF, eos=0xFFFFFFFF))
    write("shard", "header_only", shard([]))
    write("shard", "llmc_gpt2", llmc([3000, 1, 2, 3, 4, 3000, 5, 6, 7, 8]))
    write("shard", "llmc_llama3", llmc([1, 2, 3, 4, 5, 6, 7, 8], magic=20240801, version=7, bits=32))

    write("items", "choice", items([([256, 1, 2], 1, [[3], [4, 5], [6]]), ([256], 0, [[7, 8], [9]])]))
    write("items", "documents", items([([256], 0, [[1, 2, 3]]), ([256], 0, [[4]])], kind=2))
    write("items", "needles", items([([256, 1], 1, [[3], [4]], 5000), ([256, 2], 0, [[5], [6]], 0)], kind=3))

    write("rows", "conversations", rows([([256, 1, 2, 3, 257], []), ([256, 4, 257], []), (list(range(40)), [])], 1))
    write("rows", "comparisons", rows([([256, 1], [[2, 257], [3, 4, 257]]), ([5], [[6, 257], [7, 257], [8, 9, 10, 257]])], 2))

    one = safetensors({"w": ("F32", [2, 3]), "v": ("BF16", [4])}, {"format": "pt"})
    write("safetensors", "two_tensors", one)
    write("safetensors", "scalar_and_empty", safetensors({"a": ("F16", []), "b": ("F32", [0, 5]), "c": ("F32", [1, 1, 1, 1])}))
    write("safetensors", "none", safetensors({}))

    a, b = safetensors({"w": ("F32", [2])}), safetensors({"v": ("BF16", [3]), "u": ("F16", [1])})
    files = {"w": "a.safetensors", "v": "b.safetensors", "u": "b.safetensors"}
    write("index", "two_files", model(files, a, b))
    write("index", "one_file", model({"w": "a.safetensors"}, a))
    write("index", "missing_tensor", model({**files, "x": "b.safetensors"}, a, b))

    old = {k: v for k, v in CONFIG.items() if k != "head_dim"}
    new = {k: v for k, v in CONFIG.items() if k not in ("rope_theta", "torch_dtype")}
    write("config", "old", {**old, "rope_scaling": {**SCALING, "type": "llama3"}, "eos_token_id": [257, 258, 259]})
    write("config", "new", {**new, "rope_parameters": {**SCALING, "rope_theta": 5e5}, "dtype": "bfloat16"})
    write("config", "many_ends", {**CONFIG, "eos_token_id": list(range(100, 116))})
    write("config", "short", {k: CONFIG[k] for k in list(CONFIG)[1:7]})
    write("config", "nulls", {**CONFIG, "head_dim": None, "rope_scaling": None, "bos_token_id": None, "layer_types": ["full_attention"]})

    write("recipe", "one", recipe([]))
    rate = [{"shape": "constant", "from": 1e-3, "tokens": 99}, {"shape": "linear", "to": 0, "tokens": 50}]
    mixture = [{"source": "x", "weight": 3, "weight_at_end": 0}, {"source": "y", "weight": 0, "weight_at_end": 1}]
    conditions = [{"task": "t", "metric": "acc", "at_least": 0.5}, {"task": "u", "metric": "bits_per_byte", "at_least": -1}]
    write("recipe", "several", recipe([
        {"name": "b", "tokens": 400, "tokens_per_step": 96, "document_mask": False, "rope_theta": 1e4, "mixture": mixture,
         "evaluate": {"every": 2, "tasks": ["t*"], "tasks_every": 3}, "average": {"last_steps": 2}},
        {"name": "c", "steps": 4, "seq_len": 16, "rope_scaling": SCALING, "ends_when": {"every": 2, "all": conditions}},
        {"name": "d", "steps": 2, "learning_rate": rate, "rope_scaling": None, "average": None, "evaluate": None},
    ], notes=["n"]))  # fmt: skip

    write("tokenizer", "byte_level", tokenizer())
    write("tokenizer", "sequence", tokenizer(decoder={"type": "Sequence", "decoders": [{"type": "ByteLevel"}, {"type": "Fuse"}]}))
    pieces = {"<unk>": 0, "<s>": 1, "<0xC3>": 2, "<0xA9>": 3, "▁": 4, "▁a": 5, "<0x20>": 7}
    replace = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    parts = [replace, {"type": "ByteFallback"}, {"type": "Fuse"}, strip]
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first"}
    for name, decoder in (("sentencepiece", {"type": "Sequence", "decoders": parts}), ("metaspace", metaspace)):
        write("tokenizer", name, tokenizer(decoder=decoder, model={"type": "BPE", "vocab": pieces, "merges": []}))

    write("json", "values", {"a": [1, -2.5, 1e30, True, False, None, "é\u20ac"], "b": {"c": {}, "d": []}, "": "\n\\\""})
    write("json", "escapes", b' {"\\ud83d\\ude00": "\\u00e9\\b\\f\\n\\r\\t\\/"} \n')
    write("json", "deep", b'{"a":' + b"[" * 62 + b"]" * 62 + b"}")


if __name__ == "__main__":
    write_all()
