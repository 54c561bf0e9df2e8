"""The smallest method on graphs: real graphs of each class, whose node features move to where the class's mean features
are.

For each class, over its nodes and over what their neighbours send them,

    L = sum_c || mean_v x_v - mean_real ||^2 + || mean_v sum_{u -> v} x_u - mean_real ||^2

Edges stay. It uses ddcore and ddcore_graphs only: the contract kit tries plugins on graphs with it, and it is a page to
begin a method from. ``--plugin-path`` of this file runs it.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from attrs import frozen
from attrs.validators import ge, gt
from torch import Tensor

from ddcore import Learn, Loss, Plugin, Row, Synthetic, Task, hookimpl, option
from ddcore_graphs.graphs import Graphs
from ddcore_graphs.packing import DECODER, as_synthetic, pack_graphs, unpack_graphs
from ddcore_graphs.rows import rows, stored_samples
from ddcore_graphs.sources import GRAPHS

if TYPE_CHECKING:
    from ddcore import Run


def mean_features(nodes_VF: Tensor, edges_2E: Tensor) -> Tensor:
    """Mean over nodes of their features, then of the sum of what their neighbours send: (2 F,)."""
    received = torch.zeros_like(nodes_VF).index_add(0, edges_2E[1], nodes_VF[edges_2E[0]])
    return torch.cat([nodes_VF.mean(0), received.mean(0)])


@frozen(kw_only=True, eq=False)
class GraphProbe(Plugin):
    """Match mean node features of graphs, class by class."""

    api: ClassVar[str] = "2.0"
    summary: ClassVar[str] = "matches mean node features of graphs, to try plugins and ideas on"
    paper: ClassVar[str] = "none: part of ddcore-graphs"
    role: ClassVar[str] = "matcher"
    modality: ClassVar[frozenset[str]] = frozenset({GRAPHS})
    packs: ClassVar[tuple[str, ...]] = ("graphs",)
    steps: ClassVar[int | None] = 20
    learns: ClassVar[tuple[str, ...]] = ("features",)
    tiny: ClassVar[Mapping[str, object]] = {"graphs": 2}

    graphs: int = option(5, help="graphs of each class", unit="graphs", validator=ge(1))
    lr: float = option(0.5, help="learning rate of node features", unit="a step", validator=gt(0))

    @hookimpl
    def ddcore_tasks(self, run: "Run") -> list[Task]:
        """All classes at once."""
        return [Task("distil", "features", run.plan.steps)]

    @hookimpl
    def ddcore_learn(self, task: Task, run: "Run") -> Learn:
        """Node features of random graphs of each class; what stands still is stored as it is packed."""
        real, labels = _real(run)
        each = []
        for cls in range(len(run.source.classes)):
            own = (labels == cls).nonzero()[:, 0]
            each.append(own[torch.randperm(len(own), generator=run.generator("probe", "graphs", cls))[: self.graphs]])
        index = torch.cat(each)
        packed = pack_graphs(real.select(index), labels[index])
        nodes = packed["node_rows"][packed["node"].long()].to(run.device, run.dtype).requires_grad_()
        packed |= {"node_rows": nodes, "node": torch.arange(len(nodes))}
        optimizer = torch.optim.SGD([nodes], lr=self.lr)
        target = torch.stack([_means(real, labels, cls, run.dtype) for cls in range(len(each))])
        return Learn(packed, {"features": optimizer}, fixed={"target": target.to(run.device)}, decoder=DECODER)

    @hookimpl
    def ddcore_matching_loss(self, learn: Learn, run: "Run") -> Iterator[Loss]:
        """The squared distance of each class's means."""
        packed = {name: tensor.detach().cpu() for name, tensor in learn.tensors.items()}
        graphs, classes = unpack_graphs(packed)
        owner, nodes = classes[graphs.graph_of].to(run.device), learn.tensors["node_rows"]
        edges = graphs.edges.to(run.device)
        for cls, target in enumerate(learn.fixed["target"]):
            there, inside = (owner == cls).nonzero()[:, 0], owner[edges[0]] == cls
            moved = torch.searchsorted(there, edges[:, inside])
            yield Loss((mean_features(nodes[there], moved) - target).square().sum())

    @hookimpl
    def ddcore_assemble(self, tasks: Sequence[Task], results: Sequence[Mapping[str, Tensor]], run: "Run") -> Synthetic:
        """The graphs with their new features."""
        return as_synthetic(results[0], run)

    @hookimpl
    def ddcore_evaluate(self, run: "Run") -> list[Row]:
        """The pack's rows."""
        return rows(run, stored_samples(run), described=f"{self.graphs} graphs a class, features learned")


def _real(run: "Run") -> tuple[Graphs, Tensor]:
    train = run.source.train
    return train.stored, train.labels  # type: ignore[return-value]


def _means(graphs: Graphs, labels: Tensor, cls: int, dtype: torch.dtype) -> Tensor:
    own = graphs.select((labels == cls).nonzero()[:, 0])
    return mean_features(own.nodes.to(dtype), own.edges)
