"""Laying out a graph in layers, from top to bottom: pure geometry.

Each node stands below all that come before it. An edge that crosses layers gets a place in each of them, as if it were
a narrow node, so that it runs around the nodes between. The order within a layer follows the middle of the neighbours,
swept down and up a few times, which leaves few crossings.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

__all__ = ["Layout", "laid_out"]

_SWEEPS = 6
_GAP = 24.0
_LAYER = 84.0
_BEND = 12.0
"""How wide the place is that an edge has in a layer."""

_Node = tuple[str, int]
"""A node of the graph at layer -1, or the place of the edge with that number (as text) in a layer."""


class Layout(NamedTuple):
    """Where everything stands.

    Args:
        - width: of the whole
        - height: of the whole
        - places: of each node the middle, as (x, y)
        - routes: of each edge the points that it runs through, from the middle of one node to that of another
    """

    width: float
    height: float
    places: dict[str, tuple[float, float]]
    routes: list[list[tuple[float, float]]]


def laid_out(widths: Mapping[str, float], edges: Sequence[tuple[str, str]]) -> Layout:
    """Lay out a graph without cycles.

    Args:
        - widths: the nodes, each after all that come before it, and how wide they are
        - edges: pairs of nodes
    """
    layer_of = _layers(widths, edges)
    chains = [_chain(number, edge, layer_of) for number, edge in enumerate(edges)]
    layers = _filled(layer_of, chains)
    width_of = {node: widths[node[0]] if node[1] < 0 else _BEND for layer in layers for node in layer}
    before, after = _neighbours(chains)
    _order(layers, before, after)
    x = _columns(layers, width_of, before, after)
    left = min((x[node] - width_of[node] / 2 for node in x), default=0.0)
    right = max((x[node] + width_of[node] / 2 for node in x), default=0.0)
    y = {node: row * _LAYER + _LAYER / 2 for row, layer in enumerate(layers) for node in layer}
    where = {node: (x[node] - left + _GAP, y[node]) for node in x}
    return Layout(
        right - left + 2 * _GAP,
        len(layers) * _LAYER,
        {name: where[name, -1] for name in widths},
        [[where[node] for node in chain] for chain in chains],
    )


def _layers(widths: Mapping[str, float], edges: Sequence[tuple[str, str]]) -> dict[str, int]:
    upstream: dict[str, list[str]] = {name: [] for name in widths}
    for first, second in edges:
        upstream[second].append(first)
    found: dict[str, int] = {}
    for name in widths:
        found[name] = max((found[one] + 1 for one in upstream[name]), default=0)
    return found


def _chain(number: int, edge: tuple[str, str], layer_of: Mapping[str, int]) -> list[_Node]:
    first, second = edge
    between = range(layer_of[first] + 1, layer_of[second])
    return [(first, -1), *((str(number), layer) for layer in between), (second, -1)]


def _filled(layer_of: Mapping[str, int], chains: Sequence[Sequence[_Node]]) -> list[list[_Node]]:
    layers: list[list[_Node]] = [[] for _ in range(max(layer_of.values(), default=-1) + 1)]
    for name, layer in layer_of.items():
        layers[layer].append((name, -1))
    for chain in chains:
        for node in chain[1:-1]:
            layers[node[1]].append(node)
    return layers


def _neighbours(chains: Sequence[Sequence[_Node]]) -> tuple[dict[_Node, list[_Node]], dict[_Node, list[_Node]]]:
    before: dict[_Node, list[_Node]] = {}
    after: dict[_Node, list[_Node]] = {}
    for chain in chains:
        for first, second in itertools.pairwise(chain):
            after.setdefault(first, []).append(second)
            before.setdefault(second, []).append(first)
    return before, after


def _order(layers: list[list[_Node]], before: Mapping[_Node, list[_Node]], after: Mapping[_Node, list[_Node]]) -> None:
    place = {node: float(position) for layer in layers for position, node in enumerate(layer)}
    for sweep in range(_SWEEPS):
        neighbours, rows = (before, layers) if sweep % 2 == 0 else (after, layers[::-1])
        for layer in rows:
            layer.sort(key=lambda node: _middle(place, neighbours.get(node), place[node]))
            place.update({node: float(position) for position, node in enumerate(layer)})


def _columns(
    layers: Sequence[Sequence[_Node]],
    width_of: Mapping[_Node, float],
    before: Mapping[_Node, list[_Node]],
    after: Mapping[_Node, list[_Node]],
) -> dict[_Node, float]:
    x: dict[_Node, float] = {}
    for layer in layers:
        _spread(layer, dict.fromkeys(layer, 0.0), width_of, x)
    for sweep in range(_SWEEPS):
        neighbours, rows = (before, layers) if sweep % 2 == 0 else (after, layers[::-1])
        for layer in rows:
            wanted = {node: _middle(x, neighbours.get(node), x[node]) for node in layer}
            _spread(layer, wanted, width_of, x)
    return x


def _spread(
    layer: Sequence[_Node], wanted: Mapping[_Node, float], width_of: Mapping[_Node, float], x: dict[_Node, float]
) -> None:
    """Put the nodes of a layer near to where they want to be, in their order, side by side."""
    right = float("-inf")
    for node in layer:
        x[node] = max(wanted[node], right + width_of[node] / 2)
        right = x[node] + width_of[node] / 2 + _GAP
    if layer:  # what was pushed to the right is shared by all
        shift = sum(wanted[node] - x[node] for node in layer) / len(layer)
        for node in layer:
            x[node] += shift


def _middle(place: Mapping[_Node, float], neighbours: Sequence[_Node] | None, otherwise: float) -> float:
    return sum(place[node] for node in neighbours) / len(neighbours) if neighbours else otherwise
