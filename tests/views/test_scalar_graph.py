"""One edge per scalar: as many edges as numbers, every number found again, and no order of channels matters."""

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.loader import DataLoader

import metanet
from metanet.arch.template import VECTOR_ROLES, Template
from metanet.views.isomorphism import canonical_hash
from metanet.views.scalar_graph import (
    SCALAR_EDGE_COLUMNS,
    SCALAR_EDGE_TYPES,
    SCALAR_NODE_COLUMNS,
    SCALAR_RELATION_COLUMNS,
    state_dict_of,
)


class Residual(nn.Module):
    """Kernels that are even, long and in groups, a norm, a residual sum, and a flattened image."""

    def __init__(self):
        super().__init__()
        self.stem, self.wide = nn.Conv2d(2, 4, (2, 3)), nn.Conv2d(4, 4, (1, 9), padding=(0, 4), groups=2, bias=False)
        self.norm, self.head = nn.BatchNorm2d(4), nn.Linear(4 * 4 * 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        return self.head((x + torch.tanh(self.wide(x))).flatten(1))


class NormOfFlat(nn.Module):
    """A norm reads flattened positions, which links then carry."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv1d(1, 3, 2), nn.BatchNorm1d(12), nn.Linear(12, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(x).flatten(1)))


NETS = {"residual": (Residual, (1, 2, 5, 7)), "norm of a flat image": (NormOfFlat, (2, 1, 5))}


def traced(name: str) -> tuple[Template, dict[str, Tensor]]:
    make, shape = NETS[name]
    net = make().eval()
    template = metanet.trace(net, torch.zeros(shape))
    generator = torch.Generator().manual_seed(0)
    return template, {
        entry: torch.rand(shape, generator=generator, dtype=torch.float64) + 0.5
        for entry, shape in template.shapes.items()
    }


def carries_a_parameter(edge_type: Tensor) -> Tensor:
    names = ["weight", *(f"parameter.{role}" for role in VECTOR_ROLES)]
    return torch.isin(edge_type, torch.tensor([SCALAR_EDGE_TYPES.index(name) for name in names]))


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("name", NETS)
def test_there_is_an_edge_for_every_number_of_the_net(name, bidirectional):
    template, state = traced(name)
    graph = template.graph(state, bidirectional, scalar_edges=True)
    own = carries_a_parameter(graph.edge_type)
    assert own.sum() == template.num_params
    values = graph["edge_attr"][:, SCALAR_EDGE_COLUMNS.index("value")]
    assert torch.equal(
        values[own].sort().values, torch.cat([value.flatten() for value in state.values()]).sort().values
    )
    links = template.graph(state).edge_block >= len(template.blocks)
    assert len(own) == (template.num_params + int(links.sum())) * (1 + bidirectional)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("name", NETS)
def test_every_number_is_found_again_bit_for_bit(name, bidirectional):
    template, state = traced(name)
    again = state_dict_of(template, template.graph(state, bidirectional, scalar_edges=True))
    assert again.keys() == state.keys()
    assert all(torch.equal(again[entry], value) for entry, value in state.items())


@pytest.mark.parametrize("name", NETS)
def test_the_graph_is_well_formed_and_goes_into_a_loader(name):
    template, state = traced(name)
    graph = template.graph(state, scalar_edges=True)
    assert graph.validate()
    assert (graph["edge_index"][1].diff() >= 0).all()
    assert graph["x"].shape[1] == len(SCALAR_NODE_COLUMNS)
    assert graph["edge_attr"].shape[1] == len(SCALAR_EDGE_COLUMNS)
    assert len(set(SCALAR_EDGE_TYPES)) == len(SCALAR_EDGE_TYPES)
    types = graph.edge_codes()[:, [SCALAR_RELATION_COLUMNS.index(f"type.{kind}") for kind in SCALAR_EDGE_TYPES]]
    assert torch.equal(types.argmax(1), graph.edge_type)
    assert (types.sum(1) == 1).all()
    vectors = sum(len(space.vectors) for space in template.spaces)
    assert graph.num_nodes == sum(space.size for space in template.spaces) + vectors
    batch = next(iter(DataLoader([graph, graph], batch_size=2)))
    again = batch.to_data_list()[1].to_dict()
    assert all(torch.equal(again[field], value) for field, value in graph.to_dict().items())


@pytest.mark.parametrize("name", NETS)
def test_symmetric_copies_have_isomorphic_graphs_and_others_do_not(name):
    template, state = traced(name)
    first = canonical_hash(template.graph(state, scalar_edges=True))
    copy = template.symmetry.sample(torch.Generator().manual_seed(1))(state)
    assert any(not torch.equal(copy[entry], value) for entry, value in state.items())
    assert canonical_hash(template.graph(copy, scalar_edges=True)) == first
    for entry, value in state.items():
        broken = state | {entry: value.flip(-1) if value.shape[-1] > 1 else value.flip(0)}
        assert canonical_hash(template.graph(broken, scalar_edges=True)) != first, entry


def test_a_tap_lies_where_the_channel_pairs_have_it():
    template, state = traced("residual")
    graph = template.graph(state, scalar_edges=True)
    stem = (graph.edge_block == 0) & (graph["edge_index"][0] == 0) & (graph["edge_index"][1] == 2)
    columns = [SCALAR_EDGE_COLUMNS.index(name) for name in ("tap_row", "tap_column", "value")]
    found = {(int(row), int(column)): value for row, column, value in graph["edge_attr"][stem][:, columns].tolist()}
    kernel = state["stem.weight"][0, 0]  # 2 x 3, its middle at row 0, column 1
    assert found == {(i, j - 1): kernel[i, j].item() for i in range(2) for j in range(3)}
