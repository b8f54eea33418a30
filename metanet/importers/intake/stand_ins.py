"""Stand-ins: pickles of foreign classes, read without those classes. Nothing of a file is imported or called.

Some zoos are published as pickled objects of their authors' code, which cannot be read as plain tensors. Every name
that may stand in such a stream is written down here, and whatever it names, it becomes an object that only keeps what
the stream hands to it. Another name refuses the file. Runs in the child process of parser.py, for formats that ask.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metanet.errors import RefusedError
from metanet.importers.intake import containers

MOST_ENTRIES = 4_000_000  # of a zip: a dataset has a storage for every tensor of every net
MOST_SHARED = 4  # values that a stream may give for each of its bytes, where it refers to one several times
DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
}
MAPPINGS = ("collections.OrderedDict", "collections.defaultdict")
PATHS = ("pathlib.PosixPath", "pathlib.WindowsPath", "pathlib.PurePosixPath", "pathlib.Path")
PLAIN = frozenset(
    {"torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter", "_codecs.encode", *MAPPINGS, *PATHS}
    | {f"torch.{name}" for name in DTYPES}
    | {f"{home}.{name}" for home in ("__builtin__", "builtins") for name in ("dict", "list", "tuple", "set")}
    | {f"{home}.{name}" for home in ("__builtin__", "builtins") for name in ("int", "long", "float", "str", "bool")}
    | {"__builtin__.unicode", "__builtin__.object", "builtins.object", "copyreg._reconstructor"}
)
NODES = ("Any", "Boolean", "Float", "Integer", "Path", "String")
CONFIG = frozenset(
    {f"omegaconf.nodes.{kind}Node" for kind in NODES}
    | {"omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig"}
    | {"omegaconf.base.ContainerMetadata", "omegaconf.base.Metadata", "typing.Any", "typing.List", "typing.Dict"}
)


class StandIn(dict[Any, Any]):
    """An object of a foreign class: `arguments` it was made with, `state` it was given, and its items."""

    name = ""
    arguments: tuple[Any, ...]
    state: Any

    def __new__(cls, *arguments: Any) -> StandIn:
        made = super().__new__(cls)
        made.arguments, made.state = arguments, None
        return made

    def __init__(self, *_: Any):
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def attributes(self) -> Mapping[str, Any]:
        """What it was given as its state.

        Raises:
            ValueError: nothing, or not by name.
        """
        if not isinstance(self.state, Mapping):
            raise ValueError(f"found an object of {self.name} without attributes")
        return self.state


class _Storage(NamedTuple):
    dtype: torch.dtype
    key: str


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: bytes, allowed: Collection[str]):
        super().__init__(io.BytesIO(stream))
        self._allowed = allowed
        self._classes: dict[str, type[StandIn]] = {}

    def find_class(self, module_name: str, global_name: str) -> type[StandIn]:
        name = f"{module_name}.{global_name}"
        if not is_allowed(name, self._allowed):
            raise RefusedError(f"refused: reading it would import and may run {name}")
        return self._classes.setdefault(name, type("Named", (StandIn,), {"name": name}))

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage, key, _, _ = pid
        if kind != "storage" or not issubclass(storage, StandIn):
            raise ValueError(f"found the reference {kind!r}, expected a storage")
        return _Storage(DTYPES[storage.name.removeprefix("torch.")], str(key))


def is_allowed(name: str, allowed: Collection[str]) -> bool:
    """Whether a name may stand in a stream: it is in PLAIN or `allowed`, or a class X of any module for "*.X" there."""
    return name in PLAIN or name in allowed or f"*.{name.rpartition('.')[2]}" in allowed


class File:
    """A file of torch.save: `root` is its object, with stand-ins; `plain` makes values of them.

    Raises:
        RefusedError: a name that is not allowed, or no file of torch.save.
        ValueError: damaged.
    """

    def __init__(self, path: Path, allowed: Collection[str]):
        containers.check_size(path)
        self._where = str(path)
        data = path.read_bytes()
        if not data.startswith(containers.ZIP):
            raise RefusedError(f"{path}: refused: no zip, as torch.save writes it since version 1.6")
        stream = containers.check_zip(data, self._where, lambda name: is_allowed(name, allowed), MOST_ENTRIES)
        self._zip = zipfile.ZipFile(io.BytesIO(data))
        self._names = set(self._zip.namelist())
        self._folder = stream.rpartition("/")[0]
        if f"{self._folder}/byteorder" in self._names and self._zip.read(f"{self._folder}/byteorder") != b"little":
            raise RefusedError(f"{path}: refused: written on a machine whose numbers are big-endian")
        content = self._zip.read(stream)
        self._left = MOST_SHARED * len(content)
        try:
            self.root = _Unpickler(content, allowed).load()
        except Exception as error:  # a damaged stream provokes anything; none of it passes
            raise ValueError(f"{path}: no whole pickle ({type(error).__name__}: {error}): damaged") from error

    def plain(self, value: Any) -> Any:
        """The value without stand-ins: mappings, lists, tensors, text and numbers; of a class its name.

        Raises:
            ValueError: damaged.
        """
        self._left -= 1
        if self._left < 0:
            raise ValueError(f"{self._where}: refers to its own values more often than {MOST_SHARED} times its size")
        if isinstance(value, type) and issubclass(value, StandIn):
            return value.name
        if isinstance(value, StandIn):
            return self._stand_in(value)
        if isinstance(value, Mapping):
            return {key: self.plain(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple | set):
            return [self.plain(inner) for inner in value]
        return value

    def _stand_in(self, value: StandIn) -> Any:
        if value.name == "torch._utils._rebuild_tensor_v2":
            return self._tensor(*value.arguments[:4])
        if value.name == "torch._utils._rebuild_parameter":
            return self.plain(value.arguments[0])
        if value.name in MAPPINGS:
            return {key: self.plain(inner) for key, inner in value.items()}
        if value.name in PATHS:
            return "/".join(map(str, value.arguments)).replace("//", "/")
        if value.name in CONFIG:
            attributes = value.attributes()
            return self.plain(attributes["_content"] if "_content" in attributes else attributes.get("_val"))
        if value.state is None and not value:
            return f"<{value.name}>"
        return self.plain(dict(value.attributes()))

    def _tensor(self, storage: Any, offset: int, size: Any, stride: Any) -> Tensor:
        """A tensor of the file, in its own memory.

        Raises:
            ValueError: it claims more than its storage holds.
        """
        size, stride = tuple(map(int, size)), tuple(map(int, stride))
        entry = f"{self._folder}/data/{storage.key}"
        if entry not in self._names:
            raise ValueError(f"{self._where}: damaged: no entry {entry!r}")
        content = self._zip.read(entry)
        numbers = len(content) // storage.dtype.itemsize
        reach = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
        if not math.prod(size):
            return torch.empty(size, dtype=storage.dtype)
        if min(*size, *stride, offset, 0) < 0 or reach >= numbers or math.prod(size) > numbers:
            raise RefusedError(
                f"{self._where}: refused: a tensor of {size} with strides {stride} from {offset} on, in a storage of "
                f"{numbers:,} numbers"
            )
        whole = torch.frombuffer(bytearray(content), dtype=storage.dtype)
        return whole.as_strided(size, stride, offset).clone()
