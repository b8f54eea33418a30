"""Both layouts of the parameter graph: they agree, lose nothing, and differ where functions differ."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import networkx
import pytest
import torch
from einops import einsum
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Batch
from torch_geometric.nn import global_add_pool
from torch_geometric.utils import scatter

from metanet.arch.depth import depths, heights
from metanet.arch.template import VECTOR_ROLES, Link, Template
from metanet.arch.trace import trace
from metanet.views.graph import (
    BLOCK_CODES,
    EDGE_COLUMNS,
    EDGE_TYPES,
    GRAPH_COLUMNS,
    GRID,
    NODE_COLUMNS,
    RELATION_COLUMNS,
    SPACE_CODES,
    TAP_COLUMNS,
    ParameterGraph,
    blocked,
    graph_of,
    link_edge_codes,
    link_ends,
    sparse,
    state_dict_of,
    tap_layers,
    tap_slots,
)

FIELDS = (
    *("x", "node_space", "place", "space_codes"),
    *("edge_index", "edge_attr", "edge_relation", "relation_codes", "relation_type", "relation_block", "u"),
)
StateDict = dict[str, Tensor]


def cnn(
    width: int = 4, kernel: tuple[int, int] = (3, 3), groups: int = 1, side: int = 4, norm: bool = True
) -> nn.Module:
    """conv -> norm -> relu -> pool -> conv in groups -> tanh -> flatten -> linear."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, width * groups, kernel, padding="same"),
        nn.BatchNorm2d(width * groups) if norm else nn.Identity(),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width * groups, 2 * groups, 1, groups=groups),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(2 * groups * (side // 2) ** 2, 3),
    ).double()


def traced(module: nn.Module, side: int = 4) -> tuple[Template, StateDict]:
    return trace(module, torch.randn(2, 2, side, side, dtype=torch.float64)), module.state_dict()


def stack(template: Template, nets: int) -> StateDict:
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.randn(nets, *shape, generator=generator, dtype=torch.float64)
        for name, shape in template.shapes.items()
    }


class Residual(nn.Module):
    """conv -> relu -> (conv + itself) -> flatten -> norm -> linear: links of three kinds."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.norm, self.head = nn.BatchNorm1d(48), nn.Linear(48, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        return self.head(self.norm((torch.tanh(x) + self.second(x)).flatten(1)))


nets = st.fixed_dictionaries(
    {
        "width": st.integers(1, 3),
        "kernel": st.tuples(st.integers(1, 8), st.integers(1, 8)),
        "groups": st.integers(1, 2),
        "side": st.sampled_from([2, 4, 16]),  # 16 flattens 8 x 8 positions, more than the grid holds
        "norm": st.booleans(),
    }
)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@settings(max_examples=8)
@given(net=nets, bidirectional=st.booleans())
def test_both_layouts_are_one_graph_and_nothing_is_lost(net, bidirectional):
    template, _ = traced(cnn(**net), net["side"])
    params = stack(template, 3)
    view = blocked(template, params)
    batch: Any = sparse(template, params, bidirectional)

    # The sum over in-edges of source features times taps, by scatter and by reduction over an axis.
    forward = batch.edge_type == EDGE_TYPES.index("weight")
    source, target = batch["edge_index"][:, forward]
    taps = batch["edge_attr"][forward, : GRID * GRID].sum(1)
    scattered = scatter(batch["x"][source, 0] * taps, target, dim_size=len(batch["x"])).view(3, -1)
    start, parts = 0, [torch.zeros_like(nodes[..., 0]) for nodes in view.nodes]
    for block, edges in zip(template.blocks, view.edges, strict=True):
        sources = view.nodes[block.source][..., 0].view(3, block.groups, -1)
        grouped = edges.view(3, block.groups, -1, *edges.shape[2:])
        parts[block.target] += einsum(grouped, sources, "n g o i t, n g i -> n g o").flatten(1)
    for part in parts:
        torch.testing.assert_close(scattered[:, start : start + part.shape[1]], part, rtol=1e-12, atol=1e-12)
        start += part.shape[1]

    for i in range(3):
        rebuilt = state_dict_of(template, cast(ParameterGraph, batch.get_example(i)))
        assert set(rebuilt) == set(params)
        assert all(torch.equal(tensor, params[name][i]) for name, tensor in rebuilt.items())


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("module", [cnn(), Residual().double()], ids=["cnn", "residual"])
def test_a_batch_is_what_pyg_makes_of_single_graphs(module, bidirectional):
    template, _ = traced(module)
    params = stack(template, 3)
    batch = sparse(template, params, bidirectional)
    single = [graph_of(template, {name: t[i] for name, t in params.items()}, bidirectional) for i in range(3)]
    oracle = Batch.from_data_list(single)  # pyright: ignore[reportArgumentType]
    for name in (*FIELDS, "batch", "ptr"):
        assert torch.equal(batch[name], oracle[name]), name
    for one, other in zip(batch.to_data_list(), single, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in FIELDS)
        assert one.validate()
    torch.testing.assert_close(global_add_pool(batch["x"], batch["batch"])[1], single[1]["x"].sum(0))


def test_a_batch_of_several_architectures_keeps_the_codes_of_each():
    graphs = [graph_of(*traced(module)) for module in (cnn(), Residual().double(), cnn(width=1, norm=False))]
    batch: Any = Batch.from_data_list(graphs)  # pyright: ignore[reportArgumentType]
    assert torch.equal(batch.node_codes(), torch.cat([graph.node_codes() for graph in graphs]))
    assert torch.equal(batch.edge_codes(), torch.cat([graph.edge_codes() for graph in graphs]))
    assert torch.equal(batch.edge_block, torch.cat([graph.edge_block for graph in graphs]))
    for one, other in zip(batch.to_data_list(), graphs, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in FIELDS)


def test_fields_have_the_documented_columns_and_order():
    template, _ = traced(Residual().double())
    batch: Any = sparse(template, stack(template, 2), bidirectional=True)
    assert (batch["x"].shape[1], batch["edge_attr"].shape[1]) == (len(VECTOR_ROLES), len(TAP_COLUMNS))
    assert batch["space_codes"].shape == (2 * len(template.spaces), SPACE_CODES)
    assert batch["relation_codes"].shape[1] == len(RELATION_COLUMNS)
    assert batch["u"].shape == (2, len(GRAPH_COLUMNS))
    assert (batch["edge_index"][1].diff() >= 0).all()
    assert {batch[name].dtype for name in ("edge_index", "node_space", "edge_relation", "place")} == {torch.int64}
    one_hot = batch.edge_codes()[:, [RELATION_COLUMNS.index(f"type.{name}") for name in EDGE_TYPES]]
    assert torch.equal(one_hot.argmax(1), batch.edge_type)


def test_the_wide_graph_holds_every_column():
    template, _ = traced(Residual().double())
    batch: Any = sparse(template, stack(template, 2))
    wide = batch.widened()
    assert (wide["x"].shape[1], wide["edge_attr"].shape[1]) == (len(NODE_COLUMNS), len(EDGE_COLUMNS))
    assert torch.equal(wide["x"][:, : len(VECTOR_ROLES)], batch["x"])
    relative = wide["x"][:, NODE_COLUMNS.index("log2_size")]
    sizes = torch.tensor([space.size for space in template.spaces]).double()
    assert torch.equal(relative, sizes.log2().repeat_interleave(sizes.long()).float().double().repeat(2))
    kernel = wide["edge_attr"][:, EDGE_COLUMNS.index("type.flatten")]
    assert torch.equal(kernel.bool(), batch.edge_type == EDGE_TYPES.index("flatten"))
    outputs = wide["x"][-2:, [NODE_COLUMNS.index(f"position.bit{i}") for i in range(2)]]
    assert outputs.tolist() == [[-1, -1], [1, -1]]  # classes 0 and 1
    assert len(wide.to_data_list()) == 2


def test_edges_rebuild_the_convolution():
    layer = nn.Conv2d(6, 4, (3, 2), groups=2, bias=False).double()
    template = trace(layer, torch.randn(1, 6, 5, 5, dtype=torch.float64))
    graph = graph_of(template, layer.state_dict())
    source, target = graph["edge_index"]
    dense = torch.zeros(4, 6, 3, 2, dtype=torch.float64)
    taps = graph["edge_attr"][:, : GRID * GRID].view(-1, GRID, GRID)
    dense[target - 6, source] = taps[:, 2:5, 3:5]  # the kernel lies around the middle (3, 3)
    image = torch.randn(1, 6, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(F.conv2d(image, dense), layer(image))


def test_edges_of_the_blocked_layout_share_memory_with_the_weights():
    template, _ = traced(cnn())
    params = stack(template, 2)
    for block, edges in zip(template.blocks, blocked(template, params).edges, strict=True):
        assert edges.data_ptr() == params[block.name].data_ptr()


def test_a_permuted_net_has_the_same_graph_but_for_the_order_of_nodes():
    template, state = traced(cnn())
    permuted = template.symmetry.sample(torch.Generator().manual_seed(3))(state)
    graphs = [graph_of(template, one).widened() for one in (state, permuted)]
    nodes = [rows(graph["x"]) for graph in graphs]
    edges = [rows(graph["edge_attr"]) for graph in graphs]
    assert sorted(nodes[0]) == sorted(nodes[1])
    assert sorted(edges[0]) == sorted(edges[1])
    assert edges[0] != edges[1]  # something did move

    wrong = state | {"0.weight": state["0.weight"].flip(3)}  # taps never move
    assert sorted(rows(graph_of(template, wrong).widened()["edge_attr"])) != sorted(edges[0])


def rows(features: Tensor) -> list[tuple[float, ...]]:
    return [tuple(row) for row in features.tolist()]


def small(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), *layers, nn.Flatten(), nn.Linear(16, 2))


def leading_norm(eps: float = 1e-5) -> nn.Module:
    return small(nn.BatchNorm2d(4, eps), nn.MaxPool2d(2))


def conv(**settings) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Conv2d(2, 4, 3, **settings), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


COLLISIONS: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = {
    "activation": (lambda: small(nn.ReLU(), nn.MaxPool2d(2)), lambda: small(nn.Tanh(), nn.MaxPool2d(2))),
    "slope": (lambda: small(nn.LeakyReLU(0.1), nn.MaxPool2d(2)), lambda: small(nn.LeakyReLU(0.2), nn.MaxPool2d(2))),
    "gelu": (lambda: small(nn.GELU(), nn.MaxPool2d(2)), lambda: small(nn.GELU("tanh"), nn.MaxPool2d(2))),
    "pool": (lambda: small(nn.MaxPool2d(2)), lambda: small(nn.AvgPool2d(2))),
    "pool stride": (lambda: small(nn.MaxPool2d(3, 2, 1)), lambda: small(nn.MaxPool2d(3, 1))),
    "pool before activation": (
        lambda: small(nn.AvgPool2d(2), nn.ReLU()),
        lambda: small(nn.ReLU(), nn.AvgPool2d(2)),
    ),
    "padding counted": (
        lambda: small(nn.AvgPool2d(3, 2, 1)),
        lambda: small(nn.AvgPool2d(3, 2, 1, count_include_pad=False)),
    ),
    "eps": (lambda: leading_norm(), lambda: leading_norm(eps=1e-3)),
    "norm before activation": (
        lambda: small(nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)),
        lambda: small(nn.ReLU(), nn.BatchNorm2d(4), nn.MaxPool2d(2)),
    ),
    "stride": (conv(), conv(stride=2)),
    "dilation": (conv(padding=2), conv(padding=2, dilation=2)),
    "padding": (conv(padding=1), conv(padding=2)),
    "kernel": (
        lambda: nn.Sequential(nn.Conv2d(2, 4, (1, 3)), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        lambda: nn.Sequential(nn.Conv2d(2, 4, (3, 1)), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    ),
    "output size": (
        lambda: small(nn.AdaptiveAvgPool2d((1, 4))),
        lambda: small(nn.AdaptiveAvgPool2d((4, 1))),
    ),
}


def filled(module: nn.Module) -> nn.Module:
    """Equal numbers in equal shapes, so that only the architecture differs; norm statistics are not trivial."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return module.double()


def same_graph(one: nn.Module, other: nn.Module) -> bool:
    graphs = [graph_of(*traced(filled(module))).widened() for module in (one, other)]
    return all(
        graphs[0][name].shape == graphs[1][name].shape and torch.equal(graphs[0][name], graphs[1][name])
        for name in ("x", "edge_index", "edge_attr")
    )


@pytest.mark.parametrize("difference", COLLISIONS)
def test_different_functions_have_different_graphs(difference):
    one, other = COLLISIONS[difference]
    assert not same_graph(one(), other())
    assert same_graph(one(), one())


def test_running_statistics_are_in_the_graph():
    template, state = traced(leading_norm().double())
    changed = state | {"1.running_var": state["1.running_var"] + 1}
    assert not torch.equal(graph_of(template, state)["x"], graph_of(template, changed)["x"])


def test_networkx_gets_the_same_graph():
    template, state = traced(Residual().double())
    graph, pyg = template.to_networkx(state), template.graph(state)
    assert graph.number_of_nodes() == pyg.num_nodes
    assert graph.number_of_edges() == pyg.num_edges  # no kernel here is larger than the grid
    assert networkx.is_directed_acyclic_graph(graph)
    assert networkx.dag_longest_path_length(graph, weight=None) == max(depths(template)) == max(heights(template))
    last = graph.nodes[graph.number_of_nodes() - 1]
    assert (last["space"], last["place"], last["operations"]) == ("head", 1, ("bias",))
    assert last["bias"] == state["head.bias"][1].item()
    taps = [data["taps"] for *_, key, data in graph.edges(keys=True, data=True) if key == "first.weight"]
    assert taps == state["first.weight"].flatten(2).transpose(0, 1).flatten(0, 1).tolist()  # by source, then target


def test_flattening_links_keep_their_positions():
    template, state = traced(Residual().double())
    graph = graph_of(template, state)
    flat = graph.edge_type == EDGE_TYPES.index("flatten")
    slots = graph["edge_attr"][flat, : GRID * GRID].argmax(1).view(3, 16)
    assert torch.equal(slots, (torch.arange(2, 6)[:, None] * GRID + torch.arange(2, 6)).flatten().expand(3, -1))
    assert torch.equal(graph["edge_attr"][flat, : GRID * GRID].sum(1), torch.ones(48, dtype=torch.float64))


def test_graphs_follow_dtype_and_pass_over_counters():
    template, state = traced(cnn())
    assert "1.num_batches_tracked" in state
    single = graph_of(template, {name: t.float() if t.is_floating_point() else t for name, t in state.items()})
    assert {single[name].dtype for name in ("x", "edge_attr", "space_codes", "relation_codes", "u")} == {torch.float32}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda params: params.pop("0.weight"), r"missing 0\.weight"),
        (lambda params: params.update(extra=torch.zeros(2, 3)), r"unknown extra"),
        (lambda params: params.update({"7.bias": torch.zeros(2, 5)}), r"7\.bias: shape \[2, 5\].*\[2 nets, 3\]"),
        (lambda params: params.update({"7.bias": torch.zeros(1, 3)}), r"7\.bias: shape \[1, 3\]"),
    ],
)
def test_entries_that_do_not_fit_are_named(change, message):
    template, _ = traced(cnn())
    params = stack(template, 2)
    change(params)
    with pytest.raises(ValueError, match=message):
        blocked(template, params)


def test_a_link_without_edges_is_refused():
    template, _ = traced(cnn())
    params = stack(template, 1)
    with pytest.raises(ValueError, match=r"concatenate.*no edges for this link"):
        sparse(replace(template, links=(Link("concatenate", 0, 1),)), params)
    with pytest.raises(ValueError, match=r"2 sources cannot meet 4 targets"):
        sparse(replace(template, links=(Link("add", 0, 1),)), params)


def test_every_role_of_a_vector_reaches_its_column():
    template, state = traced(cnn())
    graph = graph_of(template, state)
    norm = next(i for i, space in enumerate(template.spaces) if len(space.vectors) == 5)
    own = graph["x"][graph["node_space"] == norm, :5]
    names = [template.spaces[norm].vectors[role] for role in VECTOR_ROLES[:5]]
    assert torch.equal(own, torch.stack([state[name] for name in names], dim=1))


def test_slots_and_layers_tell_every_tap_apart():
    for block in traced(cnn(side=16), 16)[0].blocks:
        places = torch.cat([tap_slots(block)[:, None], tap_layers(block)], dim=1)
        assert len(places.unique(dim=0)) == block.shape[2]


def test_the_codes_of_a_link_in_the_blocked_layout_are_those_of_its_edges_in_the_sparse_one():
    template, state = traced(Residual().double())
    graph = graph_of(template, state).widened()
    columns = range(len(TAP_COLUMNS) + BLOCK_CODES + 3)  # taps, codes, plane, row and column within the bin
    starts = torch.tensor([0, *(space.size for space in template.spaces)]).cumsum(0)
    for number, (link, ends, codes) in enumerate(
        zip(template.links, link_ends(template), link_edge_codes(template), strict=True), start=len(template.blocks)
    ):
        of_link = graph.edge_block == number
        sparse_ends = (graph["edge_index"][:, of_link].T - starts[[link.source, link.target]]).tolist()
        found = sorted(zip(sparse_ends, graph["edge_attr"][of_link][:, columns].tolist(), strict=True))
        shared, slots, bins = codes.double().split([BLOCK_CODES, GRID * GRID, 3], dim=1)
        assert found == sorted(zip(ends.tolist(), torch.cat([slots, shared, bins], 1).tolist(), strict=True))
    assert {link.kind for link in template.links} >= {"flatten", "add"}
