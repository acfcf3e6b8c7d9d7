"""arch_aware: learning rate and start of a ReLU network from its graph of layers.

    rate ~ (sum over paths p from input to output of L_p^3)^-1/2 / kernel,  L_p the layers with weights on path p
    variance of the weights on an edge / in-degree of the node that sums it

source: Chen et al. 2024, arXiv 2402.17440, and the authors' code; the rate is relative to one found on a base network
departs: the in-degree is that of the node an edge runs into, which keeps its sum's scale; the released code takes that
    of the node it comes from. The readout's smaller start is left to the model
catalogue: arch_aware_lr_init
"""

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import NamedTuple

Node = Hashable


class Edge(NamedTuple):
    """From a node to another by a number of layers with weights: 1 for a layer, 0 for a skip connection."""

    start: Node
    end: Node
    layers: int = 1


def path_depths(edges: Sequence[tuple]) -> dict[int, int]:
    """{layers on a path: number of such paths} from the one node that nothing enters to the one that nothing leaves.

    >>> path_depths([(0, 1), (1, 2), (1, 2, 0), (2, 3)])        # a residual branch between two layers
    {3: 1, 2: 1}
    """
    known = [Edge(*e) for e in edges]
    nodes = dict.fromkeys(n for e in known for n in (e.start, e.end))
    first, last = ([n for n in nodes if n not in {getattr(e, side) for e in known}] for side in ("end", "start"))
    if len(first) != 1 or len(last) != 1:
        raise ValueError(f"a graph with one input and one output, not inputs {first} and outputs {last}")
    found = {first[0]: Counter({0: 1})}
    waiting = [n for n in nodes if n != first[0]]
    while waiting:
        ready = [n for n in waiting if all(e.start in found for e in known if e.end == n)]
        if not ready:
            raise ValueError(f"the graph has a cycle through {waiting[0]!r}")
        for n in ready:
            found[n] = Counter()
            for e in known:
                if e.end == n:
                    found[n].update({depth + e.layers: k for depth, k in found[e.start].items()})
        waiting = [n for n in waiting if n not in found]
    return dict(found[last[0]])


def arch_rate(edges: Sequence[tuple], base: Sequence[tuple], kernel: int = 1, base_kernel: int = 1) -> float:
    """Factor on the learning rate that was found on base. kernel: side of the convolutions, 1 for none.

    >>> chain = lambda n: [(i, i + 1) for i in range(n)]
    >>> round(arch_rate(chain(12), chain(3)), 6)                 # (12 / 3)^-3/2
    0.125
    """
    cubes = lambda graph: sum(k * depth**3 for depth, k in path_depths(graph).items())
    if not cubes(edges) or not cubes(base):
        raise ValueError("no path has a layer with weights")
    return (cubes(edges) / cubes(base)) ** -0.5 * base_kernel / kernel


def arch_init(edges: Sequence[tuple]) -> list[float]:
    """Factor on the standard deviation of each edge's weights, Kaiming's 2 / fan_in otherwise; 1 for skips."""
    known = [Edge(*e) for e in edges]
    degree = Counter(e.end for e in known)
    return [degree[e.end] ** -0.5 if e.layers else 1.0 for e in known]
