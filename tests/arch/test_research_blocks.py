"""More networks as researchers write them: attention, mixing of places, images, shared parts, adapters."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.arch.counted import Cases, of

CASES = Cases()
case = CASES.case


class MixerBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(8), nn.LayerNorm(8)])
        self.places = nn.Sequential(nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 6))
        self.channels = nn.Sequential(nn.Linear(8, 7), nn.GELU(), nn.Linear(7, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.places(self.norms[0](x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norms[1](x))


@case(8, 5, 7, 5, 7, inputs=(of(2, 6, 3),))
class Mixer(nn.Module):
    """Hidden places of the layers over places change places; the places themselves are the image's."""

    def __init__(self):
        super().__init__()
        self.stem, self.blocks, self.head = nn.Linear(3, 8), nn.Sequential(MixerBlock(), MixerBlock()), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean(1))


@case(8, 5, inputs=(of(2, 6, 3),))
class MixerByConvolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.one, self.two, self.head = (
            *(nn.Linear(3, 8), nn.Conv1d(6, 5, 1), nn.Conv1d(5, 6, 1)),
            nn.Linear(8, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head((x + self.two(F.gelu(self.one(x)))).mean(1))


@case(4, 5, inputs=(of(2, 6, 3),))
class GatedMLP(nn.Module):
    """gMLP: one half of the channels, mixed over places, gates the other."""

    def __init__(self):
        super().__init__()
        self.stem, self.up, self.norm, self.mix = nn.Linear(3, 4), nn.Linear(4, 10), nn.LayerNorm(5), nn.Conv1d(6, 6, 1)
        self.down, self.head = nn.Linear(5, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        u, v = F.gelu(self.up(x)).chunk(2, -1)
        return self.head((x + self.down(u * self.mix(self.norm(v)))).mean(1))


@case(4, 4, 5, inputs=(of(2, 6, 3),))
class Linformer(nn.Module):
    """Keys and values projected to fewer places, which change places."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value, self.head = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 2)
        self.keys, self.values = nn.Linear(6, 5), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        k, v = self.keys(self.key(x).mT).mT, self.values(self.value(x).mT).mT
        return self.head((self.query(x) @ k.mT).softmax(-1) @ v)


@case(4, 5, inputs=(of(2, 6, 3),))
class AttentionPooling(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.value, self.gate = nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(4, 5)
        self.weigh, self.head = nn.Linear(5, 1), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        weights = self.weigh(torch.tanh(self.value(x)) * torch.sigmoid(self.gate(x))).softmax(1)
        return self.head((weights.transpose(1, 2) @ x).squeeze(1))


@case(8, 6, 6, inputs=(of(2, 6, 3),))
class Perceiver(nn.Module):
    """Learned queries are places, which do not move: their number is no width."""

    def __init__(self):
        super().__init__()
        self.latents, self.pair = nn.Parameter(torch.randn(5, 8)), nn.Linear(3, 12)
        self.query, self.out, self.head = nn.Linear(8, 6), nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        z, (k, v) = self.latents.expand(len(x), -1, -1), self.pair(x).chunk(2, -1)
        return self.head((z + self.out((self.query(z) @ k.mT / 6**0.5).softmax(-1) @ v)).mean(1))


@case(8, 2, *[4] * 4, 10, inputs=(of(2, 5, 3),))
class Albert(nn.Module):
    """One layer, three times."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(3, 8), nn.Linear(8, 2)
        self.layer = nn.TransformerEncoderLayer(8, 2, 10, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for _ in range(3):
            x = self.layer(x)
        return self.head(x[:, 0])


@case(4, *[2] * 4, *[4] * 3, inputs=(of(2, 1, 6, 6),))
class Capsules(nn.Module):
    """Four kinds of capsules of size 2 at 2 x 2 places, routed to three of size 4."""

    def __init__(self):
        super().__init__()
        self.primary, self.weight = nn.Conv2d(1, 8, 3, 2), nn.Parameter(torch.randn(3, 16, 4, 2))

    def forward(self, x: Tensor) -> Tensor:
        u = self.squashed(self.primary(x).unflatten(1, (4, 2)).permute(0, 1, 3, 4, 2).reshape(len(x), -1, 2))
        votes = (self.weight @ u[:, None, :, :, None]).squeeze(-1)
        logits = torch.zeros(len(x), 3, 16, 1, dtype=x.dtype)
        for _ in range(2):
            v = self.squashed((logits.softmax(1) * votes).sum(2, keepdim=True))
            logits = logits + (votes * v).sum(-1, keepdim=True)
        return v.squeeze(2).norm(dim=-1)

    def squashed(self, x: Tensor) -> Tensor:
        square = (x**2).sum(-1, keepdim=True)
        return square / (1 + square) * x / torch.sqrt(square + 1e-8)


@case(4, 2, 3, 3, 6, 6, 6, 4, inputs=(of(2, 3, 6, 6),))
class UNet(nn.Module):
    """Attention at the bottom."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.back = (nn.Conv2d(i, o, 3, padding=1) for i, o in ((3, 4), (4, 6), (10, 4)))
        self.up, self.norm, self.end = nn.ConvTranspose2d(6, 6, 2, 2), nn.GroupNorm(2, 6), nn.Conv2d(4, 3, 1)
        self.qkv, self.out = nn.Conv2d(6, 18, 1), nn.Conv2d(6, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.one(x))
        y = F.silu(self.two(F.max_pool2d(x, 2)))
        q, k, v = self.qkv(self.norm(y)).flatten(2).chunk(3, 1)
        y = y + self.out((v @ (q.mT @ k / 6**0.5).softmax(-1).mT).view(y.shape))
        return self.end(F.silu(self.back(torch.cat([self.up(y), x], 1))))


@case(4, inputs=(of(2, 3, 2, 5, 5),))
class ConvLSTM(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(2 + 4, 16, 3, padding=1), nn.Conv2d(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = c = torch.zeros(x.shape[0], 4, *x.shape[3:], dtype=x.dtype)
        for t in range(x.shape[1]):
            i, f, o, g = self.conv(torch.cat([x[:, t], h], 1)).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        return self.head(h)


@case(4, 5, inputs=(of(2, 1, 6, 6),))
class SpaceToDepth(nn.Module):
    """Pixels to channels by slices (YOLO's focus), and back by pixel shuffle."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.end = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(16, 20, 1), nn.Conv2d(5, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x)
        x = torch.cat([x[..., a::2, b::2] for b in (0, 1) for a in (0, 1)], 1)
        return self.end(torch.tanh(F.pixel_shuffle(self.two(x), 2)))


@case(4, 3, inputs=(of(2, 3, 7, 7),))
class SharedSqueezeExcite(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 2)
        self.gate = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 4), nn.Sigmoid())

    def excited(self, x: Tensor) -> Tensor:
        return x * self.gate(x.mean((2, 3)))[:, :, None, None]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.excited(self.two(self.excited(torch.relu(self.one(x))))).mean((2, 3)))


@case(4, 5, inputs=(of(2, 3), of(2, 3)))
class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode, self.head = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5)), nn.Linear(15, 1)

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        a, b = self.encode(a), self.encode(b)
        return self.head(torch.cat([a, b, (a - b).abs()], -1)), F.cosine_similarity(a, b, dim=-1)


@case(4, 2)
class LoRA(nn.Module):
    """A frozen layer with an adapter of rank 2."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Linear(3, 4).requires_grad_(False), nn.Linear(4, 2)
        self.a, self.b = nn.Parameter(torch.randn(2, 3)), nn.Parameter(torch.randn(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.layer(x) + 0.5 * (x @ self.a.T @ self.b.T)))


@case(4, 5, 6)
class ManyExits(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(*ends) for ends in ((3, 4), (4, 5), (5, 6)))
        self.exits = nn.ModuleList(nn.Linear(size, 2) for size in (4, 5, 6))

    def forward(self, x: Tensor) -> list[Tensor]:
        outputs = []
        for layer, leave in zip(self.layers, self.exits, strict=True):
            x = torch.relu(layer(x))
            outputs.append(leave(x))
        return outputs


@pytest.mark.parametrize("name", CASES)
def test_blocks_of_research_have_the_group_that_is_counted_by_hand(name):
    CASES[name].check()
