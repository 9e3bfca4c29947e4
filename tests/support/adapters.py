"""LoRA adapters as PEFT saves them, with random weights, and edits of their files."""

import json
import os
import random

import safetensors.torch
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import peft  # noqa: E402
import transformers  # noqa: E402

PREFIX = "base_model.model."
# Two models' logits, computed in fp64, so that the weights' rounding to fp32 alone differs: by 1e-6, or 1e-5 in 1 of 300 draws, where a
# steep softmax makes more of it. A wrong scale or a matrix left out changes a hundredth or more.
SAME_LOGITS = 1e-3


def randomise(model):
    """B starts as 0, and would change nothing."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_" in name:
                p.copy_(torch.randn_like(p) / p.shape[-1] ** 0.5)
            elif "modules_to_save" in name:
                p.copy_(torch.randn_like(p))


def open_base(base, task="CAUSAL_LM", dtype="auto"):
    if task == "SEQ_CLS":
        return transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype=dtype)
    return transformers.AutoModelForCausalLM.from_pretrained(base, dtype=dtype)


def make_adapter(folder, base, task="CAUSAL_LM", **fields):
    fields = dict(r=4, lora_alpha=random.uniform(1, 32), target_modules=["q_proj", "v_proj"], task_type=task) | fields
    model = peft.get_peft_model(open_base(base, task), peft.LoraConfig(**fields))
    randomise(model)
    model.save_pretrained(folder)
    return folder


def edit_adapter(folder, change):
    path = folder / "adapter_model.safetensors"
    tensors = safetensors.torch.load_file(path)
    change(tensors)
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})


def edit_fields(folder, **fields):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def logits(model, tokens):
    with torch.no_grad():
        return model.double()(tokens).logits


def random_tokens():
    return torch.randint(0, 260, (2, 17))


def add(name, *shape):
    return lambda tensors: tensors.update({PREFIX + name: torch.randn(shape)})
