"""Pickles, read without running them: what a stream would import or call, by name."""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable, Iterator

from metanet.errors import RefusedError

_TORCH = (
    [
        f"{kind}Storage"
        for kind in ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
    ]
    + ["ComplexFloatStorage", "ComplexDoubleStorage", "Size"]
    + ["float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
)
# what `torch.load(weights_only=True)` runs itself, and plain tensors need: the only names that may stand in a stream
ALLOWED = frozenset(
    {
        "collections.OrderedDict",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_parameter",
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray.scalar",
        "numpy.dtype",
        "_codecs.encode",
        "collections.Counter",
        "torch.device",
        "builtins.set",
        "__builtin__.set",
    }
    | {f"torch.{name}" for name in _TORCH}
)
LEGACY_STREAMS = 5  # magic number, protocol, system, object, storage keys: torch's format before 1.6
LEGACY_MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")


def check(data: bytes, where: str, allowed: Callable[[str], bool] = ALLOWED.__contains__) -> None:
    """Passes a stream whose every name is allowed, and that ends where its pickle ends.

    Raises:
        RefusedError: it would run something else, which the message names.
        ValueError: truncated, or no pickle.
    """
    end = _check_stream(data, 0, where, allowed)
    if end != len(data):
        raise RefusedError(f"{where}: refused: {len(data) - end:,} bytes follow the end of its pickle")


def check_legacy(data: bytes, where: str) -> None:
    """Passes a file of torch's format before 1.6: five pickles like in `check`, then raw storages."""
    end = 0
    for stream in range(LEGACY_STREAMS):
        start, end = end, _check_stream(data, end, where)
        if stream == 0 and LEGACY_MAGIC not in data[start:end]:
            raise RefusedError(
                f"{where}: refused: a pickle that torch.save did not write. Load it where you trust it, and write its "
                f"state_dict with torch.save or safetensors."
            )


def _check_stream(data: bytes, start: int, where: str, allowed: Callable[[str], bool] = ALLOWED.__contains__) -> int:
    """Where the pickle that begins at `start` ends."""
    file = io.BytesIO(data)
    file.seek(start)
    try:
        for name in _names(file):
            if not allowed(name):
                raise RefusedError(
                    f"{where}: refused: reading it would import and may run {name}. Only plain state_dicts are read: "
                    f"load it where you trust it, with torch.load(file, weights_only=False), and save the state_dict "
                    f"alone, by torch.save or as safetensors."
                )
    except RefusedError:
        raise
    except (ValueError, IndexError, KeyError, OverflowError, UnicodeDecodeError) as error:
        raise ValueError(f"{where}: no whole pickle ({error}): truncated or damaged") from error
    return file.tell()


def _names(file: io.BytesIO) -> Iterator[str]:
    """Every global that the stream names, as "module.name"; "an unknown name" where it is computed."""
    recent: list[str | None] = [None, None]  # the last two values put on the stack, if they are text
    memo: dict[int, str | None] = {}
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name in ("GLOBAL", "INST"):
            yield str(argument).replace(" ", ".", 1)
        elif opcode.name == "STACK_GLOBAL":
            yield "an unknown name" if None in recent else ".".join(map(str, recent))
        elif opcode.name in ("EXT1", "EXT2", "EXT4"):
            yield f"extension {argument}"
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[int(argument)] = recent[-1]  # type: ignore[arg-type]
        elif opcode.name == "MEMOIZE":
            memo[len(memo)] = recent[-1]
        elif opcode.name in ("GET", "BINGET", "LONG_BINGET"):
            recent = [recent[-1], memo.get(int(argument))]  # type: ignore[arg-type]
        elif opcode.stack_after:
            recent = [recent[-1], argument if isinstance(argument, str) else None]
