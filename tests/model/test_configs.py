"""configs/: each opens in transformers and has exactly the parameters that the published models have."""

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

CONFIGS = Path(__file__).resolve().parents[2] / "configs"

# Parameters, tied embeddings counted once. The published models: from the shapes of the Llama 3 paper (table 3) and the 3.2
# model card; the small ones: our own, counted by hand (vocabulary * hidden + layers * (...) + hidden).
PARAMETERS = {
    "llama3_8b": 8_030_261_248,
    "llama3_70b": 70_553_706_496,
    "llama3.1_8b": 8_030_261_248,
    "llama3.1_70b": 70_553_706_496,
    "llama3_405b": 405_853_388_800,
    "llama3.2_1b": 1_235_814_400,
    "llama3.2_3b": 3_212_749_824,
    "tiny": 2 * 2048 * 256 + 4 * (2 * 256 * 256 + 2 * 256 * 128 + 3 * 256 * 768 + 2 * 256) + 256,
    "quickstart": 2048 * 256 + 4 * (2 * 256 * 256 + 2 * 256 * 128 + 3 * 256 * 768 + 2 * 256) + 256,
    "small_30m": 8192 * 512 + 8 * (2 * 512 * 512 + 2 * 512 * 256 + 3 * 512 * 1536 + 2 * 512) + 512,
    "small_124m": 50257 * 768 + 12 * (4 * 768 * 768 + 3 * 768 * 2048 + 2 * 768) + 768,
}
ROPE_FACTOR = {"llama3.1_8b": 8, "llama3.1_70b": 8, "llama3_405b": 8, "llama3.2_1b": 32, "llama3.2_3b": 32}


def test_every_config_is_tested():
    assert {path.stem for path in CONFIGS.glob("*.json")} == set(PARAMETERS)


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_config(name):
    config = LlamaConfig.from_json_file(CONFIGS / f"{name}.json")
    with torch.device("meta"):  # shapes only, no memory
        model = LlamaForCausalLM(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]
    assert config.head_dim % 16 == 0
    rope = getattr(config, "rope_parameters", None) or {**(config.rope_scaling or {}), "rope_theta": config.rope_theta}
    assert rope["rope_theta"] == 500_000
    if name in ROPE_FACTOR:
        assert rope["rope_type"] == "llama3" and rope["factor"] == ROPE_FACTOR[name]
        assert (rope["low_freq_factor"], rope["high_freq_factor"], rope["original_max_position_embeddings"]) == (1, 4, 8192)
        assert config.max_position_embeddings == 131_072
    else:
        assert rope.get("rope_type", "default") == "default"
