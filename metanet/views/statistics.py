"""The statistics view: how the values of every tensor are distributed, in columns that all architectures share."""

import math
from collections.abc import Mapping, Sequence

import torch
from einops import reduce
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from metanet.arch.template import VECTOR_ROLES, Block, Template
from metanet.views.entries import edges_of, vector_of

# Of each tensor. The first seven are Unterthiner et al. (2020), section 3.
STATISTICS = ("min", "q25", "q50", "q75", "max", "std", "mean", "log_rms", "kurtosis")
# Of a weight's rows (outputs) and columns (inputs): how unequal their norms, how alike their contents.
ROW_STATISTICS = ("row_spread", "row_likeness", "column_spread", "column_likeness")
LAYER_COLUMNS = (
    *(f"weight.{name}" for name in (*STATISTICS, *ROW_STATISTICS)),
    *(f"{role}.{name}" for role in VECTOR_ROLES for name in STATISTICS),
)

_ENDS = 3  # layers named from the input on, and from the output back
_KINDS = ("conv", "dense", "all")  # aggregates run over these layers
_AGGREGATES = ("mean", "min", "max")
_PLACES = (
    *(f"first{i}" for i in range(_ENDS)),
    *(f"last{i}" for i in range(_ENDS)),
    "first_dense",
    *(f"{kind}.{aggregate}" for kind in _KINDS for aggregate in _AGGREGATES),
)
COLUMNS = tuple(f"{place}.{column}" for place in _PLACES for column in LAYER_COLUMNS)


def statistics(template: Template, params: Mapping[str, Tensor]) -> Float32[Tensor, "nets columns"]:
    """COLUMNS of stacked nets; NaN where an architecture has no such layer or vector. Cost: a sort."""
    return lined_up(template, layers(template, params)).float()


def layers(template: Template, params: Mapping[str, Tensor]) -> Float64[Tensor, "nets blocks layer_columns"]:
    """LAYER_COLUMNS of every layer of stacked nets; NaN where a layer has no such vector.

    A layer is a block with the vectors of the space that it writes. In float64: rounded to float32, the order of the
    hidden units does not change it.
    """
    return torch.stack([_layer(template, block, params) for block in template.blocks], 1)


def lined_up(
    template: Template, of_layers: Float[Tensor, "nets blocks layer_columns"]
) -> Float[Tensor, "nets columns"]:
    """COLUMNS, from LAYER_COLUMNS of every layer: what architectures of any depth have in common.

    Layers are aligned by their place: the first three, the last three, the first dense one, and the mean, min and max
    over the convolutions, the dense layers, and all. NaN where an architecture has no such layer.
    """
    columns = list(of_layers.unbind(1))
    dense = [number for number, block in enumerate(template.blocks) if block.kind != "conv"]
    conv = [number for number, block in enumerate(template.blocks) if block.kind == "conv"]
    missing = torch.full_like(columns[0], torch.nan)
    places = [*columns[:_ENDS], *[missing] * (_ENDS - len(columns))]
    places += [*columns[: -_ENDS - 1 : -1], *[missing] * (_ENDS - len(columns))]
    places.append(columns[dense[0]] if dense else missing)
    for numbers in (conv, dense, range(len(columns))):
        chosen = torch.stack([columns[number] for number in numbers] or [missing])
        nan = chosen.isnan()
        places += [
            chosen.nanmean(0),
            chosen.masked_fill(nan, torch.inf).amin(0).masked_fill(nan.all(0), torch.nan),
            chosen.masked_fill(nan, -torch.inf).amax(0).masked_fill(nan.all(0), torch.nan),
        ]
    return torch.cat(places, dim=1)


def architecture(template: Template, operations: Sequence[str]) -> Float32[Tensor, " columns"]:
    """What a template says without its weights: sizes, kernels, strides, parameters, and how often each operation runs.

    `operations` are the kinds to count. NaN where an architecture has no such layer.
    """
    conv = [block for block in template.blocks if block.kind == "conv"]
    dense = [block for block in template.blocks if block.kind != "conv"]
    kinds = [operation.kind for space in template.spaces for operation in space.operations]
    sizes = [float(space.size) for space in template.spaces]
    hidden = [float(space.size) for space in template.spaces if space.role == "hidden"]
    params = [float(math.prod(template.shapes[block.name])) for block in template.blocks]
    columns = [
        float(len(template.spaces)),
        float(len(template.links)),
        float(len(conv)),
        float(len(dense)),
        float(sum(math.prod(shape) for shape in template.shapes.values())),
        *(float(sum(role in space.vectors for space in template.spaces)) for role in VECTOR_ROLES),
        *_ends(sizes),
        *_ends(params),
        *_spread(hidden),
        *_spread([float(block.shape[0]) for block in conv]),
        *_spread([float(block.shape[0]) for block in dense]),
        *_spread([float(block.shape[2]) for block in conv]),
        *_spread([float(block.shape[2]) for block in dense]),
        *_spread([float(block.groups) for block in conv]),
        *(float(kinds.count(kind)) for kind in operations),
    ]
    return torch.tensor(columns, dtype=torch.float32)


def _layer(template: Template, block: Block, params: Mapping[str, Tensor]) -> Float[Tensor, "nets columns"]:
    """LAYER_COLUMNS of one block and the space that it writes."""
    weight = edges_of(block, params).double()
    columns = [_distribution(weight.flatten(1)), _likeness(weight), _likeness(weight.transpose(1, 2))]
    space = template.spaces[block.target]
    for role in VECTOR_ROLES:
        if role in space.vectors:
            columns.append(_distribution(vector_of(space, role, params).double()))
        else:
            columns.append(weight.new_full((len(weight), len(STATISTICS)), torch.nan))
    return torch.cat(columns, dim=1)


def _distribution(x: Float[Tensor, "nets values"]) -> Float[Tensor, "nets statistics"]:
    """STATISTICS of each row."""
    last = x.shape[1] - 1
    ordered = x.sort(dim=1).values
    quartiles = [
        torch.lerp(ordered[:, int(p)], ordered[:, -int(-p // 1)], p % 1) for p in (last / 4, last / 2, 3 * last / 4)
    ]
    rms = x.square().mean(1).sqrt()
    mean = _settled(x.mean(1), rms)
    centred = x - mean.unsqueeze(1)
    std = _settled(centred.square().mean(1).sqrt(), rms)
    kurtosis = centred.pow(4).mean(1) / std.pow(4)
    kurtosis = kurtosis.masked_fill(std == 0, torch.nan)
    return torch.stack(
        [ordered[:, 0], *quartiles, ordered[:, -1], std, mean, rms.log10().clamp(min=-30), kurtosis], dim=1
    )


def _likeness(weight: Float[Tensor, "nets rows columns taps"]) -> Float[Tensor, "nets 2"]:
    """Spread of the rows' norms over their root mean square, and the share of the norm that all rows have in common.

    The share is 1 for equal rows (a constant initialisation), about 1 / rows for independent ones.
    """
    squares = reduce(weight.square(), "nets rows columns taps -> nets rows", "sum")
    size = squares.mean(1)
    norms = squares.sqrt()
    spread = _settled(norms.std(1, correction=0), size.sqrt()) / size.sqrt()
    common = reduce(weight.mean(1).square(), "nets columns taps -> nets", "sum") / size
    return torch.stack([spread, _settled(common, torch.ones_like(common))], dim=1)


def _settled(x: Tensor, scale: Tensor) -> Tensor:
    """Zero where `x` is rounding noise beside `scale`: noise would depend on the order of the hidden units."""
    return x.masked_fill(x.abs() <= 1e-10 * scale, 0.0)


def _ends(values: Sequence[float]) -> list[float]:
    missing = [float("nan")] * (_ENDS - len(values))
    return [*values[:_ENDS], *missing, *values[: -_ENDS - 1 : -1], *missing]


def _spread(values: Sequence[float]) -> list[float]:
    return [sum(values) / len(values), min(values), max(values)] if values else [float("nan")] * 3
