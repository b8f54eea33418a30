"""The process that parses foreign containers: `python -m metanet.importers.intake.child FOLDER`.

It reads one JSON line for each job, {"job": NUMBER, "reader": NAME, "options": {...}, "paths": [...]}, puts the tensors
of all paths into FOLDER/NUMBER.safetensors and what is said of each path into FOLDER/NUMBER.json, {"names", "place",
"metadata"} or {"error", "refused"}, and its "sha256", and answers with the job's number on a line. It has limits of
memory, of processor time for each job and of the size of its files, and an audit hook that ends it when anything asks
for another process, a connection or another file to write: none of the readers does. A reader is imported when it is
first used.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from metanet.errors import RefusedError
from metanet.importers.intake import arrays
from metanet.importers.intake.arrays import Array

Reader = Callable[..., tuple[dict[str, Any], dict[str, Any]]]  # of a path and options
READERS = {
    "containers": "metanet.importers.intake.containers:parse",
    "keras": "metanet.importers.keras_files:parse",
    "model_zoos": "metanet.importers.intake.objects:model_zoos",
    "onnx": "metanet.importers.onnx_files:parse",
    "wild_park": "metanet.importers.intake.objects:wild_park",
}
SPARE_BYTES = 192 << 20  # of memory beyond what the process has at its start
COPIES = 8  # of a job's files that fit into its memory beside that
SECONDS = 60  # of processor time for a job
QUICK, BYTES_A_SECOND = 0.8, 1 << 23  # of one with checkpoints alone: a few bytes can keep an unpickler busy
FORBIDDEN = ("os.system", "os.exec", "os.fork", "os.posix_spawn", "subprocess.", "socket.", "ctypes.dlopen", "shutil.")


def main(folder: Path) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    readers: dict[str, Reader] = {}
    start_bytes, guard = 0, _Guard()
    sys.addaudithook(guard.check)
    _keep_compiler_out()
    for line in sys.stdin:
        job = json.loads(line)
        paths, out = [Path(path) for path in job["paths"]], folder / str(job["job"])
        if job["reader"] not in readers:
            _lift()
            guard.on = False
            readers[job["reader"]] = _reader(job["reader"])
            guard.on = True
            start_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        size = sum(path.stat().st_size for path in paths)
        _limit(start_bytes, size)
        quick = job["reader"] == "containers" and not any(path.suffix == ".parquet" for path in paths)
        signal.setitimer(signal.ITIMER_PROF, QUICK + size / BYTES_A_SECOND if quick else 0)  # SIGPROF ends the process
        guard.may_write = (f"{out}.safetensors", f"{out}.json")
        found = [_parse(readers[job["reader"]], path, job["options"]) for path in paths]
        places = arrays.save(Path(f"{out}.safetensors"), [own for _, own in found])
        told = [answer | {"place": place} for (answer, _), place in zip(found, places, strict=True)]
        Path(f"{out}.json").write_text(json.dumps(told))
        print(job["job"], file=answers, flush=True)


def _keep_compiler_out() -> None:
    """Operators without data, of which shapes are learned, ask torch's compiler to pass them over; where nothing is
    compiled this stands for it, and saves the 75 MB of the real one.
    """
    compiler = ModuleType("torch._dynamo")
    compiler.disable = lambda function, *_, **__: function  # type: ignore[attr-defined]
    sys.modules[compiler.__name__] = compiler


def _reader(name: str) -> Reader:
    module, _, function = READERS[name].partition(":")
    return getattr(importlib.import_module(module), function)


def _parse(reader: Reader, path: Path, options: dict[str, str]) -> tuple[dict[str, Any], dict[str, Array]]:
    try:
        tensors, metadata = reader(path, **options)
        own = {name: arrays.of(tensor) for name, tensor in tensors.items()}
        return {"names": list(own), "metadata": metadata, "sha256": _sha256(path)}, own
    except RefusedError as error:
        return {"error": str(error), "refused": True, "sha256": _sha256(path)}, {}
    except Exception as error:  # the file is hostile: whatever it provokes is an answer about this file alone
        told = str(error) if str(path) in str(error) else f"{path}: {type(error).__name__}: {error}"
        return {"error": told, "sha256": _sha256(path)}, {}


def _sha256(path: Path) -> str | None:
    """None of a file that is gone or cannot be read, of which the importer tells."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _lift() -> None:
    """Lets a library be imported: torch reserves far more addresses than it uses."""
    for kind in (resource.RLIMIT_AS, resource.RLIMIT_CPU):
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (hard, hard))


def _limit(start_bytes: int, job_bytes: int) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime) + SECONDS
    limits = {
        resource.RLIMIT_AS: start_bytes + SPARE_BYTES + COPIES * job_bytes,
        resource.RLIMIT_FSIZE: SPARE_BYTES + COPIES * job_bytes,
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_CORE: 0,
    }
    for kind, most in limits.items():
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


class _Guard:
    """Ends the process when it asks for what no reader needs; off only while a reader's libraries are imported."""

    def __init__(self):
        self.on, self.may_write = True, ("", "")

    def check(self, event: str, arguments: tuple[object, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        wrong = event.startswith(FORBIDDEN) or (writes and str(arguments[0]) not in self.may_write)
        if self.on and wrong:
            os.write(2, f"the parser was ended: it asked for {event} {arguments[:1]}\n".encode())
            os._exit(77)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
