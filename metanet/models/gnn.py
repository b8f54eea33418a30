"""metanet's own metanetwork: message passing on the parameter graph, with a readout that sees distributions."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor, nn

from metanet.arch.template import VECTOR_ROLES, Block, Template
from metanet.blocks.heads import Heads
from metanet.blocks.pool import STATISTICS, pool
from metanet.blocks.transformer import TransformerLayer
from metanet.dataset import Batch, Nets, Schema
from metanet.normalise import Magnitudes, Standardise, signed_log
from metanet.views.graph import (
    BLOCK_CODES,
    GRID,
    LINK_EDGE_CODES,
    POSITION_CODES,
    SPACE_CODES,
    block_codes,
    blocked,
    fixed_positions,
    link_edge_codes,
    link_ends,
    space_codes,
    tap_layers,
    tap_slots,
)
from metanet.views.statistics import COLUMNS, LAYER_COLUMNS, layers, lined_up

INVARIANT = True

_ROLES = len(VECTOR_ROLES)


class GNN(nn.Module):
    """Message passing in both directions over typed edges, then a token per layer, then attention over the layers.

    A node reads its vectors (bias, norm, running statistics); an edge reads its taps, each as value over the tensor's
    root mean square, signed log-magnitude and log-magnitude, through a projection of its own for each place in the
    kernel. A layer's token pools its edges and nodes by mean, std, max and min, and adds facts: the exact statistics of
    its tensors (`metanet.views.statistics`), which a pooled embedding of a few numbers cannot hold. A small transformer
    reads the tokens in order of computation, and one head per target reads what comes out, beside the facts of the
    layers lined up.

    Related: Kofinas et al. 2024 (neural graphs: nodes are biases, edges kernels), Lim et al. 2024 (graph metanetworks,
    both directions), Corso et al. 2020 (several aggregators), Unterthiner et al. 2020 (weight statistics).

    The ablation switches are `log_magnitude`, `statistics`, `reverse_edges`, `edge_updates`, `distribution`, `depth`
    and `mixing` (layers of attention over tokens).
    """

    def __init__(
        self,
        schema: Schema,
        width: int = 64,
        edge_width: int = 32,
        depth: int = 3,
        token_width: int = 64,
        mixing: int = 2,
        dropout: float = 0.1,
        fact_dropout: float = 0.5,
        log_magnitude: bool = True,
        statistics: Iterable[str] = STATISTICS,
        reverse_edges: bool = True,
        edge_updates: bool = True,
        distribution: bool = True,
    ):
        super().__init__()
        self.statistics = tuple(statistics)
        self.distribution = distribution
        self.taps = Taps(edge_width, log_magnitude)
        node_features = 2 * _ROLES if log_magnitude else _ROLES
        self.log_magnitude = log_magnitude
        self.node_scale = Standardise(node_features)
        self.node_in = nn.Linear(node_features + SPACE_CODES + POSITION_CODES, width)
        self.block_in = nn.Linear(BLOCK_CODES + 1, edge_width)
        links = sorted({link.kind for template in schema.templates.values() for link in template.links})
        self.layers = nn.ModuleList(
            Layer(width, edge_width, self.statistics, reverse_edges, edge_updates, links) for _ in range(depth)
        )
        self.of_layers, self.of_net = Magnitudes(len(LAYER_COLUMNS)), Magnitudes(len(COLUMNS))
        self.drop_facts = nn.Dropout(fact_dropout)
        pooled = len(self.statistics) * (width + edge_width)
        self.token = nn.Sequential(
            nn.Linear(pooled + distribution * 2 * len(LAYER_COLUMNS) + SPACE_CODES + BLOCK_CODES + 1, token_width),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Linear(token_width, token_width),
        )
        self.mixer = nn.ModuleList(TransformerLayer(token_width, heads=4, dropout=dropout) for _ in range(mixing))
        read = 4 * token_width + len(self.statistics) * width
        self.norm = nn.LayerNorm(read)
        num_targets = len(schema.targets)
        self.trunks = nn.Sequential(
            nn.Linear(read + distribution * 2 * len(COLUMNS), num_targets * token_width),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Unflatten(1, (num_targets, token_width)),
        )
        self.heads = Heads(token_width, schema.targets)

    @torch.no_grad()
    def prepare(self, train: Iterable[Batch]) -> None:
        """Fits the normalisers on the training nets."""
        of_layers, of_net = [], []
        for batch in train:
            for nets in batch:
                for nodes in blocked(nets.template, nets.params).nodes:
                    self.node_scale.update(self.node_features(nodes))
                facts = self.known(nets)
                of_layers.append(facts.flatten(0, 1))
                of_net.append(lined_up(nets.template, facts))
        self.of_layers.fit(torch.cat(of_layers))
        self.of_net.fit(torch.cat(of_net))

    @torch.no_grad()
    def facts(self, nets: Nets) -> Float[Tensor, "nets blocks layer_columns"]:
        """The statistics of the tensors of every layer; NaN where a layer has no such tensor."""
        return layers(nets.template, nets.params).to(nets.params[nets.template.blocks[0].name])

    def known(self, nets: Nets) -> Float[Tensor, "nets blocks layer_columns"]:
        return self.facts(nets) if nets.facts is None else nets.facts

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return self.heads(self.trunks(torch.cat([self.summary(nets) for nets in batch])))

    def node_features(self, nodes: Float[Tensor, "nets size roles"]) -> Float[Tensor, "nets size features"]:
        if not self.log_magnitude:
            return nodes.clamp(-10, 10)
        logs = signed_log(nodes)
        return torch.cat([logs, logs.abs()], -1)

    def summary(self, nets: Nets) -> Float[Tensor, "nets features"]:
        """What the trunks read of nets of one architecture: the mixed layer tokens and, past them, the facts."""
        template = nets.template
        view = blocked(template, nets.params)
        reference = view.nodes[0]
        spaces, codes = (code(template, reference.device).to(reference) for code in (space_codes, block_codes))
        sizes = [root_mean_square(weights) for weights in view.edges]
        nodes = [
            self.node_in(torch.cat([self.node_scale(self.node_features(x)), expand(code, x), expand(place, x)], -1))
            for x, code, place in zip(
                view.nodes, spaces[:, None], (p.to(reference) for p in fixed_positions(template)), strict=True
            )
        ]
        typed = [  # [nets, codes + 1] per block: its attributes, and the size that normalisation took out
            torch.cat([expand(code, size[:, None]), size.add(1e-6).log10()[:, None]], -1)
            for code, size in zip(codes, sizes, strict=True)
        ]
        kinds = [self.block_in(x) for x in typed]
        edges = [
            self.taps(weights, size, block)
            for weights, size, block in zip(view.edges, sizes, template.blocks, strict=True)
        ]
        for layer in self.layers:
            nodes, edges = layer(template, nodes, edges, kinds)
        facts = self.known(nets) if self.distribution else None
        told = None if facts is None else self.drop_facts(self.of_layers(facts))
        tokens = []
        for index, block in enumerate(template.blocks):
            parts = [
                pool(edges[index], (1, 2), self.statistics),
                pool(nodes[block.target], (1,), self.statistics),
                expand(spaces[block.target], typed[index]),
                typed[index],
            ]
            if told is not None:
                parts.append(told[:, index])
            tokens.append(self.token(torch.cat(parts, -1)))
        mixed = torch.stack(tokens, 1)
        for mixer in self.mixer:
            mixed = mixer(mixed, mixed.new_ones(mixed.shape[:2], dtype=torch.bool))
        every_node = pool(torch.cat(nodes, 1), (1,), self.statistics)
        summary = self.norm(torch.cat([mixed.mean(1), mixed.amax(1), mixed[:, 0], mixed[:, -1], every_node], -1))
        if facts is None:
            return summary
        return torch.cat([summary, self.drop_facts(self.of_net(lined_up(template, facts)))], -1)


class Taps(nn.Module):
    """An edge's taps to its embedding: each place of the centre-aligned kernel grid has a projection of its own."""

    def __init__(self, edge_width: int, log_magnitude: bool):
        super().__init__()
        self.log_magnitude = log_magnitude
        features = 3 if log_magnitude else 1
        self.weight = nn.Parameter(torch.randn(GRID * GRID, features, edge_width) * features**-0.5)
        self.within = nn.Parameter(torch.randn(3, features, edge_width) * 0.1)  # for taps that share a slot

    def forward(
        self, weights: Float[Tensor, "nets out in taps"], size: Float[Tensor, " nets"], block: Block
    ) -> Float[Tensor, "nets out in edge_width"]:
        features = [weights / (size + 1e-12)[:, None, None, None]]
        if self.log_magnitude:
            logs = signed_log(weights)
            features += [logs, logs.abs()]
        slots, layers = tap_slots(block, weights.device), tap_layers(block, weights.device)
        shift = torch.tensordot(layers.to(weights.dtype), self.within, dims=1)
        projection = (self.weight[slots] + shift) * len(slots) ** -0.5  # [taps, features, edge_width]
        stacked = torch.stack(features, -1).flatten(-2)  # [nets, out, in, taps * features]
        return stacked @ projection.flatten(0, 1)


class Layer(nn.Module):
    """One round of messages along and against every edge, with an update of nodes and edges.

    m_ij = SiLU(A x_i + B x_j + C e_ij + type);  x_i += MLP[x_i, pool_j m_ij, pool_k m_ki];  e_ij += D m_ij.
    """

    def __init__(
        self,
        width: int,
        edge_width: int,
        statistics: tuple[str, ...],
        reverse: bool,
        edge_updates: bool,
        links: Iterable[str],
    ):
        super().__init__()
        self.statistics, self.reverse, self.width = statistics, reverse, width
        self.norm = nn.LayerNorm(width)
        self.ends = nn.Linear(width, 2 * edge_width, bias=False)  # A and B
        self.edge = nn.Linear(edge_width, edge_width)
        self.links = nn.ModuleDict({kind: nn.Linear(width, width, bias=False) for kind in links})
        self.link_in = nn.Linear(LINK_EDGE_CODES, width, bias=False)
        pooled = len(statistics) * edge_width
        self.along = nn.Linear(pooled, width, bias=False)
        self.against = nn.Linear(pooled, width, bias=False) if reverse else None
        self.update = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))
        self.edge_update = nn.Linear(edge_width, edge_width, bias=False) if edge_updates else None

    def forward(
        self, template: Template, nodes: list[Tensor], edges: list[Tensor], kinds: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        normed = [self.norm(x) for x in nodes]
        ends = [self.ends(x).chunk(2, -1) for x in normed]
        inbox = list(normed)
        new_edges = []
        for block, e, kind in zip(template.blocks, edges, kinds, strict=True):
            g = block.groups  # an output of group k reads the inputs of group k only
            to = rearrange(ends[block.target][0], "n (g o) d -> n g o 1 d", g=g)
            come = rearrange(ends[block.source][1], "n (g i) d -> n g 1 i d", g=g)
            e_typed = self.edge(e) + kind[:, None, None]
            messages = nn.functional.silu(rearrange(e_typed, "n (g o) i d -> n g o i d", g=g) + to + come)
            along = pool(messages, (3,), self.statistics)
            inbox[block.target] = inbox[block.target] + self.along(rearrange(along, "n g o d -> n (g o) d"))
            if self.against is not None:
                against = pool(messages, (2,), self.statistics)
                inbox[block.source] = inbox[block.source] + self.against(rearrange(against, "n g i d -> n (g i) d"))
            if self.edge_update is not None:
                e = e + self.edge_update(rearrange(messages, "n g o i d -> n (g o) i d"))
            new_edges.append(e)
        device = nodes[0].device
        for link, ends, codes in zip(
            template.links, link_ends(template, device), link_edge_codes(template, device), strict=True
        ):
            if link.kind not in self.links:
                raise ValueError(
                    f"the net has a link {link.kind!r} from {template.spaces[link.source].name} to "
                    f"{template.spaces[link.target].name}; this gnn was trained on nets without such links"
                )
            source, target = ends.T
            carried = self.links[link.kind](normed[link.source])[:, source] + self.link_in(codes.to(normed[0]))
            inbox[link.target] = inbox[link.target].index_add(1, target, carried)
        return [x + self.update(message) for x, message in zip(nodes, inbox, strict=True)], new_edges


def root_mean_square(weights: Float[Tensor, "nets out in taps"]) -> Float[Tensor, " nets"]:
    """Of each net's tensor; scaled by its largest weight first, so that no finite weight overflows."""
    largest = reduce(weights.abs(), "n o i t -> n", "max")
    unit = weights / (largest + 1e-12)[:, None, None, None]
    return largest * reduce(unit.square(), "n o i t -> n", "mean").sqrt()


def expand(code: Float[Tensor, "... codes"], like: Float[Tensor, "... width"]) -> Float[Tensor, "... codes"]:
    """One code for every net and node of `like`."""
    return code.expand(*like.shape[:-1], -1)
