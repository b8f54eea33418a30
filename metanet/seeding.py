"""Counter-based randomness: a random number is a function of (seed, net, purpose, step), never of a global generator.

A **key** is an integer in [0, 2**63) that names one stream of random numbers:

    seeding.key(7, 12, "initialisation")                      # one stream, from Python: specs, splits
    keys = seeding.keys(7, nets, "dropout", step)             # a stream per net, on the device of `nets`
    seeding.uniform(keys, batch, features)                    # [nets, batch, features] in [0, 1)

Keys, `uniform` and `permutation` are integer arithmetic and hence equal on every device; `normal` is equal to rounding.
A net's numbers do not depend on which nets stand beside it. Not for cryptography.
"""

import functools
import hashlib
import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_WORD = (1 << 64) - 1
_KEY = (1 << 63) - 1  # keys stay non-negative, so that a torch generator and an int64 tensor both take them


def key(seed: int, *words: int | str) -> int:
    """The key of a stream, in [0, 2**63); the order of the words matters, and a string differs from every integer."""
    state = _mix((seed + _GOLDEN) & _WORD)
    for word in words:
        state = _mix(state ^ _mix((_number(word) + _GOLDEN) & _WORD))
    return state & _KEY


def keys(seed: int, nets: Int64[Tensor, " nets"], purpose: str, step: int = 0) -> Int64[Tensor, " nets"]:
    """`key(seed, net, purpose, step)` of every net, computed on the device of `nets`."""
    state = _mix_tensor(_mix_tensor(nets + _signed(_GOLDEN)) ^ _signed(_mix((seed + _GOLDEN) & _WORD)))
    for word in (purpose, step):
        state = _mix_tensor(state ^ _signed(_mix((_number(word) + _GOLDEN) & _WORD)))
    return state & _KEY


def fold(keys: Int64[Tensor, " nets"], word: int | str) -> Int64[Tensor, " nets"]:
    """New keys from old ones: streams for the parts of one purpose."""
    return _mix_tensor(keys ^ _signed(_mix((_number(word) + _GOLDEN) & _WORD))) & _KEY


def uniform(keys: Int64[Tensor, " nets"], *shape: int) -> Float[Tensor, "nets ..."]:
    """float32 [nets, *shape] in [0, 1), multiples of 2**-24."""
    return _bits(keys, math.prod(shape)).bitwise_right_shift_(8).bitwise_and_(0xFFFFFF).mul(2.0**-24).view(-1, *shape)


def normal(keys: Int64[Tensor, " nets"], *shape: int) -> Float[Tensor, "nets ..."]:
    """float32 [nets, *shape] from N(0, 1), by Box and Muller (1958); no value lies beyond 5.8."""
    count = math.prod(shape)
    half = (count + 1) // 2
    radius, angle = uniform(keys, 2, half).unbind(1)
    radius = (1 - radius).log_().mul_(-2).sqrt_()
    angle = angle * (2 * math.pi)
    return torch.cat([radius * angle.cos(), radius * angle.sin()], 1)[:, :count].reshape(-1, *shape)


def permutation(keys: Int64[Tensor, " nets"], count: int) -> Int64[Tensor, "nets count"]:
    """A random order of range(count) for every key."""
    return torch.sort(_bits(keys, count), dim=1, stable=True).indices


def _number(word: int | str) -> int:
    if isinstance(word, int):
        return word & _WORD
    return int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little")


def _signed(word: int) -> int:
    """The int64 with the bits of an unsigned 64-bit word."""
    return word - (1 << 64) if word >> 63 else word


def _mix(word: int) -> int:
    """The finaliser of splitmix64. Source: Steele, Lea and Flood (2014), OOPSLA, figure 16."""
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 & _WORD
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB & _WORD
    return word ^ (word >> 31)


def _mix_tensor(word: Int64[Tensor, " nets"]) -> Int64[Tensor, " nets"]:
    """`_mix` on int64; torch shifts arithmetically, so the copies of the sign bit are masked off."""
    word = (word ^ (word >> 30 & (1 << 34) - 1)) * _signed(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> 27 & (1 << 37) - 1)) * _signed(0x94D049BB133111EB)
    return word ^ (word >> 31 & (1 << 33) - 1)


def _bits(keys: Int64[Tensor, " nets"], count: int) -> Tensor:
    """int32 [nets, count] of random bits: a hash of a counter, with one half of the key added and the other xored in.

    32-bit arithmetic has half the memory traffic of 64-bit and vectorises everywhere. In place: the caller's only copy.
    Source of the hash: Wellons (2018), "Prospecting for hash functions", lowbias32.
    """
    low, high = _halves(keys)
    counters = _counters(count) if keys.device.type == "cpu" else _count(count, keys.device)
    bits = counters + low
    shifted = torch.empty_like(bits)
    for shift, multiplier in ((16, 0x7FEB352D), (15, 0x846CA68B - (1 << 32)), (16, None)):
        torch.bitwise_right_shift(bits, shift, out=shifted)
        bits ^= shifted.bitwise_and_((1 << (32 - shift)) - 1)
        if multiplier is not None:
            bits *= multiplier
        if shift == 16 and multiplier is not None:
            bits ^= high
    return bits


def _halves(keys: Int64[Tensor, " nets"]) -> tuple[Tensor, Tensor]:
    """int32 [nets, 1] of the low and of the high bits."""
    low = keys & 0xFFFFFFFF
    low = torch.where(low >= 1 << 31, low - (1 << 32), low)
    return low.to(torch.int32)[:, None], (keys >> 32).to(torch.int32)[:, None]


def _count(count: int, device: torch.device) -> Tensor:
    """int32 [1, count]: multiples of an odd constant, so that neighbours differ in their high bits too."""
    return (torch.arange(count, device=device) * (_GOLDEN >> 32)).to(torch.int32)[None]


@functools.lru_cache(maxsize=64)
def _counters(count: int) -> Tensor:
    """Kept on a CPU alone: a GPU's streams and graphs would share memory that nothing keeps in order."""
    return _count(count, torch.device("cpu"))
