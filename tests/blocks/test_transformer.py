import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from metanet.blocks.transformer import TransformerLayer, masked_mean


def test_it_equals_torch_s_own_layer():
    ours = TransformerLayer(8, heads=2).double()
    theirs = nn.TransformerEncoderLayer(8, 2, 32, 0.0, "gelu", batch_first=True, norm_first=True, dtype=torch.float64)
    theirs.load_state_dict(
        {
            "self_attn.in_proj_weight": ours.qkv.weight,
            "self_attn.in_proj_bias": ours.qkv.bias,
            "self_attn.out_proj.weight": ours.out.weight,
            "self_attn.out_proj.bias": ours.out.bias,
            "linear1.weight": ours.update[0].weight,
            "linear1.bias": ours.update[0].bias,
            "linear2.weight": ours.update[2].weight,
            "linear2.bias": ours.update[2].bias,
            "norm1.weight": ours.attention_norm.weight,
            "norm1.bias": ours.attention_norm.bias,
            "norm2.weight": ours.update_norm.weight,
            "norm2.bias": ours.update_norm.bias,
        }
    )
    x, real = torch.randn(3, 5, 8, dtype=torch.float64), torch.rand(3, 5) < 0.7
    real[:, 0] = True
    torch.testing.assert_close(ours(x, real)[real], theirs(x, src_key_padding_mask=~real)[real])


@given(padding=st.integers(0, 5), seed=st.integers(0, 99))
def test_padding_changes_no_real_token(padding, seed):
    torch.manual_seed(seed)
    layer, x = TransformerLayer(8, heads=4).double(), torch.randn(2, 4, 8, dtype=torch.float64)
    real = torch.ones(2, 4, dtype=torch.bool)
    padded = torch.cat([x, 1e3 * torch.randn(2, padding, 8, dtype=torch.float64)], 1)
    wide = torch.cat([real, torch.zeros(2, padding, dtype=torch.bool)], 1)
    torch.testing.assert_close(layer(padded, wide)[:, :4], layer(x, real), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(masked_mean(padded, wide), x.mean(1), rtol=1e-12, atol=1e-12)


def test_a_token_that_is_not_masked_does_change_the_others():
    layer, x = TransformerLayer(8, heads=4).double(), torch.randn(1, 4, 8, dtype=torch.float64)
    real = torch.ones(1, 4, dtype=torch.bool)
    changed = torch.cat([x[:, :3], -x[:, 3:]], 1)
    assert (layer(changed, real) - layer(x, real))[:, :3].abs().max() > 1e-6


def test_a_width_that_the_heads_do_not_divide_is_an_error():
    with pytest.raises(ValueError, match="width 10 is no multiple of heads 4"):
        TransformerLayer(10, heads=4)
