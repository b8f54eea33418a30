"""metanet reads the weights of a neural network and tells how it was trained.

template = metanet.trace(module, example_input)     # the parameter graph of an architecture
aligned = metanet.match(template, a, b)(b)          # the symmetric copy of net b that is closest to net a
zoo = metanet.open_zoo("zoos/demo")                 # a population of trained nets
run = metanet.load_run("runs/demo/gnn-seed0")       # a trained metanetwork
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from metanet.arch.matching import match
    from metanet.arch.trace import trace
    from metanet.runs import load_run
    from metanet.zoo.store import open_zoo

__version__ = "0.1.0"
__all__ = ["load_run", "match", "open_zoo", "trace"]

_HOME = {
    "trace": "metanet.arch.trace",
    "match": "metanet.arch.matching",
    "open_zoo": "metanet.zoo.store",
    "load_run": "metanet.runs",
}


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'metanet' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
