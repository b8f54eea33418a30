"""LSTM, GRU and RNN: torch's own, with the gates in torch's order."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from metanet.importers.onnx_files.call import Call, Value

GATES = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}  # torch's i f g o and r z n, by their places in the file
ACTIVATIONS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}


def recurrent(call: Call) -> list[Value]:
    """X [time, batch, in], W [directions, gates * units, in], R [..., units], B [directions, 2 * gates * units]."""
    kind, x = call.operator, call.active(0)
    directions = 2 if call.get("direction", "forward") == "bidirectional" else 1
    cell, units = _cell(call, directions), call.fixed(2)[0].shape[2]
    for place in (5, 6, 7):
        if call.given(place) and any(np.any(array) for array in call.fixed(place)):
            raise call.refuse("there is a rule for first states of 0 only, and none for peepholes")
    tensors = []
    for direction in range(directions):
        for place, name in ((1, "weight_ih"), (2, "weight_hh"), (3, "bias")):
            if not call.given(place):
                continue
            array = call.fixed(place)[0][direction]
            halves = [array] if place < 3 else np.split(array, 2)
            for half, part in zip(halves, ("_ih", "_hh") if place == 3 else ("",), strict=True):
                gates = np.split(half, len(GATES[kind]))
                torchs = np.concatenate([gates[gate] for gate in GATES[kind]])
                tensor = torch.from_numpy(np.ascontiguousarray(torchs))
                named = f"{name}{part}_{direction}"
                tensors.append(call.lowering.derived(call.inputs[place], named, tensor, call.where))
    more = {"bias": call.given(3), "bidirectional": directions == 2, "batch_first": False}
    result = call.step("recurrent", x, *tensors, kind=cell, **more)
    y = call.step("item", result, place=0)
    time = x.shape[0]
    y = call.step("reshape", y, shape=[time, -1, directions, units])
    found: list[Value] = [call.step("permute", y, axes=[0, 2, 1, 3])]
    found += [call.step("item", result, place=place) for place in range(1, call.outputs)]
    return found


def _cell(call: Call, directions: int) -> str:
    """torch's name of the cell, where torch has one that does the same."""
    wanted = ACTIVATIONS[call.operator] * directions
    names = [one.decode() if isinstance(one, bytes) else one for one in call.attributes.get("activations", wanted)]
    plain = call.get("direction", "forward") in ("forward", "bidirectional") and not call.given(4)
    same = plain and call.get("layout", 0) == 0 and "clip" not in call.attributes and not call.get("input_forget", 0)
    if not same or names != wanted:
        raise call.refuse("there is a rule for torch's cells only: forward or both ways, usual activations, no clip")
    if call.operator == "GRU" and not call.get("linear_before_reset", 0):
        raise call.refuse("there is a rule for linear_before_reset = 1 only")
    return {"LSTM": "lstm", "GRU": "gru", "RNN": "rnn_tanh"}[call.operator]


RULES: dict[str, Any] = dict.fromkeys(GATES, recurrent)
