"""Networks of `transformers`, built small from their configurations: the group that is counted by hand, and sound."""

import math

import pytest
import torch

from metanet.arch.check import check_symmetry
from metanet.arch.trace import trace

SMALL = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20}
WORDS = {"vocab_size": 50, "max_position_embeddings": 16}
LLAMA = {**WORDS, **SMALL, "hidden_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2, "use_cache": False}
SWIN = {"image_size": 32, "patch_size": 2, "embed_dim": 12, "depths": [2, 2], "num_heads": [2, 3], "window_size": 4}


def log10_factorials(*sizes: int) -> float:
    return sum(math.lgamma(size + 1) for size in sizes) / math.log(10)


def attention(heads: int, each: int) -> float:
    return log10_factorials(heads, *[each] * heads * 2)


STREAM, LAYER = log10_factorials(12), attention(3, 4) + log10_factorials(20)
# Rotary codes leave the values free alone; two heads of queries share a head of keys and values.
ROTARY = log10_factorials(2, 2, 2, 6, 6) + log10_factorials(20)
NETS = {  # model -> configuration, settings, reads words, log10 order
    "GPT2LMHeadModel": (
        *("GPT2Config", {"vocab_size": 50, "n_embd": 12, "n_layer": 2, "n_head": 3, "use_cache": False}, True),
        STREAM + 2 * (attention(3, 4) + log10_factorials(48)),
    ),
    "BertForMaskedLM": ("BertConfig", WORDS | SMALL, True, STREAM + 2 * LAYER),  # its head is tied to the stream
    "LlamaForCausalLM": ("LlamaConfig", LLAMA, True, log10_factorials(24) + 2 * ROTARY),
    "ViTForImageClassification": (
        *("ViTConfig", {"image_size": 32, "patch_size": 8} | SMALL, False, STREAM + 2 * LAYER),
    ),
    "SwinForImageClassification": (
        *("SwinConfig", SWIN, False),
        STREAM
        + 2 * (attention(2, 6) + log10_factorials(48))
        + log10_factorials(24)
        + 2 * (attention(3, 8) + log10_factorials(96)),
    ),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NETS)
def test_networks_of_transformers_have_the_group_that_is_counted_by_hand(name):
    transformers = pytest.importorskip("transformers")
    config, settings, words, order = NETS[name]
    torch.manual_seed(0)
    net = getattr(transformers, name)(getattr(transformers, config)(**settings)).eval()
    x = torch.randint(0, 50, (2, 7)) if words else torch.zeros(1, 3, 32, 32)
    template = trace(net, x)
    assert template.coverage() == 1
    assert template.symmetry.log10_order == pytest.approx(order, abs=1e-3)
    assert check_symmetry(template, net, x, samples=1) <= 1e-10
