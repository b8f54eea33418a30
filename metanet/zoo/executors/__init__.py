"""Executors: where the groups of a zoo are trained. Each is a module here, found by its name when it is used.

The contract:

- `check(device, way)` raises ValueError if this executor cannot be used here; nothing has been written by then.
- `run(work, groups, processes, report, split)` trains the groups. They are independent, come largest first, and may be
  trained in any order, anywhere, and more than once: what is acknowledged is not trained again, and a snapshot that two
  workers write is the same. `processes` is the most groups at once, None for as many as there are places.
  `report(group, fraction)` is called in the process of the caller as a group gets done, up to 1. If a group does not
  fit in memory (`TooLarge`), `split(group)` gives the groups to train in its place.

What a group writes does not depend on the executor.
"""

import importlib
import pkgutil
from collections.abc import Callable
from types import ModuleType

from metanet.zoo.plan import Group

Report = Callable[[Group, float], None]
Split = Callable[[Group], list[Group]]

NAMES = sorted(module.name for module in pkgutil.iter_modules(__path__))


def find(name: str) -> ModuleType:
    """The executor of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in NAMES:
        raise ValueError(f"executor={name}: expected one of {', '.join(NAMES)}")
    return importlib.import_module(f"{__name__}.{name}")
