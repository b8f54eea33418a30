"""A pre-norm transformer layer whose attention never reads a padded token."""

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F


class TransformerLayer(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)). Source: Xiong et al. (2020), figure 1b.

    Padded tokens are masked out of every softmax, so what they hold and how many there are changes no other token.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0):
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is no multiple of heads {heads}: choose a width that is")
        self.heads, self.dropout = heads, dropout
        self.attention_norm, self.update_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.update = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.drop = nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "nets tokens width"], real: Bool[Tensor, "nets tokens"]
    ) -> Float[Tensor, "nets tokens width"]:
        q, k, v = rearrange(self.qkv(self.attention_norm(x)), "n t (three h d) -> three n h t d", three=3, h=self.heads)
        dropout = self.dropout if self.training else 0.0
        read = F.scaled_dot_product_attention(q, k, v, attn_mask=real[:, None, None], dropout_p=dropout)
        x = x + self.drop(self.out(rearrange(read, "n h t d -> n t (h d)")))
        return x + self.drop(self.update(self.update_norm(x)))


def masked_mean(
    x: Float[Tensor, "nets tokens width"], real: Bool[Tensor, "nets tokens"]
) -> Float[Tensor, "nets width"]:
    """The mean over real tokens; every net has one at least."""
    weight = real.to(x.dtype)
    return torch.einsum("ntw,nt->nw", x, weight) / weight.sum(1, keepdim=True)
