"""Bytes that a GPU sends on each link (and receives as many): collectives as rings.

A ring of n ranks that sums or gathers S bytes (a reduce-scatter, or an all-gather) sends (n-1)/n S from each rank to its
neighbour; an all-reduce is both, 2 (n-1)/n S. Where p of the ring's ranks stand in each node, p-1 of p of these sends stay
inside the node (NVLink) and one goes over the network; there are as many rings as GPUs in a node, so that they share the
node's network cards, and a GPU's own sends divide likewise.

A step (E: elements of all parameters; G: ranks of a shard group; R: groups; M: micro-batches):
  ZeRO-0  all-reduce of 4E bytes over all ranks
  ZeRO-1  reduce-scatter of 4E in the shard group, all-reduce of 4E/G over the replicas, all-gather of the parameters
  ZeRO-2  the same with M reduce-scatters: one for each micro-batch
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """Ranks k*group ... k*group + group-1 are a shard group; ranks of equal place in their group are replicas."""

    gpus: int
    per_node: int
    zero: int
    group: int  # 1 with ZeRO-0

    @property
    def replicas(self) -> int:
        return self.gpus // self.group


@dataclass(frozen=True)
class Ring:
    size: int
    inside: int  # of its ranks in each node

    def bytes(self, whole: float) -> tuple[float, float]:
        """(over NVLink, over the network) of one pass, for each rank."""
        sent = (self.size - 1) / self.size * whole
        network = sent / self.inside if self.size > self.inside else 0.0
        return sent - network, network


def ring(size: int, stride: int, per_node: int) -> Ring:
    """Of ranks 0, stride, 2 stride, ...; one of stride and per_node divides the other."""
    return Ring(size, min(size, max(1, per_node // stride)))


@dataclass(frozen=True)
class Collective:
    name: str  # reduce, replicas, gather
    ring: Ring
    passes: int  # round the ring: 2 for an all-reduce
    whole: float  # bytes of each pass
    times: int  # a step

    def bytes(self) -> tuple[float, float]:
        """A step's."""
        nvlink, network = self.ring.bytes(self.whole)
        return nvlink * self.passes * self.times, network * self.passes * self.times


def collectives(layout: Layout, elements: int, parameter_bytes: int, micro_batches: int) -> list[Collective]:
    """Of a step; those of one rank are left out. parameter_bytes: of one element as it is gathered."""
    shard = ring(layout.group, 1, layout.per_node)
    replica = ring(layout.replicas, layout.group, layout.per_node)
    each = micro_batches if layout.zero == 2 and layout.group > 1 else 1
    found = [
        Collective("reduce", shard, 1, 4.0 * elements, each),
        Collective("replicas", replica, 2, 4.0 * elements / layout.group, 1),
        Collective("gather", shard, 1, float(parameter_bytes) * elements, 1),
    ]
    return [c for c in found if c.ring.size > 1]


def total(found: list[Collective]) -> tuple[float, float]:
    return sum(c.bytes()[0] for c in found), sum(c.bytes()[1] for c in found)
