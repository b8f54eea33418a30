"""Steps of a stack that torch has, with values and gradients that lie in memory as the steps beside them read them."""

import torch
from einops import rearrange
from torch import Tensor


class LinearOfTokens(torch.autograd.Function):
    """A dense layer on every token. Its values are no view of others, so that an activation may overwrite them."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        y = x.new_empty(*x.shape[:4], weight.shape[1])
        into, tokens = y.flatten(1, 3), x.flatten(1, 3)
        if bias is None:
            torch.bmm(tokens, weight.mT, out=into)
        else:
            torch.baddbmm(bias.view(len(x), 1, -1), tokens, weight.mT, out=into)
        return y

    @staticmethod
    def backward(ctx, gradient: Tensor):
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        g = gradient.flatten(1, 3)
        return (
            torch.bmm(g, weight).view_as(x) if of_x else None,
            torch.bmm(g.mT, x.flatten(1, 3)) if of_weight else None,
            g.sum(1).flatten() if of_bias else None,
        )


class Mean(torch.autograd.Function):
    """The mean over pixels or tokens; its gradient, equal for all of them, takes no memory for each.

    It is dense but for them: what reads it along features that do not lie side by side takes ten times as long.
    """

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.shape = x.shape
        return x.mean((2, 3), keepdim=True)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return (gradient.contiguous() / (ctx.shape[2] * ctx.shape[3])).expand(ctx.shape)


class Flatten(torch.autograd.Function):
    """Values with pixels as flat ones; their gradient lies in memory as they do."""

    @staticmethod
    def forward(ctx, x: Tensor, nets: int) -> Tensor:
        ctx.size = x.shape[2:]
        return rearrange(x, "b (n c) h w -> n (c h w) b", n=nets)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        height, width = ctx.size
        pixels = rearrange(gradient, "n (c h w) b -> b h w (n c)", h=height, w=width).contiguous()
        return pixels.movedim(3, 1), None


class Split(torch.autograd.Function):
    """torch.split into dense copies: exp and tanh are 3-10 times slower on strided values than on copied ones."""

    @staticmethod
    def forward(ctx, x: Tensor, sizes: list[int], dim: int) -> tuple[Tensor, ...]:
        ctx.dim = dim
        return tuple(piece.clone() for piece in x.split(sizes, dim))

    @staticmethod
    def backward(ctx, *gradients: Tensor):
        return torch.cat(gradients, ctx.dim), None, None


class Cat(torch.autograd.Function):
    """torch.cat whose gradients are dense copies."""

    @staticmethod
    def forward(ctx, sizes: list[int], dim: int, *pieces: Tensor) -> Tensor:
        ctx.sizes, ctx.dim = sizes, dim
        return torch.cat(pieces, dim)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return None, None, *(piece.clone() for piece in gradient.split(ctx.sizes, ctx.dim))
