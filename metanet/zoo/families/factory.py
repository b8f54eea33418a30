"""Nets of any module: "package:function" names a function or class without arguments that gives it.

For imported nets (docs/import.md). A zoo or a checkpoint only names the function, and calling it is running code that
somebody else may have chosen. So only what the user has named is called: on the command line of the import, and later
in the environment variable METANET_FACTORIES, names with commas between them.
"""

import importlib
import os
import re
import sys
from typing import Any

from torch import nn

from metanet.errors import RefusedError
from metanet.zoo.distributions import Check
from metanet.zoo.fields import Arch, Field, Layers

VARIABLE = "METANET_FACTORIES"
FIELDS = {
    "factory": Field("-", Check(str, "package:function", lambda name: bool(re.fullmatch(r"[\w.]+:\w+", str(name)))))
}
OWN_ACTIVATION = True
LAYER = "net"
_allowed: set[str] = set()


def expects(arch: Arch) -> str | None:
    return None


def layers(arch: Arch, activation: type[nn.Module], dropout: float) -> Layers:
    """The module as the only layer, called net.

    Raises:
        RefusedError: the user has not named the function.
        ValueError: it is not there, or gives no module.
    """
    name = arch["factory"]
    if name not in _allowed | set(os.environ.get(VARIABLE, "").split(",")):
        raise RefusedError(
            f"refused to call {name}, which these nets say they are made by: it is code that the files chose. If you "
            f"trust it, set {VARIABLE}={name} and give the same command again."
        )
    yield LAYER, made(name)


def allow(name: str) -> None:
    """The user has named this function: it may be called from now on."""
    _allowed.add(name)


def made(name: str) -> nn.Module:
    """What `package:function` gives; it may lie in the folder where the command is given.

    Raises:
        ValueError: it is not there, needs arguments, or gives no module.
    """
    package, _, function = name.partition(":")
    sys.path.insert(0, "")
    try:
        module: Any = getattr(importlib.import_module(package), function)()
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"module={name}: {error}; expected package:factory without arguments") from error
    finally:
        sys.path.remove("")
    if not isinstance(module, nn.Module):
        raise ValueError(f"module={name}: gave a {type(module).__name__}, expected an nn.Module")
    return module
