"""The process that parses foreign containers: `python -m metanet.importers.intake.child FOLDER`.

It reads one JSON line for each job, {"reader": NAME, "paths": [...]}, puts the tensors of all paths into
FOLDER/tensors.safetensors, and answers with one JSON line: for each path {"tensors", "metadata"} or
{"error", "refused"}. It has limits of memory, of processor time for each job and of the size of its file, and an audit
hook that ends it when anything asks for another process, a connection or another file to write: none of the readers
does.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from metanet.commandline import RefusedError
from metanet.importers.intake import containers, objects

READERS = {"containers": containers.parse, "wild_park": objects.wild_park}
SPARE_BYTES = 256 << 20  # of memory beyond what the process has at its start
COPIES = 8  # of a job's files that fit into its memory beside that
SECONDS = 60  # of processor time for a job
FORBIDDEN = ("os.system", "os.exec", "os.fork", "os.posix_spawn", "subprocess.", "socket.", "ctypes.dlopen", "shutil.")


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    out = str(folder / "tensors.safetensors")
    start_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    sys.addaudithook(lambda event, arguments: _forbid(event, arguments, out))
    for line in sys.stdin:
        job = json.loads(line)
        paths = [Path(path) for path in job["paths"]]
        _limit(start_bytes, sum(path.stat().st_size for path in paths))
        found, tensors = [], {}
        for number, path in enumerate(paths):
            answer, own = _parse(READERS[job["reader"]], path)
            found.append(answer)
            tensors |= {f"{number}/{name}": tensor for name, tensor in own.items()}
        safetensors.torch.save_file(tensors, out)
        print(json.dumps(found), file=answers, flush=True)


def _parse(
    reader: Callable[[Path], tuple[dict[str, torch.Tensor], dict[str, Any]]], path: Path
) -> tuple[dict[str, object], dict[str, torch.Tensor]]:
    try:
        tensors, metadata = reader(path)
        own = {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
        return {"tensors": list(own), "metadata": metadata}, own
    except RefusedError as error:
        return {"error": str(error), "refused": True}, {}
    except Exception as error:  # the file is hostile: whatever it provokes is an answer about this file alone
        return {"error": str(error) if str(path) in str(error) else f"{path}: {type(error).__name__}: {error}"}, {}


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


def _forbid(event: str, arguments: tuple[object, ...], out: str) -> None:
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
    if event.startswith(FORBIDDEN) or (writes and str(arguments[0]) != out):
        os.write(2, f"the parser was ended: it asked for {event} {arguments[:1]}\n".encode())
        os._exit(77)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
