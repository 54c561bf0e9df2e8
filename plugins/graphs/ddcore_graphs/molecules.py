"""Molecules: SMILES to graphs by RDKit, and the split by scaffold.

A node's nine whole numbers are what the Open Graph Benchmark tells of it (Hu et al., NeurIPS 2020, arXiv:2005.00687):
atomic number, chirality, degree with hydrogens, formal charge, hydrogens, radical electrons, hybridisation, aromatic,
in a ring; an edge's three: type of bond, stereo, conjugated. They are the numbers themselves and RDKit's own codes,
where OGB has positions in lists (atomic number less 1, charge plus 5). Hydrogens are not nodes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from rdkit import Chem, rdBase
from rdkit.Chem.Scaffolds.MurckoScaffold import MurckoScaffoldSmiles

from ddcore_graphs.graphs import Graphs, starts_of

ATOM_FEATURES, BOND_FEATURES = 9, 3
MOST_LETTERS = 4000
"""Of SMILES; the longest of the MoleculeNet collections have some 400. RDKit takes quadratic time and more."""
BONDS = (Chem.BondType.SINGLE, Chem.BondType.DOUBLE, Chem.BondType.TRIPLE, Chem.BondType.AROMATIC)


def parsed(smiles: str) -> Chem.Mol | None:
    """The molecule; None where RDKit cannot read it, it has no atoms, or it is longer than molecules are.

    >>> parsed("CCO").GetNumAtoms(), parsed("c1ccccc"), parsed("")
    (3, None, None)
    """
    if len(smiles) > MOST_LETTERS:
        return None
    with rdBase.BlockLogs():
        try:
            molecule = Chem.MolFromSmiles(smiles)
        except (ValueError, RuntimeError):  # RDKit's own errors; one that is not caught there is of its C++
            return None
    return molecule if molecule is not None and molecule.GetNumAtoms() else None


def as_graphs(molecules: Sequence[Chem.Mol]) -> Graphs:
    """Molecules as graphs: nodes in RDKit's order, each bond in both directions;
    a single atom is a node without edges."""
    nodes: list[Sequence[int]] = []
    ends: list[tuple[int, int]] = []
    bonds: list[Sequence[int]] = []
    node_counts: list[int] = []
    edge_counts: list[int] = []
    for molecule in molecules:
        at = len(nodes)
        nodes.extend(_atom(atom) for atom in molecule.GetAtoms())
        for bond in molecule.GetBonds():
            a, b = at + bond.GetBeginAtomIdx(), at + bond.GetEndAtomIdx()
            ends += [(a, b), (b, a)]
            bonds += [_bond(bond)] * 2
        node_counts.append(molecule.GetNumAtoms())
        edge_counts.append(2 * molecule.GetNumBonds())
    return Graphs(
        torch.tensor(nodes, dtype=torch.int16).reshape(-1, ATOM_FEATURES),
        torch.tensor(ends, dtype=torch.int64).reshape(-1, 2).T.contiguous(),
        torch.tensor(bonds, dtype=torch.uint8).reshape(-1, BOND_FEATURES),
        starts_of(torch.tensor(node_counts, dtype=torch.int64)),
        starts_of(torch.tensor(edge_counts, dtype=torch.int64)),
    )


def scaffold(molecule: Chem.Mol) -> str:
    """Its Murcko scaffold as SMILES, without chirality; empty for a molecule without rings."""
    with rdBase.BlockLogs():
        try:
            return str(MurckoScaffoldSmiles(mol=molecule, includeChirality=False))
        except (ValueError, RuntimeError):  # the rest of a molecule need not be one
            return ""


def scaffold_split(
    scaffolds: Sequence[str], shares: tuple[float, float] = (0.8, 0.1)
) -> tuple[list[int], list[int], list[int]]:
    """Train, validation and test positions; molecules of a scaffold stay together, large scaffolds go to train first.

    Scaffolds in order of size, of equal ones the one whose first molecule is later first (as DeepChem and OGB have it);
    each goes to train if it fits within the first share, else to validation if it fits within both, else to test.

    >>> scaffold_split(["a", "a", "b", "a", "c"], (0.6, 0.2))
    ([0, 1, 3], [4], [2])
    """
    groups = defaultdict(list)
    for at, name in enumerate(scaffolds):
        groups[name].append(at)
    train: list[int] = []
    valid: list[int] = []
    test: list[int] = []
    first, both = shares[0] * len(scaffolds), (shares[0] + shares[1]) * len(scaffolds)
    for group in sorted(groups.values(), key=lambda g: (len(g), g[0]), reverse=True):
        if len(train) + len(group) <= first:
            train += group
        elif len(train) + len(valid) + len(group) <= both:
            valid += group
        else:
            test += group
    return train, valid, test


def _atom(atom: Chem.Atom) -> tuple[int, ...]:
    return (
        atom.GetAtomicNum(),
        int(atom.GetChiralTag()),
        atom.GetTotalDegree(),
        atom.GetFormalCharge(),
        atom.GetTotalNumHs(),
        atom.GetNumRadicalElectrons(),
        int(atom.GetHybridization()),
        int(atom.GetIsAromatic()),
        int(atom.IsInRing()),
    )


def _bond(bond: Chem.Bond) -> tuple[int, ...]:
    kind = bond.GetBondType()
    place = BONDS.index(kind) if kind in BONDS else len(BONDS)
    return place, int(bond.GetStereo()), int(bond.GetIsConjugated())
