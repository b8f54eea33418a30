"""Operator rules, one family per file, found by being in this folder.

A file defines `RULES`: a mapping from an ATen operator ("aten.conv2d", all overloads) to a function of a `Call`, which
returns the output's `Value`, or a list of values (or of functions that make them where they are read); None leaves the
call to the rules of the smaller operators that torch makes of it. The in-place form ("aten.relu_") uses the same rule.
A rule raises `call.unsupported(why)` for every use that it does not know.

`OPERATIONS` maps each kind of operation that the rules of the file write on a space to the names of its attributes; the
graph gives each of them columns of its own (metanet/views/codes.py).

`LINEAR`, `HOMOGENEOUS`, `ODD` and `EVEN`, where a file has them, name the operations through which factors pass
(metanet/arch/sites.py): f(c x) = c f(x) for every c, for positive c, for c = -1; f(-x) = f(x). `COPIES` names links
whose targets add up what their sources hold. What is not named costs symmetry, never soundness.

`LINKS` names the kinds of links that the rules of the file write; each has a type of edges of its own.

`SAME`, where a file has it, maps operators of libraries to the ATen operator that does the same.

`EXAMPLES` maps the operators of RULES to the shape [channels, *grid] of an input and a function that makes something to
call on it (a module, or a function of a tensor) that uses the operator. tests/test_every_rule.py puts it between two
layers and checks the rule there.
"""

import importlib
import pkgutil

from metanet.arch.call import Example, Rule

MODULES = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
BY_OPERATOR: dict[str, Rule] = {operator: rule for module in MODULES for operator, rule in module.RULES.items()}
_SAME = {other: operator for module in MODULES for other, operator in getattr(module, "SAME", {}).items()}
EXAMPLES: dict[str, Example] = {
    operator: example for module in MODULES for operator, example in module.EXAMPLES.items()
}
LINKS: tuple[str, ...] = tuple(dict.fromkeys(kind for module in MODULES for kind in module.LINKS))


def rule_of(operator: str) -> Rule | None:
    """The rule of an operator, or of the one that an in-place form or a library's own operator is."""
    known = _SAME.get(operator, operator)
    return BY_OPERATOR.get(known.removesuffix("_")) or BY_OPERATOR.get(known)


def _named(*tables: str) -> frozenset[str]:
    return frozenset(kind for module in MODULES for table in tables for kind in getattr(module, table, ()))


PASSES = {"scaling": _named("LINEAR", "HOMOGENEOUS") | {"bias"}, "sign": _named("LINEAR", "ODD") | {"bias"}}
STOPS = {"scaling": frozenset[str](), "sign": _named("EVEN")}
COPIES = _named("COPIES")
OPERATIONS: dict[str, tuple[str, ...]] = {"bias": (), "hidden": (), "input": ("number",), "output": ("number",)} | {
    kind: attributes for module in MODULES for kind, attributes in module.OPERATIONS.items()
}
