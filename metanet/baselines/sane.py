"""SANE: a transformer on channel tokens, pretrained by reconstruction and contrast, then probed or fine-tuned."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from metanet.blocks.heads import Heads
from metanet.blocks.transformer import TransformerLayer, masked_mean
from metanet.blocks.windows import Dice, every_start, random_starts, windows
from metanet.dataset import Batch, Nets, Schema
from metanet.normalise import StandardiseParts
from metanet.views.tokens import tokens

INVARIANT = False  # it knows the position of every channel
_FREQUENCIES = 16
_WINDOWS_AT_ONCE = 128  # bounds the memory of a prediction; the prediction does not depend on it


@dataclass(frozen=True)
class Windows:
    """Windows of consecutive tokens, from nets of several architectures."""

    values: Float[Tensor, "windows tokens size"]
    real: Bool[Tensor, "windows tokens size"]  # false where a token, or the end of a short net's window, is padded
    positions: Int64[Tensor, "windows tokens 3"]

    @property
    def tokens(self) -> Bool[Tensor, "windows tokens"]:
        return self.real[..., 0]  # a token's padding comes last

    def split(self, size: int) -> Iterable["Windows"]:
        parts = (x.split(size) for x in (self.values, self.real, self.positions))
        return (Windows(values, real, positions) for values, real, positions in zip(*parts, strict=True))


class SANE(nn.Module):
    """Transformer encoder on windows of channel tokens; a net's embedding is the mean over its tokens' latents.

    Training reads one random window per net, after a random permutation of the hidden units; a prediction reads the
    windows that cover the net, as it is. `pretrain_loss` is that of the paper: contrast * NT-Xent between two permuted,
    noisy views, plus (1 - contrast) * masked mean squared error of the tokens decoded from their latents.
    With `fine_tune` false the encoder stays as pretrained and only the linear heads learn (the probe).

    Source: Schuerholt, Mahoney and Borth (2024), "Towards scalable and versatile weight space learning", section 3.
    Departures: sinusoidal codes of the three positions in place of tables, so that a net of any size has codes; values
    standardised by kind of tensor instead of by layer, since layers differ between architectures; a share of the
    tokens is hidden from the encoder.
    """

    def __init__(
        self,
        schema: Schema,
        token_size: int,
        window: int,
        width: int,
        depth: int,
        heads: int,
        latent: int,
        decoder_depth: int,
        dropout: float,
        contrast: float,
        temperature: float,
        noise: float,
        hidden_share: float,
        fine_tune: bool,
    ):
        super().__init__()
        self.token_size, self.window, self.fine_tune = token_size, window, fine_tune
        self.contrast, self.temperature, self.noise, self.hidden_share = contrast, temperature, noise, hidden_share
        self.standardise = StandardiseParts(schema.templates.values())
        self.dice = Dice()
        self.read = nn.Linear(token_size, width)
        self.encoder_place, self.decoder_place = nn.Linear(6 * _FREQUENCIES, width), nn.Linear(6 * _FREQUENCIES, width)
        self.encoder = nn.ModuleList(TransformerLayer(width, heads, dropout) for _ in range(depth))
        self.to_latent = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, latent))
        self.from_latent = nn.Linear(latent, width)
        self.decoder = nn.ModuleList(TransformerLayer(width, heads, dropout) for _ in range(decoder_depth))
        self.write = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, token_size))
        self.project = nn.Sequential(nn.Linear(latent, latent), nn.ReLU(), nn.Linear(latent, latent // 2))
        self.heads = Heads(latent, schema.targets)

    @torch.no_grad()
    def prepare(self, train: Iterable[Batch]) -> None:
        """Fits the standardisation on the training nets."""
        for batch in train:
            for nets in batch:
                self.standardise.update(nets)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{target: logits [nets, classes] or standardised values [nets]}, nets in the order of the batch."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.fine_tune):
            embeddings = self.embed(batch, self.dice() if self.training else None)
        return self.heads(embeddings)

    def embed(self, batch: Batch, generator: torch.Generator | None) -> Float[Tensor, "nets latent"]:
        """The mean latent of a random window of each net, permuted; without a generator that of the whole net."""
        nets = batch if generator is None else [_permuted(n, generator) for n in batch]
        cut, counts = self.windows(nets, generator)
        parts = (cut,) if generator is not None else cut.split(_WINDOWS_AT_ONCE)
        read = torch.cat([masked_mean(self.encode(part), part.tokens) for part in parts])
        by_group = read.split([len(n) * count for n, count in zip(batch, counts, strict=True)])
        return torch.cat([r.view(-1, count, r.shape[-1]).mean(1) for r, count in zip(by_group, counts, strict=True)])

    def pretrain_loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """The self-supervised loss of a batch of two nets or more, all randomness drawn from `generator`."""
        start = generator.get_state()
        projected, errors = [], []
        for _ in range(2):
            permuted = [_permuted(nets, generator) for nets in batch]
            cut, _ = self.windows(permuted, torch.Generator().set_state(start))  # both views read the same places
            noisy = cut.values + self.noise * _normal(cut.values, generator) * cut.real
            shown = torch.rand(cut.tokens.shape, generator=generator) >= self.hidden_share
            latents = self.encode(replace(cut, values=noisy * shown.unsqueeze(-1).to(noisy.device)))
            projected.append(self.project(masked_mean(latents, cut.tokens)))
            squares = (self.decode(latents, cut) - cut.values).square()
            errors.append((squares * cut.real).sum() / cut.real.sum())  # indexing by a mask would wait for the GPU
        contrast = nt_xent(projected[0], projected[1], self.temperature)
        return self.contrast * contrast + (1 - self.contrast) * torch.stack(errors).mean()

    def windows(self, batch: Batch, generator: torch.Generator | None) -> tuple[Windows, list[int]]:
        """One random window per net, or all of them; and how many each net of a group has. Short ones are padded."""
        groups, counts = [], []
        for nets in batch:
            cut = tokens(nets.template, self.standardise(nets), self.token_size)
            length, size = len(cut.real), self.window
            if generator is None:
                starts = every_start(length, size, len(nets))
            else:
                starts = random_starts(length, size, len(nets), 1, generator)
            shared = (x.expand(len(nets), *x.shape) for x in (cut.real, cut.positions))
            groups.append([windows(x, starts, size).flatten(0, 1) for x in (cut.values, *shared)])
            counts.append(starts.shape[1])
        longest = max(values.shape[1] for values, *_ in groups)
        padded = ([F.pad(x, (0, 0, 0, longest - x.shape[1])) for x in group] for group in groups)
        values, real, positions = (torch.cat(parts) for parts in zip(*padded, strict=True))
        return Windows(values, real, positions), counts

    def encode(self, cut: Windows) -> Float[Tensor, "windows tokens latent"]:
        x = self.read(cut.values) + self.encoder_place(_waves(cut.positions, cut.values.dtype))
        for layer in self.encoder:
            x = layer(x, cut.tokens)
        return self.to_latent(x)

    def decode(
        self, latents: Float[Tensor, "windows tokens latent"], cut: Windows
    ) -> Float[Tensor, "windows tokens size"]:
        x = self.from_latent(latents) + self.decoder_place(_waves(cut.positions, latents.dtype))
        for layer in self.decoder:
            x = layer(x, cut.tokens)
        return self.write(x)


def nt_xent(a: Float[Tensor, "nets width"], b: Float[Tensor, "nets width"], temperature: float) -> Float[Tensor, ""]:
    """How badly each of 2n views finds the other view of its net among all: 0 at best, log(2n - 1) for equal views.

    Source: Chen et al. (2020), SimCLR, equation 1.
    """
    views = F.normalize(torch.cat([a, b]), dim=-1)
    likeness = (views @ views.T / temperature).fill_diagonal_(-torch.inf)
    return F.cross_entropy(likeness, torch.arange(len(views), device=views.device).roll(len(a)))


def _permuted(nets: Nets, generator: torch.Generator) -> Nets:
    """The same functions with their hidden units in another order, another for every net."""
    permute = nets.template.symmetry.sample(generator, nets=len(nets))
    return replace(nets, params=permute(nets.params))


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)


def _waves(positions: Int64[Tensor, "windows tokens 3"], dtype: torch.dtype) -> Float[Tensor, "windows tokens waves"]:
    """Sines and cosines of each position, wavelengths from 2 pi to 20,000 pi. Source: Vaswani et al. (2017), 3.5."""
    scale = 1e4 ** -(torch.arange(_FREQUENCIES, device=positions.device, dtype=dtype) / (_FREQUENCIES - 1))
    angles = (positions.to(dtype).unsqueeze(-1) * scale).flatten(-2)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
