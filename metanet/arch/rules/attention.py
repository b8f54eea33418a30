"""Attention: products of queries and keys, softmax over places or channels, masks, and the mean of the values."""

import math
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metanet.arch import layout
from metanet.arch.call import Call, Rule
from metanet.arch.rules.arithmetic import join
from metanet.arch.rules.linear import matrices
from metanet.arch.rules.normalisation import within
from metanet.arch.value import Value


def _softmax(kind: str) -> Rule:
    def softmax(call: Call) -> Value:
        return normalised(call, call.activation("self"), call["dim"], kind)

    return softmax


def normalised(call: Call, x: Value, dim: int, kind: str) -> Value:
    """The softmax along an axis: of places an operation, of channels one over all nodes or the members of groups."""
    dim %= len(x.axes)
    call.guess(x)
    if not x.carries(dim):
        x, ranks = call.ranked(x, [dim])
        return call.operate(x, kind, axes=ranks)
    groups = any(x.carries(axis) for axis in range(len(x.axes)) if axis != dim)
    return call.operate(within(call, x, [dim]) if groups else call.ordered(x), f"{kind}_channels")


def attention(call: Call) -> Value:
    """aten.scaled_dot_product_attention: softmax(query key^T scale + attn_mask) value, each [..., places, channels]."""
    if call["dropout_p"]:
        raise call.unsupported("it drops values in eval mode too")
    query, key, value = (call.activation(name) for name in ("query", "key", "value"))
    if call.arguments.get("enable_gqa") and query.shape[-3] != key.shape[-3]:
        key, value = (_for_each_query(one, query.shape[-3] // one.shape[-3]) for one in (key, value))
    scale = 1 / math.sqrt(query.shape[-1]) if call["scale"] is None else call["scale"]
    swapped = replace(key, axes=(*key.axes[:-2], key.axes[-1], key.axes[-2]))
    scores = call.operate(matrices(call, query, swapped), "mul", value=scale)
    if call["is_causal"]:
        scores = call.operate(scores, "causal")
    if call["attn_mask"] is not None:
        scores = masked(call, scores, call["attn_mask"])
    return matrices(call, normalised(call, scores, -1, "softmax"), value)


def _for_each_query(one: Value, repeats: int) -> Value:
    """Heads of keys or values, each of which serves several heads of queries in a row."""
    again = layout.Dim(layout.REPEAT, 1, repeats)
    return replace(one, axes=(*one.axes[:-3], (*one.axes[-3], again), *one.axes[-2:]))


def masked(call: Call, scores: Value, mask: Value | Tensor) -> Value:
    """The scores plus a mask, or without the places where a boolean mask is false."""
    if isinstance(mask, Tensor) and mask.dtype == torch.bool:
        if bool(mask.all()):
            return scores
        mask = torch.zeros(mask.shape, dtype=torch.float64).masked_fill(~mask, -math.inf)
    return join(call, "add", scores, mask)


class _Heads(nn.Module):
    """Self-attention of two heads."""

    def __init__(self):
        super().__init__()
        self.inside = nn.Linear(6, 24)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.inside(x.mT).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)


RULES = {
    "aten.softmax": _softmax("softmax"),
    "aten._softmax": _softmax("softmax"),
    "aten.log_softmax": _softmax("log_softmax"),
    "aten.scaled_dot_product_attention": attention,
}
OPERATIONS = {
    **dict.fromkeys(("softmax", "log_softmax"), ("axes",)),
    **dict.fromkeys(("softmax_channels", "log_softmax_channels", "causal"), ()),
}
LINKS = ()
EXAMPLES = {
    "aten.softmax": ((4, 5), lambda: lambda x: x.softmax(2) + x.softmax(1)),
    "aten._softmax": ((4, 5), lambda: lambda x: torch.ops.aten._softmax(x, 2, False)),
    "aten.log_softmax": ((4, 5), lambda: lambda x: x.log_softmax(1)),
    "aten.scaled_dot_product_attention": ((6, 5), _Heads),
}
