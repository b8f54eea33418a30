"""What a picture says in words: lines under the title, and titles, labels and facts of boxes and bands."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from metanet.arch.draw_fold import Fold
from metanet.arch.template import Block, Link, Operation, Template

CHARACTER = 7.2  # width of a character of the 12 px labels, in px
LONGEST_TITLE = 30  # characters; the whole name is among the facts


def notes(template: Template) -> tuple[str, ...]:
    nodes = sum(space.size for space in template.spaces)
    edges = sum(block.shape[0] * block.shape[1] for block in template.blocks)
    return (
        f"{template.num_params:,} parameters · {nodes:,} nodes · {edges:,} edges",
        f"10^{template.symmetry.log10_order:,.1f} permutations leave the function unchanged",
    )


def box_texts(template: Template, fold: Fold, number: int) -> tuple[str, str, str, dict[str, str]]:
    """Kind, title, second line and facts."""
    members = fold.spaces[number]
    if len(members) == 1:
        space = template.spaces[members[0]]
        steps = " → ".join(_operation_text(o) for o in space.operations if o.kind != "bias")
        kind = space.role if space.role in ("input", "output") else "hidden"
        return kind, f"{_short(space.name)} · {space.size:,}", _short(steps, 44), _space_facts(template, members[0])
    last = template.spaces[members[-1]]
    inside = fold.inside.get(number, [])
    weights = sum(math.prod(join.shape) for join in inside if isinstance(join, Block))
    steps = Counter(o.kind for i in members for o in template.spaces[i].operations if o.kind != "bias")
    facts = {
        "module": fold.names[number],
        "spaces": f"{len(members):,}",
        "channels at its end": f"{last.size:,}",
        "weights inside": f"{weights:,}",
        "blocks inside": _counted(Counter(join.kind for join in inside if isinstance(join, Block))),
        "links inside": _counted(Counter(join.kind for join in inside if isinstance(join, Link))),
        "steps": _counted(steps),
    }
    title = f"{_short(fold.names[number])} · {last.size:,}"
    return "folded", title, f"{len(members)} spaces · {weights:,} weights", {k: v for k, v in facts.items() if v}


def band_texts(joins: list[Block | Link]) -> tuple[str, dict[str, str]]:
    """Label and facts of everything between two boxes."""
    blocks = [join for join in joins if isinstance(join, Block)]
    links = Counter(join.kind for join in joins if isinstance(join, Link))
    if len(joins) == 1:
        return (_block_label(blocks[0]), _block_facts(blocks[0])) if blocks else _link_texts(joins[0])
    weights = sum(math.prod(block.shape) for block in blocks)
    kinds = _counted(Counter(block.kind for block in blocks) + links)
    facts = {"connections": kinds, "weights": f"{weights:,}"} | {f"block {k}": b.name for k, b in enumerate(blocks, 1)}
    return kinds + (f" · {weights:,} weights" if blocks else ""), facts


def _counted(kinds: Counter[str]) -> str:
    return ", ".join(f"{count} {kind}" if count > 1 else kind for kind, count in kinds.items())


def _short(text: str, longest: int = LONGEST_TITLE) -> str:
    """The end of a text that is too long."""
    return text if len(text) <= longest else "…" + text[-longest + 1 :].split(".", 1)[-1]


def _operation_text(operation: Operation) -> str:
    size = operation.attributes.get("kernel") or operation.attributes.get("output")
    return operation.kind.replace("_", " ") + (f" {_times(size)}" if size else "")


def _space_facts(template: Template, number: int) -> dict[str, str]:
    space = template.spaces[number]
    facts = {"space": space.name, "nodes": f"{space.size:,}", "role": space.role}
    facts["exchangeable"] = "no" if space.fixed else "yes"
    for at, operation in enumerate(space.operations, start=1):
        settings = ", ".join(f"{name} {_value(value)}" for name, value in operation.attributes.items())
        facts[f"step {at}"] = operation.kind + (f" ({settings})" if settings else "")
    return facts | dict(space.vectors)


def _block_label(block: Block) -> str:
    kernel = f" {_times(block.taps)}" if block.taps else ""
    groups = f" in {block.groups} groups" if block.groups > 1 else ""
    return f"{block.kind.replace('_', ' ')}{kernel}{groups} · {math.prod(block.shape):,} weights"


def _block_facts(block: Block) -> dict[str, str]:
    out, inputs, taps = block.shape
    facts = {
        "block": block.name,
        "kind": block.kind,
        "edges": f"{out:,} out × {inputs:,} in = {out * inputs:,}",
        "taps of an edge": f"{taps:,}" + (f" ({_times(block.taps)})" if block.taps else ""),
        "weights": f"{math.prod(block.shape):,}",
        "weight axes": block.pattern,
    }
    if block.groups > 1:
        facts["groups"] = str(block.groups)
    return facts | {name: _value(value) for name, value in block.attributes.items()}


def _link_texts(link: Block | Link) -> tuple[str, dict[str, str]]:
    numbers = {name: _value(value) for name, value in link.attributes.items()}
    return link.kind, {"link": link.kind, "weights": "none"} | numbers


def _times(sizes: Any) -> str:
    return "×".join(str(size) for size in sizes)


def _value(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
