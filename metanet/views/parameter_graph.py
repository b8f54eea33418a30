"""The sparse graph as PyG sees it: what is an edge's or a node's own lies on it, what a layer shares lies in a table.

A layer's edges share 90 numbers (kernel, stride, fans, ...), its nodes 330 (operations, eps, ...). Repeated on every
edge they would be most of a batch; here edges and nodes say by number which row of a table is theirs.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch_geometric.data import Data

from metanet.views.codes import position_bits

_TABLES = {"node_space": "space_codes", "edge_relation": "relation_codes"}  # numbers -> the table whose rows they count


class ParameterGraph(Data):
    """One net, or in a PyG Batch several of any architectures, as a graph.

    `x` [nodes, VECTOR_ROLES]; `node_space` [nodes], a row of `space_codes` [spaces, SPACE_COLUMNS]; `place` [nodes], of
    a node that is not exchangeable, else -1; `edge_index` [2, edges] (source, destination; sorted by destination);
    `edge_attr` [edges, TAP_COLUMNS]; `edge_relation` [edges], a row of `relation_codes` [relations, RELATION_COLUMNS],
    `relation_type` [relations] (place in EDGE_TYPES) and `relation_block` [relations] (number of the block, or after
    the blocks of the link); `u` [1, GRAPH_COLUMNS]. In a batch the numbers of spaces and relations count on from net to
    net, as those of nodes do; blocks count from 0 in each net.
    """

    def __inc__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        if key in _TABLES:
            return len(self[_TABLES[key]])
        return super().__inc__(key, value, *args, **kwargs)

    @property
    def edge_type(self) -> Int64[Tensor, " edges"]:
        """Place in EDGE_TYPES, as PyG's relational layers read it."""
        return self["relation_type"][self["edge_relation"]]

    @property
    def edge_block(self) -> Int64[Tensor, " edges"]:
        """Number of the block, or after the blocks of the link."""
        return self["relation_block"][self["edge_relation"]]

    def node_codes(self) -> Float[Tensor, "nodes codes"]:
        """SPACE_COLUMNS and the bits of the place, for every node.

        Raises:
            ValueError: a place of more bits than there are columns.
        """
        bits = position_bits(self["place"]).to(self["space_codes"])
        return torch.cat([self["space_codes"][self["node_space"]], bits], dim=1)

    def edge_codes(self) -> Float[Tensor, "edges codes"]:
        """RELATION_COLUMNS, for every edge."""
        return self["relation_codes"][self["edge_relation"]]

    def widened(self) -> ParameterGraph:
        """The same graph for layers that know of no tables: `x` [nodes, NODE_COLUMNS] and `edge_attr` [edges,
        EDGE_COLUMNS] hold everything. Several times larger.

        Raises:
            ValueError: as `node_codes`.
        """
        wide = self.clone()
        wide["x"] = torch.cat([self["x"], self.node_codes()], dim=1)
        wide["edge_attr"] = torch.cat([self["edge_attr"], self.edge_codes()], dim=1)
        return wide
