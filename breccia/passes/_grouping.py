"""Which ops share a kernel: greedy fusion in program order, with a convexity check by reachability bitsets.

Every op that computes joins the kernel of one of its producers where that is legal and leaves no path out of the kernel
and back in. Ops that cost nothing to repeat (constants, positions, widening conversions, the transpose of a matmul
operand) belong to no kernel: each kernel that reads one has its own copy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from xdsl.dialects.func import ReturnOp
from xdsl.ir import Attribute, Block, Operation, SSAValue

from breccia.ir.attributes import IntsAttr
from breccia.ir.dims import Dim
from breccia.ir.ops import (
    AmaxFromHistoryOp,
    AssembleOp,
    BinaryOp,
    BroadcastOp,
    ConcatOp,
    ConvertLayoutOp,
    ConvertOp,
    DequantizeOp,
    FullOp,
    GroupedMatmulOp,
    HistoryUpdateOp,
    IotaOp,
    MatmulOp,
    PartsOp,
    QuantizeOp,
    ReduceOp,
    ReshapeOp,
    SelectOp,
    SliceOp,
    TransposeOp,
    UnaryOp,
)
from breccia.ir.types import ScaledType, TensorType, format_of
from breccia.passes._folding import GUARD
from breccia.passes.fuse_sibling_quantize import GROUP

Kind = Literal["gemm", "grouped", "rowwise", "reduce", "view"]
VIEWS = (TransposeOp, ReshapeOp, SliceOp, ConcatOp, BroadcastOp, PartsOp, AssembleOp, ConvertLayoutOp)
PRODUCTS = (MatmulOp, GroupedMatmulOp)
ELEMENTWISE = (UnaryOp, BinaryOp, SelectOp, ConvertOp)
ALONE = (HistoryUpdateOp, AmaxFromHistoryOp)
LARGEST_EPILOGUE_BLOCK = 256
"""Longest block of a quantization that is fused into a gemm: a tile must hold whole blocks."""


@dataclass(eq=False)
class Node:
    """A kernel to be, or a view, which stays between kernels.

    space: shape that all of a kernel's values broadcast to. reduced: reduced axes, counted from the end, if any.
    open: whether more ops may join. mask: this node's bits; ancestors: bits of all nodes that it depends on.
    """

    kind: Kind
    mask: int
    space: tuple[Dim, ...] = ()
    reduced: frozenset[int] | None = None
    open: bool = True
    ops: list[Operation] = field(default_factory=list[Operation])
    ancestors: int = 0
    producers: set[Node] = field(default_factory=set["Node"])
    has_users: bool = False


class Grouping:
    """The nodes of one function's body. `node_of` gives the node of every op but the repeated ones."""

    def __init__(self, block: Block) -> None:
        self.position = {op: i for i, op in enumerate(block.ops)}
        self.repeated: set[Operation] = set()
        self._users: dict[Operation, tuple[Operation, ...]] = {}
        for op in reversed(list(self.position)):
            if self._is_repeated(op):
                self.repeated.add(op)
        self._owner = self._exclusive_producers()
        self._node: dict[Operation, Node] = {}
        self._nodes: list[Node] = []
        self._by_owner: dict[Operation, Node] = {}
        self._by_label: dict[Attribute, Node] = {}
        for op in self.position:
            if op not in self.repeated and not isinstance(op, ReturnOp):
                self._assign(op)

    def node_of(self, op: Operation) -> Node | None:
        return self._node.get(op)

    def nodes(self) -> list[Node]:
        """All nodes, with their ops in program order, in an order in which every node follows what it depends on."""
        import heapq

        live = [n for n in self._nodes if n.ops]
        for node in live:
            node.ops.sort(key=self.position.__getitem__)
        waiting = {n: len(n.producers) for n in live}
        users: dict[Node, list[Node]] = {n: [] for n in live}
        for node in live:
            for producer in node.producers:
                users[producer].append(node)
        place = {n: self.position[n.ops[-1]] for n in live}
        by_place = {place[n]: n for n in live}
        ready = [place[n] for n in live if not waiting[n]]
        heapq.heapify(ready)
        out: list[Node] = []
        while ready:
            node = by_place[heapq.heappop(ready)]
            out.append(node)
            for user in users[node]:
                waiting[user] -= 1
                if not waiting[user]:
                    heapq.heappush(ready, place[user])
        assert len(out) == len(live), "kernels are convex, so that they can be ordered"
        return out

    # ---- repeated ops ----------------------------------------------------------------------------------------------

    def _is_repeated(self, op: Operation) -> bool:
        """True for an op that every kernel which reads it repeats. Users are known to be repeated, or not, before."""
        users = [use.operation for r in op.results for use in r.uses]
        if not users:
            return False
        if isinstance(op, FullOp | IotaOp):
            return all(isinstance(u, (*ELEMENTWISE, ReduceOp, QuantizeOp)) for u in users)
        if isinstance(op, ConvertOp) and _widens(op):
            return all(not isinstance(u, (*VIEWS, ReturnOp)) or u in self.repeated for u in users)
        return isinstance(op, TransposeOp) and _swaps_last(op) and all(isinstance(u, PRODUCTS) for u in users)

    def users(self, op: Operation) -> tuple[Operation, ...]:
        """The ops that read a result of `op`, directly or through a repeated op."""
        if op not in self._users:
            found: dict[Operation, None] = {}
            for result in op.results:
                for use in result.uses:
                    further = self.users(use.operation) if use.operation in self.repeated else (use.operation,)
                    found.update(dict.fromkeys(further))
            self._users[op] = tuple(found)
        return self._users[op]

    def _sources(self, op: Operation) -> Iterator[Operation]:
        """The ops that `op` reads, directly or through repeated ops."""
        for operand in op.operands:
            owner = operand.owner
            if isinstance(owner, Operation):
                if owner in self.repeated:
                    yield from self._sources(owner)
                else:
                    yield owner

    # ---- ops that belong to what reads them --------------------------------------------------------------------------

    def _exclusive_producers(self) -> dict[Operation, Operation]:
        """For elementwise ops read by one reduction alone, and conversions read by one product alone, that reader."""
        owner: dict[Operation, Operation] = {}
        for op in reversed(list(self.position)):
            if isinstance(op, (ReduceOp, *PRODUCTS)):
                owner[op] = op
                continue
            if op in self.repeated:
                continue
            owners = {owner.get(u) for u in self.users(op)}
            reader = owners.pop() if len(owners) == 1 else None
            if reader is None or not self._feeds(op, reader):
                continue
            owner[op] = reader
        return owner

    def _feeds(self, op: Operation, reader: Operation) -> bool:
        if self.position[op] > self.position[reader]:
            return False
        if isinstance(reader, ReduceOp):
            same = isinstance(op, ELEMENTWISE) and shape_of(op.results[0]) == shape_of(reader.args[0])
            return same and not (isinstance(op, ConvertOp) and not _widens(op))
        if isinstance(op, ConvertOp) and not _widens(op):
            # Whoever computes the value writes it narrow; what is in memory already is narrowed on load.
            source = op.args[0].owner
            return not isinstance(source, Operation) or isinstance(source, (*VIEWS, DequantizeOp))
        return isinstance(op, ConvertOp | DequantizeOp)

    # ---- one op after the other --------------------------------------------------------------------------------------

    def _assign(self, op: Operation) -> None:
        producers = {self._node[s] for s in self._sources(op)}
        if isinstance(op, VIEWS):
            self._join(self._new("view", op, is_open=False), op, producers)
            return
        owner = self._owner.get(op)
        if owner is not None and (isinstance(owner, PRODUCTS) or _sweeps(owner)):
            if owner not in self._by_owner:
                self._by_owner[owner] = self._new(_kind(owner), owner, is_open=False)
            node = self._by_owner[owner]
            node.open = op is owner and isinstance(owner, PRODUCTS)
            self._join(node, op, producers)
            return
        node = self._candidate(op, producers)
        if node is None:
            node = self._new("rowwise", op, is_open=not isinstance(op, ALONE))
        self._join(node, op, producers)
        label = op.attributes.get(GROUP)
        if label is not None:
            self._by_label.setdefault(label, node)
        for other in [p for p in producers if p in node.producers]:
            if self._may_merge(other, node):
                self._merge(other, node)

    def _new(self, kind: Kind, op: Operation, *, is_open: bool) -> Node:
        node = Node(kind, 1 << len(self._nodes), space_of(op), open=is_open)
        self._nodes.append(node)
        return node

    def _candidate(self, op: Operation, producers: set[Node]) -> Node | None:
        """The node that `op` joins: gemms first, since their result then never reaches memory, then the newest one."""
        found = sorted(producers, key=lambda n: (n.kind in ("gemm", "grouped"), n.mask), reverse=True)
        label = op.attributes.get(GROUP)
        if label in self._by_label:
            found.append(self._by_label[label])
        for node in found:
            leaves = any(p is not node and p.ancestors & node.mask for p in producers)
            if node.open and not leaves and self._may_join(op, node):
                return node
        return None

    def _may_join(self, op: Operation, node: Node) -> bool:
        if node.kind in ("gemm", "grouped"):
            if shape_of(op.results[0]) != node.space or isinstance(self._owner.get(op), ReduceOp):
                return False
            if isinstance(op, QuantizeOp):
                guarded = any(GUARD in member.attributes for member in node.ops)
                return _fits_tile(op, node) and not guarded  # a row's quick codes would need its exact ones beside them
            return isinstance(op, ELEMENTWISE)
        if node.kind != "rowwise" or isinstance(op, ALONE):
            return False
        reduced = _reduced(op)
        if reduced is not None and node.reduced not in (None, reduced):
            return False
        return _same_rows(node.space, space_of(op), node.reduced or reduced or frozenset())

    def _join(self, node: Node, op: Operation, producers: Iterable[Node]) -> None:
        node.ops.append(op)
        self._node[op] = node
        if node.kind == "rowwise":
            node.space = _union(node.space, space_of(op))
            node.reduced = node.reduced or _reduced(op)
        self._depend(node, [p for p in producers if p is not node])

    def _depend(self, node: Node, producers: Sequence[Node]) -> None:
        node.producers.update(producers)
        bits = 0
        for producer in producers:
            producer.has_users = True
            bits |= producer.ancestors | producer.mask
        if bits & ~node.ancestors:
            node.ancestors |= bits
            self._tell_users(node)

    def _tell_users(self, node: Node) -> None:
        """Whoever depends on `node` depends on its ancestors."""
        if node.has_users:
            for other in self._nodes:
                if other.ancestors & node.mask:
                    other.ancestors |= node.ancestors

    # ---- joining two kernels -----------------------------------------------------------------------------------------

    def _may_merge(self, producer: Node, node: Node) -> bool:
        if producer.kind != "rowwise" or not producer.open or not node.open:
            return False
        if any(p is not producer and p.ancestors & producer.mask for p in node.producers):
            return False
        if self._is_absorbed(producer, node):
            return True
        if node.kind != "rowwise" or (node.reduced and producer.reduced and node.reduced != producer.reduced):
            return False
        return _same_rows(node.space, producer.space, node.reduced or producer.reduced or frozenset())

    def _is_absorbed(self, producer: Node, node: Node) -> bool:
        """True where only `node` reads what some elementwise ops make, such as a bias: it can make it itself."""
        cheap = all(isinstance(op, ELEMENTWISE) for op in producer.ops)
        if not cheap or not _broadcasts(producer.space, node.space):
            return False
        return all(self._node.get(user) in (producer, node) for op in producer.ops for user in self.users(op))

    def _merge(self, producer: Node, node: Node) -> None:
        for op in producer.ops:
            self._node[op] = node
        small, large = sorted((producer.ops, node.ops), key=len)
        large.extend(small)
        node.ops, producer.ops = large, []
        node.mask |= producer.mask
        node.has_users |= producer.has_users
        if node.kind == "rowwise":
            node.space = _union(node.space, producer.space)
            node.reduced = node.reduced or producer.reduced
        node.producers |= producer.producers
        node.producers -= {producer, node}
        node.ancestors = (node.ancestors | producer.ancestors) & ~node.mask
        for other in self._nodes:
            if producer in other.producers:
                other.producers.remove(producer)
                if other is not node:
                    other.producers.add(node)
        for label, labelled in self._by_label.items():
            if labelled is producer:
                self._by_label[label] = node
        self._tell_users(node)


# ---- shapes ----------------------------------------------------------------------------------------------------------


def shape_of(value: SSAValue) -> tuple[Dim, ...]:
    type_ = value.type
    assert isinstance(type_, TensorType | ScaledType), f"values are arrays, not {type_}"
    return type_.shape


def space_of(op: Operation) -> tuple[Dim, ...]:
    """The shape that an op walks: what it reads for a reduction, else what it makes."""
    return shape_of(op.operands[0]) if isinstance(op, ReduceOp) else shape_of(op.results[0])


def _axes(op: ReduceOp) -> tuple[int, ...]:
    axes = op.properties["axes"]
    assert isinstance(axes, IntsAttr), "the verifier holds reduce to a list of axes"
    return axes.data


def _reduced(op: Operation) -> frozenset[int] | None:
    if not isinstance(op, ReduceOp):
        return None
    rank = len(shape_of(op.args[0]))
    return frozenset(axis - rank for axis in _axes(op))


def _sweeps(op: Operation) -> bool:
    """True for a reduction that is more than rows: of a whole tensor, or along other axes than the last."""
    if not isinstance(op, ReduceOp):
        return False
    shape, axes = shape_of(op.args[0]), _axes(op)
    last = len(shape) - 1
    many = [i for i, size in enumerate(shape) if size != 1]
    whole = len(many) > 1 and set(many) <= set(axes)
    return whole or (last not in axes and shape[last] != 1)


def _kind(owner: Operation) -> Kind:
    if isinstance(owner, MatmulOp):
        return "gemm"
    if isinstance(owner, GroupedMatmulOp):
        return "grouped"
    assert isinstance(owner, ReduceOp), "owners are products and reductions"
    return "reduce" if len(_axes(owner)) == len(shape_of(owner.args[0])) else "rowwise"


def _at(shape: Sequence[Dim], axis: int) -> Dim:
    """The size of an axis counted from the end; 1 for one that is not there."""
    return shape[axis] if -axis <= len(shape) else 1


def _same_rows(a: Sequence[Dim], b: Sequence[Dim], reduced: frozenset[int]) -> bool:
    """True where the axes that are cut into tiles agree, and the whole ones broadcast."""
    for axis in range(-max(len(a), len(b)), 0):
        x, y = _at(a, axis), _at(b, axis)
        whole = axis == -1 or axis in reduced
        if x != y and not (whole and 1 in (x, y)):
            return False
    return True


def _broadcasts(small: Sequence[Dim], large: Sequence[Dim]) -> bool:
    return len(small) <= len(large) and all(_at(small, i) in (1, _at(large, i)) for i in range(-len(large), 0))


def _union(a: Sequence[Dim], b: Sequence[Dim]) -> tuple[Dim, ...]:
    rank = max(len(a), len(b))
    return tuple(_at(b, i) if _at(a, i) == 1 else _at(a, i) for i in range(-rank, 0))


def _widens(op: ConvertOp) -> bool:
    """True for a conversion that makes values larger in memory and loses nothing."""
    source, target = format_of(op.args[0].type.dtype), format_of(op.out.type.dtype)  # type: ignore[attr-defined]
    if target is None or target.bits < 32:
        return False
    return source is None or source.bits < target.bits


def _swaps_last(op: TransposeOp) -> bool:
    order = op.properties["order"]
    assert isinstance(order, IntsAttr), "the verifier holds transpose to a permutation"
    rank = len(order.data)
    return rank >= 2 and order.data == (*range(rank - 2), rank - 1, rank - 2)


def _fits_tile(op: QuantizeOp, node: Node) -> bool:
    """True where every scale that the op finds itself belongs to a block that fits into a tile of the result."""
    type_ = op.out.type
    assert isinstance(type_, ScaledType), "quantize gives a scaled tensor"
    given = op.properties.get("given")
    known = given.data if isinstance(given, IntsAttr) else ()
    needs_range = type_.recipe.zero_point is not None or type_.recipe.offset is not None
    for level, block in enumerate(type_.recipe.blocks(type_.rank)):
        if level in known and not needs_range:
            continue
        for axis, (size, b) in enumerate(zip(type_.shape, block, strict=True)):
            if size != 1 and (b is None or b > LARGEST_EPILOGUE_BLOCK):
                return False
            if node.kind == "grouped" and axis == 0 and b != 1:
                return False  # groups start at any row, so a block of rows could belong to two
    return True
