"""Operators that read several activations together: sums, products, gates, matrix products, einsum, attention.

Every axis of an operand has a letter, as in einsum. Letters are cut until each runs along nodes or along positions.
Letters of nodes that the same operands hold form a class with one permutation; a class has a permutation per place of
another where the operands of that one hold it too: in q k^T the channels of a head, which q and k hold, depend on the
head, which the result holds besides.

In the graph the result's nodes are linked from the operands' nodes. Where nodes are summed over (the channels of q and
k), the products have nodes of their own and a link to their sum: it shows which channel of q meets which of k.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import numpy as np
from torch import Tensor

from metanet.arch import homes
from metanet.arch.axes import Axis, Factor, axis, fixed, merge, renumber, select
from metanet.arch.call import Call
from metanet.arch.layout import REPEAT, Dim, Misaligned, expand, refine
from metanet.arch.value import Value, draft_of

Sub = tuple[str, int]  # a letter, and the number of a part of it
OUT = -1


@dataclass(eq=False)
class _Term:
    """An operand, and the dims along which it walks for each part of a letter."""

    value: Value
    letters: str
    fixed: bool = False  # a constant
    dims: dict[Sub, Dim] = field(default_factory=dict)


def combine(
    call: Call, kinds: Sequence[str], operands: Sequence[Value | Tensor], letters: Sequence[str] = (), out: str = ""
) -> Value:
    """The value whose numbers are sums of products (or other pairwise functions) of the operands' numbers.

    `letters` names the axes of each operand, `out` those of the result; letters that are not in `out` are summed over.
    By default axes meet from the last on, as in broadcasting. `kinds` are the links from each operand.
    """
    if not letters:
        letters, out = _broadcast([len(one.shape) for one in operands])
    terms = [_term(call, one, names) for one, names in zip(operands, letters, strict=True)]
    every = "".join(dict.fromkeys(out + "".join(letters)))
    try:
        parts, sizes = _parts(terms, every)
    except Misaligned:
        terms = [replace(term, value=call.settled(term.value), dims={}) for term in terms]
        parts, sizes = _parts(terms, every)
    _decide(call, terms, out)
    terms, nodes = _met(call, terms)
    parts, sizes = _parts(terms, every)
    kept = [sub for letter in out for sub in parts[letter]]
    for letter in out:
        if any(sub in nodes for sub in parts[letter]):
            nodes |= {sub for sub in parts[letter] if not any(sub in term.dims for term in terms)}
    classes = _classes(terms, [sub for subs in parts.values() for sub in subs if sub in nodes], kept)
    axes = _types(call, terms, classes, sizes)
    call.scope(*axes.values())
    call.scope(*(one for signature, one in axes.items() if OUT in signature))
    summed = [sub for subs in parts.values() for sub in subs if sub in nodes and sub not in kept]
    contracted = [sub for subs in parts.values() for sub in subs if sub not in nodes and sub not in kept]
    several = bool(summed) and len(terms) > 1 and not call.record.types_only
    product = _write(call, parts, out, nodes, sizes, classes, axes, summed if several else [])
    grid = [sub for sub in kept if sub in nodes] + summed
    inner = math.prod(sizes[sub] for sub in summed)
    targets = tuple((np.arange(math.prod(sizes[sub] for sub in grid)) // inner).tolist())
    for kind, term in zip(kinds, terms, strict=True):
        sources = term.value.node_numbers([term.dims.get(sub) for sub in grid], [sizes[sub] for sub in grid])
        layout = _layout(term, parts, out, nodes, contracted)
        ends = {"targets": targets} if summed and not several else {}
        call.link(kind, term.value, product, nodes=sources, attributes={"layout": layout}, **ends)
    if not several:
        return product
    result = _write(call, parts, out, nodes, sizes, classes, axes, [])
    call.link("sum", product, result, targets=targets)
    return result


def _broadcast(ranks: Sequence[int]) -> tuple[list[str], str]:
    out = "".join(chr(ord("a") + k) for k in range(max(ranks)))
    return [out[len(out) - rank :] for rank in ranks], out


def _term(call: Call, operand: Value | Tensor, letters: str) -> _Term:
    if isinstance(operand, Tensor):
        one = call.constant(operand)
        return _Term(replace(one, axes=expand(one.axes, operand.shape)), letters, fixed=True)
    return _Term(call.active(operand), letters)


def _parts(terms: Sequence[_Term], letters: str) -> tuple[dict[str, list[Sub]], dict[Sub, int]]:
    """Cuts every letter so finely that it is one dim in each operand, and writes the dims into the terms.

    The parts of every letter, and their sizes.
    """
    parts: dict[str, list[Sub]] = {}
    sizes: dict[Sub, int] = {}
    for letter in letters:
        meet = [(term, term.value.axes[term.letters.index(letter)]) for term in terms if letter in term.letters]
        long = [(term, dims) for term, dims in meet if dims]
        rows = refine([dims for _, dims in long])
        parts[letter] = [(letter, number) for number in range(len(rows[0]) if rows else 0)]
        for (term, _), row in zip(long, rows, strict=True):
            sizes |= {(letter, k): dim.size for k, dim in enumerate(row)}
            term.dims |= {(letter, k): dim for k, dim in enumerate(row) if dim.axis != REPEAT}
    return parts, sizes


def _decide(call: Call, terms: Sequence[_Term], out: str) -> None:
    """What is undecided has nodes where the other operands have them.

    A parameter beside which nothing is known has nodes as `guess` says. Other axes that it alone holds become nodes if
    the walk is to raise them.
    """
    known = [term for term in terms if draft_of(term.value).undecided is None]
    nodes = {sub for term in known for sub, dim in term.dims.items() if term.value.is_node(dim)}
    for term in terms:
        entry = draft_of(term.value).entry
        beside = [other for other in known if not other.fixed and not term.dims.keys().isdisjoint(other.dims)]
        held = {sub for other in terms if other is not term and not other.fixed for sub in other.dims}
        own = {dim.axis for sub, dim in term.dims.items() if sub not in held and sub[0] in out}
        raised = homes.raised(call.record, term.value, own)
        if not beside and (not known or entry is not None):
            raised += homes.guessed(term.value)
        call.decide(term.value, raised + [dim.axis for sub, dim in term.dims.items() if sub in nodes])


def _met(call: Call, terms: list[_Term]) -> tuple[list[_Term], set[Sub]]:
    """The operands, whose positions are nodes where they meet nodes of others, and the parts that run along nodes.

    Raised axes that meet positions become positions instead.
    """
    while True:
        nodes = {sub for term in terms for sub, dim in term.dims.items() if term.value.is_node(dim)}
        free = [term for term in terms if not term.fixed]
        clash = {sub for term in free for sub, dim in term.dims.items() if sub in nodes and not term.value.is_node(dim)}
        if not clash:
            return terms, nodes
        lying = [homes.lain(call, t.value, [t.letters.index(k) for k, _ in clash if k in t.letters]) for t in terms]
        if all(value is term.value for value, term in zip(lying, terms, strict=True)):
            letters = {letter for letter, _ in nodes}
            lying = [
                call.turned(term.value, [k for k, name in enumerate(term.letters) if name in letters])
                if not term.fixed and any(sub in clash and not term.value.is_node(d) for sub, d in term.dims.items())
                else term.value
                for term in terms
            ]
        terms = [replace(term, value=value, dims={}) for term, value in zip(terms, lying, strict=True)]
        _parts(terms, "".join(dict.fromkeys("".join(term.letters for term in terms))))


def _classes(terms: Sequence[_Term], nodes: Sequence[Sub], kept: Sequence[Sub]) -> dict[frozenset[int], list[Sub]]:
    """The parts of letters that run along nodes, by the operands that hold them."""
    classes: dict[frozenset[int], list[Sub]] = {}
    for sub in nodes:
        held = {number for number, term in enumerate(terms) if sub in term.dims} | ({OUT} if sub in kept else set())
        classes.setdefault(frozenset(held), []).append(sub)
    return classes


def _types(
    call: Call, terms: Sequence[_Term], classes: dict[frozenset[int], list[Sub]], sizes: dict[Sub, int]
) -> dict[frozenset[int], Axis]:
    """An axis per class, equated with what every operand holds of it."""
    factors = {signature: Factor(math.prod(sizes[sub] for sub in subs)) for signature, subs in classes.items()}
    for inner, factor in factors.items():
        factor.keys = [other for outer, other in factors.items() if outer > inner]
    axes = {signature: axis(factor) for signature, factor in factors.items()}
    for number, term in enumerate(terms):
        held = [signature for signature in classes if number in signature]
        call.chosen(term.value)
        if term.fixed:
            call.pin(*(axes[signature] for signature in held))
        elif held:
            subs = [sub for signature in held for sub in classes[signature]]
            taken = term.value.node_numbers([term.dims[sub] for sub in subs], [sizes[sub] for sub in subs])
            mine = select(draft_of(term.value).type, taken.reshape(-1))
            call.equate(mine, merge([axes[signature] for signature in held]))
            call.scope(mine)
    return axes


def _write(
    call: Call,
    parts: dict[str, list[Sub]],
    out: str,
    nodes: set[Sub],
    sizes: dict[Sub, int],
    classes: dict[frozenset[int], list[Sub]],
    axes: dict[frozenset[int], Axis],
    summed: Sequence[Sub],
) -> Value:
    """A new space: a home axis per run of nodes or positions on an axis, and behind them what will be summed over."""
    runs: list[tuple[list[Sub], bool]] = []  # the home's axes, and whether they are nodes
    rows: list[tuple[Dim, ...]] = []
    for letter in out:
        first = len(runs)
        for is_node, run in groupby(parts[letter], key=nodes.__contains__):
            runs.append((list(run), is_node))
        extents = [math.prod(sizes[sub] for sub in run) for run, _ in runs[first:]]
        rows.append(tuple(Dim(first + k, 1, size) for k, size in enumerate(extents)))
        runs += [([], False)] * (len(runs) == first)
    runs += [([sub], True) for sub in summed]
    grid = [sub for run, is_node in runs if is_node for sub in run]
    held = [signature for signature in classes if OUT in signature or summed]
    order = [sub for signature in held for sub in classes[signature]]
    type_ = fixed(1)
    if grid:
        shape = tuple(sizes[sub] for sub in grid)
        to = np.arange(math.prod(shape)).reshape(shape).transpose([grid.index(sub) for sub in order]).reshape(-1)
        type_ = renumber(merge([axes[signature] for signature in held]), to)
    extents = [math.prod(sizes[sub] for sub in run) for run, _ in runs]
    value = call.written(type_, extents, tuple(k for k, (_, is_node) in enumerate(runs) if is_node))
    return replace(value, axes=tuple(rows))


def _layout(term: _Term, parts: dict[str, list[Sub]], out: str, nodes: set[Sub], contracted: Sequence[Sub]) -> str:
    """How the operand walks through its positions for those of the result, and for those that are summed over."""
    letters = [
        [term.dims[sub] for sub in parts[letter] if sub in term.dims]
        for letter in out
        if not any(sub in nodes for sub in parts[letter]) or any(sub not in nodes for sub in parts[letter])
    ]
    words = term.value.layout([*letters, *([term.dims[sub]] if sub in term.dims else [] for sub in contracted)])
    return f"{words or 'same'} sum {len(contracted)}" if contracted else words
