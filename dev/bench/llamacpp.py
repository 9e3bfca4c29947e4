"""llama.cpp's CPU path through the package llama-cpp-python: a GGUF file of a Llama folder's weights, and greedy generation.

pip install llama-cpp-python gguf     compiles llama.cpp for this processor (with CMAKE_ARGS=-DGGML_NATIVE=ON, its default)
"""

import json
import pathlib

import numpy as np

INSTALL = "llama.cpp: not measured, its package is missing: pip install llama-cpp-python gguf"
OF_LAYER = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
            "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate",
            "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}  # fmt: skip
OTHERS = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def installed():
    try:
        import gguf  # noqa: F401
        import llama_cpp  # noqa: F401
    except ImportError:
        return False
    return True


def interleave(weight, heads):
    """Rows of queries or keys as llama.cpp rotates them: the pairs (i, i + HD/2) become neighbours."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def gguf_name(name):
    parts = name.removesuffix(".weight").split(".", 3)
    if parts[:2] == ["model", "layers"]:
        return f"blk.{parts[2]}.{OF_LAYER[parts[3]]}.weight"
    return OTHERS[name.removesuffix(".weight")] + ".weight"


def convert(folder, path, fp32):
    """Writes the folder's model (bf16, default RoPE, no tokenizer) as one file of bf16 or, from the same values, fp32."""
    import gguf
    import torch
    from safetensors.torch import load_file

    config = json.loads((pathlib.Path(folder) / "config.json").read_text())
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads["attn_q"])
    writer.add_head_count_kv(heads["attn_k"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base((config.get("rope_parameters") or config)["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")
    for name, weight in load_file(pathlib.Path(folder) / "model.safetensors").items():
        name, weight = gguf_name(name), weight.to(torch.bfloat16)
        kind = name.split(".")[-2]
        if kind in heads:
            weight = interleave(weight, heads[kind])
        if fp32 or weight.ndim == 1:
            writer.add_tensor(name, weight.float().numpy())
        else:
            writer.add_tensor(name, weight.contiguous().view(torch.uint8).numpy(), raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class LlamaCpp:
    name = "llama.cpp"

    def __init__(self, options, folder, precision, prompts):
        import llama_cpp

        self.lib, self.prompts = llama_cpp, prompts.tolist()
        path = pathlib.Path(folder) / f"{precision}.gguf"
        if not path.exists():
            convert(folder, path, precision == "fp32")
        self.log = llama_cpp.llama_log_callback(lambda level, text, data: None)  # kept, as the library calls it
        llama_cpp.llama_log_set(self.log, None)
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = len(self.prompts) * -(-(options.prompt + options.tokens) // 256) * 256
        settings.n_batch = prompts.numel()  # all prompts in one call
        settings.n_seq_max = len(self.prompts)
        settings.n_threads = settings.n_threads_batch = options.threads
        self.context = llama_cpp.llama_init_from_model(self.model, settings)
        assert self.model and self.context
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.batch = llama_cpp.llama_batch_init(prompts.numel(), 0, 1)

    def decode(self, tokens):
        """tokens: (row, position, id) each; returns the likeliest next id of each row's last token."""
        last = {row: i for i, (row, _, _) in enumerate(tokens)}
        for i, (row, position, token) in enumerate(tokens):
            self.batch.token[i], self.batch.pos[i] = token, position
            self.batch.n_seq_id[i], self.batch.seq_id[i][0] = 1, row
            self.batch.logits[i] = last[row] == i
        self.batch.n_tokens = len(tokens)
        assert self.lib.llama_decode(self.context, self.batch) == 0
        logits = [self.lib.llama_get_logits_ith(self.context, i) for i in last.values()]
        return [int(np.argmax(np.ctypeslib.as_array(row, (self.vocabulary,)))) for row in logits]

    def run(self, tokens):
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), True)
        prompts = [(row, at, token) for row, prompt in enumerate(self.prompts) for at, token in enumerate(prompt)]
        texts = [[token] for token in self.decode(prompts)]
        for at in range(len(self.prompts[0]), len(self.prompts[0]) + tokens - 1):
            for text, token in zip(texts, self.decode([(row, at, text[-1]) for row, text in enumerate(texts)])):
                text.append(token)
        return texts

    def close(self):
        self.lib.llama_batch_free(self.batch)
        self.lib.llama_free(self.context)
        self.lib.llama_model_free(self.model)
