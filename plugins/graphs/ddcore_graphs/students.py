"""Message-passing students: GIN, GCN, GAT and GraphSAGE on graphs, and on sets of trees whose roots are pooled.

With L layers, a node of a graph and the root of its computation tree of H hops get the same embedding, dropout off and
batch norm by running statistics, if H >= L: GIN, GAT, GraphSAGE, and GCN with the degrees of the graph. GCN that counts
a tree's edges instead needs H >= L + 1, since the leaves of a tree have none. Jumping knowledge changes nothing about
it.

Shape letters: G graphs, V nodes, E edges, F features of a node, D features of an edge, W width, K classes.
"""

from __future__ import annotations

import warnings
from typing import Literal, cast

import torch
from attrs import frozen
from torch import Tensor, nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch_geometric scripts modules, which newer torch deprecates
    from torch_geometric.nn import GATConv, GCNConv, GINConv, GINEConv, SAGEConv

from ddcore_graphs import NETWORKS
from ddcore_graphs.graphs import Graphs

Pool = Literal["sum", "mean"]


@frozen
class Readout:
    """How node embeddings become a graph's: a pool over nodes, of the last layer's or of the sum of all layers'."""

    pool: Pool = "sum"
    jump: Literal["last", "sum"] = "last"


def gcn_edges(graphs: Graphs) -> tuple[Tensor, Tensor]:
    """Edges of a GCN layer with their weights 1 / sqrt(d_source d_target), d = degree + 1, self loops of weight 1 / d
    last.

    Returns:
        ``(2, E + V)`` int64 and ``(E + V,)`` float64.

    References:
        Kipf and Welling, ICLR 2017, arXiv:1609.02907, equation 2; the authors' OGB variant of Mirage adds the weight to
        the message where the paper multiplies, which is no GCN and not what a tree preserves.
    """
    degrees = graphs.in_degrees if graphs.degrees is None else graphs.degrees
    loops = torch.arange(len(graphs.nodes), device=graphs.nodes.device).expand(2, -1)
    edges = torch.cat([graphs.edges, loops], 1)
    return edges, (degrees + 1).double()[edges].rsqrt().prod(0)


class Norm(nn.BatchNorm1d):
    """Batch norm that lets a batch of one node through by its running statistics."""

    def forward(self, x: Tensor) -> Tensor:
        """(V, W) to (V, W)."""
        if len(x) > 1 or not self.training:
            return super().forward(x)
        return nn.functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


class Student(nn.Module):
    """L message-passing layers, a pool over nodes (of trees: over roots), a linear classifier.

    Node features go through a linear map as numbers, as in the authors' code. GIN adds mapped edge features to
    messages, GAT attends to them, GCN and GraphSAGE (mean of the neighbours beside the node, arXiv:1706.02216) do not
    see them.
    """

    def __init__(
        self,
        kind: Literal["gin", "gcn", "gat", "sage"],
        *,
        features: int,
        edge_features: int,
        classes: int,
        layers: int = 3,
        width: int = 128,
        dropout: float = 0.0,
        readout: Readout = Readout(),
    ) -> None:
        super().__init__()
        self.kind, self.pool, self.jump = kind, readout.pool, readout.jump
        self.encoder = nn.Linear(features, width)
        self.layers = nn.ModuleList([_layer(kind, width, edge_features) for _ in range(layers)])
        self.norms = nn.ModuleList([Norm(width) for _ in range(layers)])
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, classes)

    def nodes(self, graphs: Graphs) -> Tensor:
        """The embedding (V, W) of every node."""
        dtype = self.encoder.weight.dtype
        x: Tensor = self.encoder(graphs.nodes.to(dtype))
        edges: tuple[Tensor, ...] = (graphs.edges,)
        if self.kind == "gcn":
            ends, weights = gcn_edges(graphs)
            edges = (ends, weights.to(dtype))
        elif graphs.bonds.shape[1] and self.kind != "sage":
            edges = (graphs.edges, graphs.bonds.to(dtype))
        states = []
        for at, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            x = norm(layer(x, *edges))
            x = self.dropout(x if at == len(self.layers) - 1 else x.relu())
            states.append(x)
        return torch.stack(states).sum(0) if self.jump == "sum" else x

    def embed(self, graphs: Graphs) -> Tensor:
        """The pooled embedding (G, W) of every graph: sum or mean over its nodes,
        or over its roots if it has any marked."""
        x, graph_of = self.nodes(graphs), graphs.graph_of
        if graphs.roots is not None:
            x, graph_of = x[graphs.roots], graph_of[graphs.roots]
        pooled = x.new_zeros(len(graphs), x.shape[1]).index_add(0, graph_of, x)
        if self.pool == "mean":
            pooled = pooled / torch.bincount(graph_of, minlength=len(graphs)).clamp(min=1)[:, None]
        return pooled

    def forward(self, graphs: Graphs) -> Tensor:
        """Logits (G, K)."""
        logits: Tensor = self.head(self.embed(graphs))
        return logits


def _layer(kind: str, width: int, edge_features: int) -> nn.Module:
    if kind == "gin":
        inner = nn.Sequential(nn.Linear(width, 2 * width), Norm(2 * width), nn.ReLU(), nn.Linear(2 * width, width))
        return cast(
            "nn.Module",
            GINEConv(inner, train_eps=True, edge_dim=edge_features)
            if edge_features
            else GINConv(inner, train_eps=True),
        )
    if kind == "gcn":
        return cast("nn.Module", GCNConv(width, width, normalize=False))
    if kind == "gat":
        return cast("nn.Module", GATConv(width, width, edge_dim=edge_features or None, fill_value=0.0))
    if kind == "sage":
        return cast("nn.Module", SAGEConv(width, width))
    raise ValueError(f"no network is named {kind!r}: choose one of {', '.join(NETWORKS)}")
