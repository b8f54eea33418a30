"""More steps of random networks: kind -> (channels, grid, width) -> a module, a function of it and x, and the shape."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import orthogonal, spectral_norm, weight_norm

from metanet.arch.rules.grouped import product as grouped_product

Grid = tuple[int, int]
Made = tuple[nn.Module, Callable[..., Tensor], tuple[int, ...]]


def _table(**shapes: tuple[int, ...]) -> nn.ParameterDict:
    return nn.ParameterDict({name: torch.randn(shape) / 2 for name, shape in shapes.items()})


def _tokens(x: Tensor) -> Tensor:
    return x.flatten(2).mT


def weight_normed(channels: int, grid: Grid, width: int) -> Made:
    return weight_norm(nn.Conv2d(channels, width, 3, padding=1)), lambda part, x: part(x), (width, *grid)


def spectral_normed(channels: int, grid: Grid, width: int) -> Made:
    return spectral_norm(nn.Conv2d(channels, width, 1)), lambda part, x: part(x), (width, *grid)


def standardised(channels: int, grid: Grid, width: int) -> Made:
    def function(part: nn.ParameterDict, x: Tensor) -> Tensor:
        kernel = part["kernel"]
        return F.conv2d(x, kernel - kernel.mean((1, 2, 3), keepdim=True), padding=1)

    return _table(kernel=(width, channels, 3, 3)), function, (width, *grid)


def made_kernel(channels: int, grid: Grid, width: int) -> Made:
    def function(part: nn.Module, x: Tensor) -> Tensor:
        return F.conv2d(x, part(x.mean((0, 2, 3)).tanh()).view(width, channels, 1, 1))

    return nn.Linear(channels, width * channels), function, (width, *grid)


def mixed(channels: int, grid: Grid, width: int) -> Made:
    """Layers over places, with hidden ones."""
    places = grid[0] * grid[1]
    part = nn.Sequential(nn.Linear(places, width), nn.GELU(), nn.Linear(width, places))
    return part, lambda part, x: x + part(x.flatten(2)).unflatten(2, grid), (channels, *grid)


def mixed_by_convolution(channels: int, grid: Grid, width: int) -> Made:
    part = nn.Sequential(nn.Conv1d(grid[0] * grid[1], width, 1), nn.Tanh())
    return part, lambda part, x: part(_tokens(x)).mT.unsqueeze(3), (channels, width, 1)


def pooled_places(channels: int, grid: Grid, width: int) -> Made:
    """Attention to places that a layer makes of all."""

    def function(part: nn.ModuleDict, x: Tensor) -> Tensor:
        x = _tokens(x)
        few = part["places"](x.mT).mT
        return ((part["query"](x) @ part["key"](few).mT).softmax(-1) @ few).mT.unflatten(2, grid)

    layers = {"places": nn.Linear(grid[0] * grid[1], width), "query": nn.Linear(channels, 3)}
    return nn.ModuleDict(layers | {"key": nn.Linear(channels, 3)}), function, (channels, *grid)


def experts(channels: int, grid: Grid, width: int) -> Made:
    def function(part: nn.ParameterDict, x: Tensor) -> Tensor:
        one, two, gate = (part[name] for name in ("one", "two", "gate"))
        each = torch.einsum("nehp,eho->neop", torch.einsum("ncp,ech->nehp", x.flatten(2), one).tanh(), two)
        weights = torch.einsum("ncp,ce->nep", x.flatten(2), gate).softmax(1)
        return (each * weights[:, :, None]).sum(1).unflatten(2, grid)

    return _table(one=(2, channels, 3), two=(2, 3, width), gate=(channels, 2)), function, (width, *grid)


def recurrent(channels: int, grid: Grid, width: int) -> Made:
    part = nn.LSTM(channels, width, batch_first=True, bidirectional=True)
    return part, lambda part, x: part(_tokens(x))[0].mT.unflatten(2, grid), (2 * width, *grid)


def projected(channels: int, grid: Grid, width: int) -> Made:
    part = nn.LSTM(channels, width + 1, batch_first=True, proj_size=width)
    return part, lambda part, x: part(_tokens(x))[0].mT.unflatten(2, grid), (width, *grid)


def embedded(channels: int, grid: Grid, width: int) -> Made:
    """Vectors of the places' numbers, added."""

    def function(part: nn.Module, x: Tensor) -> Tensor:
        return x + part(torch.arange(grid[0] * grid[1])).mT.unflatten(1, grid)

    return nn.Embedding(grid[0] * grid[1] + 1, channels), function, (channels, *grid)


def gated(channels: int, grid: Grid, width: int) -> Made:
    return nn.Conv2d(channels, 2 * width, 1), lambda part, x: F.glu(part(x), 1), (width, *grid)


def excited(channels: int, grid: Grid, width: int) -> Made:
    part = nn.Sequential(nn.Linear(channels, width), nn.ReLU(), nn.Linear(width, channels), nn.Sigmoid())
    return part, lambda part, x: x * part(x.mean((2, 3)))[:, :, None, None], (channels, *grid)


def shared(channels: int, grid: Grid, width: int) -> Made:
    """One layer twice."""
    return nn.Conv2d(channels, channels, 1), lambda part, x: part(part(x).tanh()) + x, (channels, *grid)


def chosen(channels: int, grid: Grid, width: int) -> Made:
    return nn.Conv2d(channels, channels, 1), lambda part, x: torch.where(x > 0.1, part(x), x), (channels, *grid)


def enlarged(channels: int, grid: Grid, width: int) -> Made:
    part = nn.ConvTranspose2d(channels, width, 2, stride=2)
    return part, lambda part, x: F.max_pool2d(part(x), 2), (width, *grid)


def shuffled_pixels(channels: int, grid: Grid, width: int) -> Made:
    part = nn.Conv2d(channels, 4 * width, 1)
    return part, lambda part, x: F.avg_pool2d(F.pixel_shuffle(part(x), 2), 2), (width, *grid)


def rotated(channels: int, grid: Grid, width: int) -> Made:
    """Two layers as real and imaginary parts."""
    part = nn.ModuleList([nn.Conv2d(channels, width, 1), nn.Conv2d(channels, width, 1)])
    return part, lambda part, x: torch.complex(part[0](x), part[1](x)).exp().abs(), (width, *grid)


def reduced(channels: int, grid: Grid, width: int) -> Made:
    return nn.Identity(), lambda part, x: x - x.mean(1, keepdim=True) + x.amax(3, keepdim=True), (channels, *grid)


def normed(channels: int, grid: Grid, width: int) -> Made:
    return nn.Identity(), lambda part, x: F.normalize(x, dim=1) * x.std(1, keepdim=True), (channels, *grid)


def stacked(channels: int, grid: Grid, width: int) -> Made:
    part = nn.ModuleList([nn.Conv2d(channels, width, 1) for _ in range(3)])
    return part, lambda part, x: torch.stack([one(x) for one in part], 1).softmax(1)[:, 1], (width, *grid)


def filtered(channels: int, grid: Grid, width: int) -> Made:
    """A layer over frequencies of the places."""

    def function(part: nn.ParameterDict, x: Tensor) -> Tensor:
        waves = torch.fft.rfft2(x)[..., :2]
        weight = torch.view_as_complex(part["weight"])
        return torch.fft.irfft2(torch.einsum("nixy,ioxy->noxy", waves, weight), s=grid)

    rows, columns = grid[0], min(grid[1] // 2 + 1, 2)
    return _table(weight=(channels, width, rows, columns, 2)), function, (width, *grid)


def warped(channels: int, grid: Grid, width: int) -> Made:
    """Read where a layer points to."""
    part = nn.Conv2d(channels, 2, 1)
    return part, lambda part, x: F.grid_sample(x, part(x).movedim(1, -1).tanh(), align_corners=False), (channels, *grid)


def centred(channels: int, grid: Grid, width: int) -> Made:
    def function(part: nn.ParameterDict, x: Tensor) -> Tensor:
        return torch.exp(-torch.cdist(_tokens(x), part["centres"])).mT.unflatten(2, grid)

    return _table(centres=(width, channels)), function, (width, *grid)


def orthogonal_weight(channels: int, grid: Grid, width: int) -> Made:
    part = orthogonal(nn.Linear(channels, width), orthogonal_map="cayley")
    return part, lambda part, x: part(_tokens(x)).mT.unflatten(2, grid), (width, *grid)


def of_a_stack(channels: int, grid: Grid, width: int) -> Made:
    """Some matrices of a stack, each by itself."""

    def function(part: nn.ParameterDict, x: Tensor) -> Tensor:
        one, two = (_tokens(x) @ part["stack"][number] for number in (0, 2))
        return (one.tanh() + two).mT.unflatten(2, grid)

    return _table(stack=(3, channels, width)), function, (width, *grid)


def grouped(channels: int, grid: Grid, width: int) -> Made:
    """Experts that get the rows of their own."""
    product = grouped_product()

    def function(part: nn.ParameterDict, x: Tensor) -> Tensor:
        rows = _tokens(x).flatten(0, 1)
        ends = torch.tensor([rows.shape[0] // 2, rows.shape[0]])
        inside = product(rows, part["up"], ends).sigmoid()
        return product(inside, part["down"], ends).unflatten(0, (len(x), -1)).mT.unflatten(2, grid)

    return _table(up=(2, channels, 3), down=(2, 3, width)), function, (width, *grid)


def extremes(channels: int, grid: Grid, width: int) -> Made:
    """Largest numbers, their places, and means beside variances."""

    def function(part: nn.Module, x: Tensor) -> Tensor:
        largest, places = x.max(3, keepdim=True)
        variance, mean = torch.var_mean(x, 2, keepdim=True)
        return x * largest - places * mean + variance.tan()

    return nn.Identity(), function, (channels, *grid)


KINDS: dict[str, Callable[[int, Grid, int], Made]] = {
    function.__name__: function
    for function in (
        *(weight_normed, spectral_normed, standardised, made_kernel, mixed, mixed_by_convolution, pooled_places),
        *(experts, recurrent, projected, embedded, gated, excited, shared, chosen, enlarged, shuffled_pixels),
        *(
            rotated,
            reduced,
            normed,
            stacked,
            filtered,
            warped,
            centred,
            orthogonal_weight,
            of_a_stack,
            grouped,
            extremes,
        ),
    )
}
