"""Steps of a stack that torch has, with values and gradients that lie in memory as the steps beside them read them."""

import torch
from einops import rearrange
from torch import Tensor


class LinearOfTokens(torch.autograd.Function):
    """A dense layer on every token. Its values are no view of others, so that an activation may overwrite them.

    On a CPU nets take turns, so that what one product has read is still in the cache for the next.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        y = x.new_empty(*x.shape[:4], weight.shape[1])
        into, tokens = y.flatten(1, 3), x.flatten(1, 3)
        biases = None if bias is None else bias.view(len(x), -1)
        if x.device.type == "cpu":
            for net in range(len(x)):
                if biases is None:
                    torch.mm(tokens[net], weight[net].T, out=into[net])
                else:
                    torch.addmm(biases[net], tokens[net], weight[net].T, out=into[net])
        elif biases is None:
            torch.bmm(tokens, weight.mT, out=into)
        else:
            torch.baddbmm(biases[:, None], tokens, weight.mT, out=into)
        return y

    @staticmethod
    def backward(ctx, gradient: Tensor):
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        g, tokens = gradient.flatten(1, 3), x.flatten(1, 3)
        if x.device.type != "cpu":
            return (
                torch.bmm(g, weight).view_as(x) if of_x else None,
                torch.bmm(g.mT, tokens) if of_weight else None,
                g.sum(1).flatten() if of_bias else None,
            )
        gx, gw = torch.empty_like(tokens) if of_x else None, torch.empty_like(weight)
        gb = g.new_empty(len(g), g.shape[2]) if of_bias else None
        for net in range(len(g)):
            torch.mm(g[net].T, tokens[net], out=gw[net])
            if gb is not None:
                torch.sum(g[net], 0, out=gb[net])
            if gx is not None:
                torch.mm(g[net], weight[net], out=gx[net])
        return None if gx is None else gx.view_as(x), gw, None if gb is None else gb.flatten()


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
