"""Files that would leave a marker behind if anything ran them: {name: bytes}."""

import functools
import io
import marshal
import operator
import os
import pickle
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch


class Calls:
    """Pickled, it is a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any):
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def corpus(folder: Path) -> dict[str, bytes]:
    """Every call in every container, and streams written opcode by opcode. The markers lie below `folder`."""
    streams = _calls(folder) | _opcodes(folder)
    files = {}
    for name, stream in streams.items():
        marked = stream.replace(b"MARK", name[:4].ljust(4, "_").encode())
        files[f"{name}-raw.pt"] = marked
        files[f"{name}-zip.pth"] = zipped(marked)
    for name in ("os_system", "inst", "stack_global"):
        stream = streams[name]
        files[f"{name}-bad_crc.pt"] = zipped(stream, bad_crc=True)
        files[f"{name}-deflated.pt"] = zipped(stream, method=zipfile.ZIP_DEFLATED)
        files[f"{name}-wrong.safetensors"] = stream
        files[f"{name}-legacy.pt"] = _legacy() + stream
        files[f"{name}-tar.pt"] = _tar(stream)
        files[f"{name}-second.pt"] = zipped(pickle.dumps({}, 2) + stream)
        files[f"{name}-two_streams.pt"] = zipped(pickle.dumps({}, 2), extra={"x/other.pkl": stream})
        files[f"{name}-constants.pt"] = zipped(pickle.dumps({}, 2), extra={"archive/constants.pkl": stream})
    objects = np.array([Calls(os.system, f"touch {folder}/npy")], dtype=object)
    for writer, name in ((np.save, "object.npy"), (np.savez, "object.npz")):
        buffer = io.BytesIO()
        writer(buffer, objects, allow_pickle=True)
        files[f"{name}.pt"] = files[f"{name}.safetensors"] = buffer.getvalue()
    buffer = io.BytesIO()
    torch.save(torch.nn.Linear(2, 2), buffer)
    files["module.pt"] = buffer.getvalue()
    return files


def _calls(folder: Path) -> dict[str, bytes]:
    command, opened = f"touch {folder}/MARK", f"open('{folder}/MARK', 'w')"
    code = marshal.dumps(compile(opened, "x", "eval"))
    inner = pickle.dumps(Calls(os.system, command))
    calls = {
        "os_system": Calls(os.system, command),
        "popen": Calls(subprocess.Popen, ["touch", f"{folder}/MARK"]),
        "eval": Calls(eval, opened),
        "exec": Calls(exec, opened),
        "open": Calls(open, f"{folder}/MARK", "w"),
        "importlib": Calls(__import__, "antigravity"),
        "partial": Calls(functools.partial, os.system, command),
        "methodcaller": Calls(operator.methodcaller("system", command), os),
        "run_path": Calls(__import__("runpy").run_path, f"{folder}/script.py"),
        "ctypes": Calls(__import__("ctypes").CDLL, f"{folder}/library.so"),
        "marshal": Calls(marshal.loads, code),
        "nested": Calls(pickle.loads, inner),
        "hub": Calls(torch.hub.load, str(folder), "MARK", "local"),
        "torch_load": Calls(torch.load, f"{folder}/nested.pt"),
        "numpy": Calls(np.load, f"{folder}/object.npy"),
        "fromfile": Calls(np.fromfile, f"{folder}/object.npy"),
        "getattr": Calls(getattr, os, "system"),
        "write": Calls(Path.write_text, Path(folder) / "MARK", "x"),
    }
    dumped = {}
    for name, call in calls.items():
        for protocol in (2, 4):
            try:
                dumped[f"{name}{protocol if protocol != 2 else ''}"] = pickle.dumps({"weight": call}, protocol)
            except (pickle.PicklingError, TypeError):  # modules cannot be pickled: only by hand, see below
                dumped[f"{name}{protocol if protocol != 2 else ''}"] = b"cos\nsystem\n(V%b\ntR." % command.encode()
    return dumped


def _opcodes(folder: Path) -> dict[str, bytes]:
    command = f"touch {folder}/MARK".encode()
    text = b"X" + len(command).to_bytes(4, "little") + command
    names = b"\x8c\x02os\x8c\x06system"
    return {
        "global": b"cos\nsystem\n(V%b\ntR." % command,
        "stack_global": b"\x80\x04" + names + b"\x93" + text + b"\x85R.",
        "memo_global": b"\x80\x04" + names[:4] + b"\x940" + names[4:] + b"\x940h\x00h\x01\x93" + text + b"\x85R.",
        "inst": b"(V%b\nios\nsystem\n." % command,
        "obj": b"(cos\nsystem\nV%b\no." % command,
        "newobj": b"\x80\x02csubprocess\nPopen\n" + text + b"\x85\x81.",
        "newobj_ex": b"\x80\x04\x8c\x0asubprocess\x8c\x05Popen\x93" + text + b"\x85}\x92.",
        "build": b"\x80\x02ccollections\nOrderedDict\n)R}U\x0c__setstate__cos\nsystem\nsb" + text + b"b.",
        "after_stop": pickle.dumps({}, 2) + b"cos\nsystem\n(V%b\ntR." % command,
        "breaks": b"cos\nsystem\n(V%b\ntR" % command,
        "extension": b"\x82\x01" + text + b"\x85R.",
        "persistent": b"cos\nsystem\nQ.",
        "dotted": b"\x80\x04\x8c\x05torch\x8c\x12serialization.os.x\x93" + text + b"\x85R.",
        "computed": b"\x80\x04\x8c\x02os(\x8c\x06systeml\x93" + text + b"\x85R.",
    }


def zipped(
    stream: bytes, bad_crc: bool = False, method: int = zipfile.ZIP_STORED, extra: dict[str, bytes] | None = None
) -> bytes:
    """A zip as torch.save writes it, around a stream."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        file.writestr("archive/data.pkl", stream)
        file.writestr("archive/version", "3\n")
        file.writestr("archive/byteorder", "little")
        for name, data in (extra or {}).items():
            file.writestr(name, data)
    whole = buffer.getvalue()
    crc = zlib.crc32(stream).to_bytes(4, "little")
    return whole.replace(crc, bytes(4)) if bad_crc else whole


def _legacy() -> bytes:
    return b"".join(pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))


def _tar(stream: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for name in ("storages", "tensors", "pickle"):
            about = tarfile.TarInfo(name)
            about.size = len(stream)
            file.addfile(about, io.BytesIO(stream))
    return buffer.getvalue()
