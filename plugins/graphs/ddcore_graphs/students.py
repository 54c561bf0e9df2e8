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
class Form:
    """What a student is like beside its kind and size.

    Attributes:
        pool: of node embeddings, how they become a graph's.
        jump: which node embeddings: the last layer's or the sum of all layers'.
        norm: ``batch`` after each layer and within GIN's, or ``none`` at all.
        raw: features go into the first layer as they are, GIN's is ``ConcatenatingGIN``, GAT does not see bonds, and
            the pooled embedding is dropped out too. Else a linear map comes before the layers, GIN adds mapped bonds
            to its messages and GAT attends to them.
    """

    pool: Pool = "sum"
    jump: Literal["last", "sum"] = "last"
    norm: Literal["batch", "none"] = "batch"
    raw: bool = False


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


class ConcatenatingGIN(nn.Module):
    """GIN whose messages are made of a neighbour and the bond to it side by side.

        x'_v = MLP((1 + eps) A x_v + sum_{u -> v} ReLU(M [x_u, B e_uv]))

    Args:
        features, edge_features: of a node and a bond; without the latter messages are ReLU(M x_u).
    """

    def __init__(self, inner: nn.Module, features: int, edge_features: int, width: int) -> None:
        super().__init__()
        self.inner, self.eps = inner, nn.Parameter(torch.zeros(1))
        self.own = nn.Linear(features, width)
        self.bond = nn.Linear(edge_features, width) if edge_features else None
        self.message = nn.Linear(features + (width if edge_features else 0), width)

    def forward(self, x: Tensor, edges: Tensor, bonds: Tensor | None = None) -> Tensor:
        """(V, F) to (V, W)."""
        sent = x[edges[0]]
        if self.bond is not None:
            sent = torch.cat([sent, self.bond(bonds)], 1)
        own = self.own(x)
        received = torch.zeros_like(own).index_add(0, edges[1], self.message(sent).relu())
        made: Tensor = self.inner((1 + self.eps) * own + received)
        return made


class Student(nn.Module):
    """L message-passing layers, a pool over nodes (of trees: over roots), a linear classifier.

    Node features are numbers, and go through a linear map first unless the form is raw. GIN and GAT see edge features
    as ``Form`` says, GCN and GraphSAGE (mean of the neighbours beside the node, arXiv:1706.02216) do not see them.
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
        form: Form = Form(),
    ) -> None:
        super().__init__()
        self.kind, self.pool, self.jump = kind, form.pool, form.jump
        self.encoder = nn.Identity() if form.raw else nn.Linear(features, width)
        sees = edge_features if kind == "gin" or (kind == "gat" and not form.raw) else 0
        self.sees_bonds = bool(sees)
        seen = [features if form.raw and not at else width for at in range(layers)]
        self.layers = nn.ModuleList([_layer(kind, n, width, sees, form) for n in seen])
        self.norms = nn.ModuleList([_norm(width, form) for _ in range(layers)])
        self.dropout = nn.Dropout(dropout)
        self.pooled_dropout = nn.Dropout(dropout if form.raw else 0.0)
        self.head = nn.Linear(width, classes)

    def nodes(self, graphs: Graphs) -> Tensor:
        """The embedding (V, W) of every node."""
        dtype = self.head.weight.dtype
        x: Tensor = self.encoder(graphs.nodes.to(dtype))
        edges: tuple[Tensor, ...] = (graphs.edges,)
        if self.kind == "gcn":
            ends, weights = gcn_edges(graphs)
            edges = (ends, weights.to(dtype))
        elif self.sees_bonds:
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
        logits: Tensor = self.head(self.pooled_dropout(self.embed(graphs)))
        return logits


def _norm(width: int, form: Form) -> nn.Module:
    return Norm(width) if form.norm == "batch" else nn.Identity()


def _layer(kind: str, features: int, width: int, edge_features: int, form: Form) -> nn.Module:
    """A layer of ``features`` to ``width`` that sees ``edge_features`` of bonds, 0 for none."""
    made: object
    if kind == "gin":
        first = width if form.raw else features
        inner = nn.Sequential(
            nn.Linear(first, 2 * width), _norm(2 * width, form), nn.ReLU(), nn.Linear(2 * width, width)
        )
        if form.raw:
            made = ConcatenatingGIN(inner, features, edge_features, width)
        elif edge_features:
            made = GINEConv(inner, train_eps=True, edge_dim=edge_features)
        else:
            made = GINConv(inner, train_eps=True)
    elif kind == "gcn":
        made = GCNConv(features, width, normalize=False)
    elif kind == "gat":
        made = GATConv(features, width, edge_dim=edge_features or None, fill_value=0.0)
    elif kind == "sage":
        made = SAGEConv(features, width)
    else:
        raise ValueError(f"no network is named {kind!r}: choose one of {', '.join(NETWORKS)}")
    return cast("nn.Module", made)
