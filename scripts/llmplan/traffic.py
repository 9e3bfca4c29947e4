"""The bytes that a GPU sends on each link (it receives as many), with collectives as rings.

In a ring of n ranks that reduces or gathers S bytes (reduce-scatter or all-gather), each rank sends (n-1)/n S to its neighbour;
an all-reduce does both and sends 2 (n-1)/n S. If p of the ring's ranks are in each node, p-1 out of p sends stay inside the node
(NVLink) and one goes over the network. There are as many rings as GPUs in a node, so that all network cards of the node are
used, and what each GPU sends divides in the same way.

In a step (E: elements of all parameters; G: ranks in a shard group; M: micro-batches):
  ZeRO-0  all-reduce of 4E bytes over all ranks
  ZeRO-1  reduce-scatter of 4E in the shard group, all-reduce of 4E/G over the replicas, all-gather of the parameters
  ZeRO-2  the same, with one reduce-scatter for each of the M micro-batches
With gradients in bf16, 2 bytes in place of 4; but for reducing each rank sends each other one its part, of which (n-p)/n goes
over the network, and not 1/p of (n-1)/n.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """Ranks k*group ... k*group + group-1 form a shard group; ranks at the same place in their groups are replicas."""

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
    inside: int  # how many of its ranks are in each node

    def bytes(self, whole: float) -> tuple[float, float]:
        """Bytes that each rank sends in one pass: (over NVLink, over the network)."""
        sent = (self.size - 1) / self.size * whole
        network = sent / self.inside if self.size > self.inside else 0.0
        return sent - network, network

    def each_to_each(self, whole: float) -> tuple[float, float]:
        return (self.inside - 1) / self.size * whole, (self.size - self.inside) / self.size * whole


def ring(size: int, stride: int, per_node: int) -> Ring:
    """The ring of ranks 0, stride, 2 stride, ...; `stride` divides `per_node` or the reverse."""
    return Ring(size, min(size, max(1, per_node // stride)))


@dataclass(frozen=True)
class Collective:
    name: str  # reduce, replicas, gather
    ring: Ring
    passes: int  # around the ring: 2 for an all-reduce
    whole: float  # bytes in each pass
    times: int  # per step
    each_to_each: bool = False  # the first pass is no ring

    def bytes(self) -> tuple[float, float]:
        """Bytes of a step: (over NVLink, over the network)."""
        ring = self.ring.bytes(self.whole)
        first = self.ring.each_to_each(self.whole) if self.each_to_each else ring
        nvlink, network = (f + (self.passes - 1) * r for f, r in zip(first, ring))
        return nvlink * self.times, network * self.times


def collectives(layout: Layout, elements: int, parameter_bytes: int, micro_batches: int, bf16_gradients: bool) -> list[Collective]:
    """The collectives of a step, without those of a single rank. `parameter_bytes` is the size of a gathered element."""
    shard = ring(layout.group, 1, layout.per_node)
    replica = ring(layout.replicas, layout.group, layout.per_node)
    each = micro_batches if layout.zero == 2 and layout.group > 1 else 1
    gradients = (2.0 if bf16_gradients else 4.0) * elements
    found = [
        Collective("reduce", shard, 1, gradients, each, bf16_gradients),
        Collective("replicas", replica, 2, gradients / layout.group, 1, bf16_gradients),
        Collective("gather", shard, 1, float(parameter_bytes) * elements, 1),
    ]
    return [c for c in found if c.ring.size > 1]


def total(found: list[Collective]) -> tuple[float, float]:
    return sum(c.bytes()[0] for c in found), sum(c.bytes()[1] for c in found)
