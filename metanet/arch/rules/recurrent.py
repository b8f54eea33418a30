"""Recurrent layers. The state of the step before is a space of its own, so that the graph has no cycle.

Per layer and direction: gates of the input and gates of the state before, each gates x units, and links from both to
the new state, whose taps say which gate an edge comes from. The gates never move; their units move together. Where the
state is projected, the cell's units have a space of the step before too, and a permutation of their own.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn

from metanet.arch.axes import Factor, axis, concatenate, free
from metanet.arch.call import Call, Rule
from metanet.arch.rules.linear import biased, weigh
from metanet.arch.rules.parts import cat_of, taken
from metanet.arch.value import Value, draft_of

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


def _rule(kind: str) -> Rule:
    def recurrent(call: Call) -> list[Callable[[], Value]] | None:
        """aten.KIND(input [*, *, in], hx, params, has_biases, num_layers, ..., bidirectional, batch_first)."""
        initial = call["hx"] if isinstance(call["hx"], list) else [call["hx"]]
        if not all(map(_is_entry, call["params"])) or any(isinstance(one, Tensor) and one.any() for one in initial):
            return None  # step by step, as torch itself does it: a weight or a first state is computed
        x = call.alone(call.activation("input"), 2)
        directions = 1 + call["bidirectional"]
        per_cell = len(call["params"]) // (call["num_layers"] * directions)
        states: list[_State] = []
        for layer in range(call["num_layers"]):
            row = []
            for direction in range(directions):
                number = layer * directions + direction
                entries = call["params"][number * per_cell : (number + 1) * per_cell]
                row.append(_cell(call, kind, x, entries, [_part(call, one, number) for one in initial], direction))
            states += row
            x = row[0].output if len(row) == 1 else cat_of(call, [replace(one.output, shared=True) for one in row], 2)
        time = 1 if call["batch_first"] else 0
        outputs, cells = ([(one[part], k % directions) for k, one in enumerate(states)] for part in (0, 1))
        last = [lambda: _last(call, outputs, time, "identity")]
        if kind == "lstm":
            last.append(lambda: _last(call, cells, time, "cell"))
        return [lambda: x, *last]

    return recurrent


def _is_entry(value: Value | Tensor) -> bool:
    return isinstance(value, Value) and value.entry is not None


def _part(call: Call, initial: Value | Tensor, number: int) -> Value | Tensor:
    """The first state of one cell, of [cells, samples, units]."""
    if isinstance(initial, Tensor):
        return initial[number]
    one = taken(call, call.active(initial), 0, number, 1, 1)
    return replace(one, axes=one.axes[1:], shared=True)


class _State(NamedTuple):
    """What a layer gives at every step, and the cells behind it; one value unless the layer projects its state."""

    output: Value
    cells: Value


def _cell(
    call: Call, kind: str, x: Value, entries: Sequence[Value], initial: Sequence[Value | Tensor], reverse: int
) -> _State:
    gates, projection = GATES[kind], entries[-1] if len(entries) % 2 else None
    size, grid = entries[0].shape[0] // gates, x.shape[:2]
    units = free(size)
    before = memory = call.written(units, (*grid, size), (2,))
    if projection is not None:
        before = call.written(call.axis(projection, 0), (*grid, projection.shape[0]), (2,))
    for name, first, home in zip(("initial", "initial_cell"), initial, (before, memory), strict=False):
        _start(call, name, first, home)
    parts = []
    for number, source in enumerate((x, before)):
        rows = call.axis(entries[number], 0)
        call.equate(rows, axis(Factor(gates, fixed=True), units.segments[0].factors[0]))
        y = weigh(call, source, 2, entries[number], (*grid, gates * size))
        parts.append(biased(call, y, entries[2 + number]) if len(entries) > 3 else y)
    state = call.written(units, (*grid, size), (2,))
    for name, part in zip(("gates_of_input", "gates_of_state"), parts, strict=True):
        targets = np.arange(gates * size) % size
        places = np.arange(gates * size) // size
        attributes = {"taps": (gates,), "places": tuple(places.tolist())}
        call.link(name, part, state, targets=tuple(targets.tolist()), attributes=attributes)
    call.link("recurrent", memory, state)
    state = call.operate(state, kind, axes=(1 if call["batch_first"] else 0,), reverse=reverse)
    if projection is None:
        return _State(state, state)
    return _State(weigh(call, state, 2, projection, (*grid, projection.shape[0])), replace(state, shared=True))


def _start(call: Call, name: str, initial: Value | Tensor, before: Value) -> None:
    if isinstance(initial, Tensor):
        return  # zeros
    call.equate(call.channels(initial, 1), draft_of(before).type)
    initial = call.ordered(initial)
    call.link(name, initial, before, attributes={"layout": initial.layout(initial.axes[:1])})


def _last(call: Call, states: Sequence[tuple[Value, int]], time: int, kind: str) -> Value:
    """The states after the last step [cells, samples, units]: the nodes of all cells."""
    ends = []
    for state, reverse in states:
        one = taken(call, replace(state, shared=True), time, 0 if reverse else state.shape[time] - 1, 1, 1)
        ends.append(replace(one, axes=one.axes[:time] + one.axes[time + 1 :]))
    samples, size = ends[0].shape
    joined = call.written(concatenate([draft_of(one).type for one in ends]), (len(ends), samples, size), (0, 2))
    for number, one in enumerate(ends):
        targets = tuple(range(number * size, (number + 1) * size)) if len(ends) > 1 else ()
        call.link(kind, one, joined, targets=targets, attributes={"layout": one.layout(one.axes[:1])})
    return joined


class _Last(nn.Module):
    """A recurrent layer over the grid, and its last states."""

    def __init__(self, layer: Callable[..., nn.RNNBase], **settings: Any):
        super().__init__()
        self.layer = layer(4, 3, batch_first=True, **settings)

    def forward(self, x: Tensor) -> Tensor:
        y, states = self.layer(x.mT)
        states = states if isinstance(states, Tensor) else states[0] + states[1]
        return y + states[-1][:, None].repeat(1, 1, y.shape[2] // states.shape[2])


RULES: dict[str, Rule] = {f"aten.{kind}": _rule(kind) for kind in GATES}
OPERATIONS = dict.fromkeys(GATES, ("axes", "reverse"))
LINKS = ("recurrent", "gates_of_input", "gates_of_state", "initial", "initial_cell", "cell")
EXAMPLES = {
    "aten.lstm": ((4, 5), lambda: _Last(nn.LSTM, num_layers=2, bidirectional=True)),
    "aten.gru": ((4, 5), lambda: _Last(nn.GRU)),
    "aten.rnn_tanh": ((4, 5), lambda: _Last(nn.RNN)),
    "aten.rnn_relu": ((4, 5), lambda: _Last(nn.RNN, nonlinearity="relu", bias=False)),
}
