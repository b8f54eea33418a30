"""How fast foreign nets become a zoo, with how much memory, beside the limits of the machine.

    python scripts/benchmark_import.py [formats=[pt,safetensors,small_cnn,nws]] [nets=10000] [workers=2] [out=import.md]

Writes its own sources into a temporary folder and imports each in a fresh process: single checkpoints of a small MLP
(pt, safetensors), Unterthiner's stacked array (small_cnn), and files of raw float64 (nws, a tenth as many nets). The
limits are what the bytes alone would take: every byte of the source and of the zoo is hashed once, on as many cores as
there are workers, and every byte of the zoo is written and synced, in files of some megabytes. "CPU us a net" is what
all processes together were busy with, also where other programs made them wait.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import multiprocessing
import resource
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rich.console
import torch
from safetensors.torch import save_file

from metanet import commandline, machine
from metanet.importers import nws, small_cnn
from metanet.importers.intake import fitting
from metanet.importers.intake.writing import import_zoo
from metanet.reporting.tables import Cell, Column, Table, print_to, to_markdown
from metanet.zoo import disk, nets

CHECKPOINT = {
    "family": "mlp",
    "depth": 2,
    "width": 16,
    "batch_norm": False,
    "image_shape": [1, 8, 8],
    "num_classes": 10,
}
FORMATS = ("pt", "safetensors", "small_cnn", "nws")


@dataclass
class Options:
    formats: list[str] = field(default_factory=lambda: list(FORMATS), metadata={"help": "of the sources"})
    nets: int = field(default=10_000, metadata={"help": "of each source"})
    workers: int = field(default=2, metadata={"help": "processes that parse checkpoints"})
    out: str | None = field(default=None, metadata={"help": "a Markdown file for the table"})


@dataclass
class Measured:
    """One import."""

    nets: int
    source_bytes: int
    zoo_bytes: int
    seconds: float
    cpu_seconds: float
    peak_bytes: int  # of the importer and of its children together


def main(options: Options) -> dict[str, Measured]:
    """Measures and prints; what each import took, by format.

    Raises:
        ValueError: an unknown format.
    """
    if unknown := set(options.formats) - set(FORMATS):
        raise ValueError(f"{', '.join(sorted(unknown))} on the command line: expected some of {', '.join(FORMATS)}")
    found = {}
    for name in options.formats:
        with tempfile.TemporaryDirectory() as folder:
            source, count = Path(folder) / "source", options.nets // 10 if name == "nws" else options.nets
            source.mkdir()
            SOURCES[name](source, count)
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                found[name] = pool.submit(measure, name, source, Path(folder) / "zoo", options.workers).result()
    hashed, written = sha256_rate(), write_rate()
    text = (
        f"{machine.describe()}. Limits in this run: {hashed / 1e9:,.2f} GB/s in SHA-256 on a core, "
        f"{written / 1e9:,.2f} GB/s in writing with fsync, {machine.memcpy_rate() / 1e9:,.1f} GB/s in memcpy. "
        f"{options.workers} processes parse checkpoints."
    )
    table = tabulated(found, hashed * options.workers, written)
    console = rich.console.Console()
    console.print(text, highlight=False)
    print_to(console, table, "Importing")
    if options.out:
        command = f"python scripts/benchmark_import.py {' '.join(sys.argv[1:])}".strip()
        Path(options.out).write_text(f"{text}\n\n{to_markdown(table)}\n`{command}`\n", encoding="utf-8")
        print(f"wrote {options.out}", file=sys.stderr)
    return found


def tabulated(found: dict[str, Measured], hashed: float, written: float) -> Table:
    """A row per format; `hashed` is the bytes per second of all workers in SHA-256, `written` those of the disk."""
    names = ("nets", "KB a net", "seconds", "nets/s", "CPU us a net", "hash limit, nets/s", "disk limit, nets/s")
    rows = []
    for name, one in found.items():
        rate = one.nets / one.seconds
        limits = hashed / (one.source_bytes + one.zoo_bytes), written / one.zoo_bytes
        cells = [f"{one.nets:,}", f"{one.zoo_bytes / one.nets / 1e3:,.1f}", f"{one.seconds:.1f}", f"{rate:,.0f}"]
        cells += [f"{1e6 * one.cpu_seconds / one.nets:,.0f}", *(f"{one.nets * limit:,.0f}" for limit in limits)]
        cells += [f"{rate / (one.nets * min(limits)):.0%}", f"{one.peak_bytes / 1e6:,.0f}"]
        rows.append([Cell(name), *map(Cell, cells)])
    return Table([Column("source"), *map(Column, (*names, "of the lower", "peak MB"))], rows)


def measure(name: str, source: Path, out: Path, workers: int) -> Measured:
    """One import in this process, which does nothing else."""
    format = "table" if name in ("pt", "safetensors") else name
    peaks, watched, ended = [0], [0.0], threading.Event()
    watching = threading.Thread(target=watch_children, args=(peaks, watched, ended))
    watching.start()
    start, before = time.perf_counter(), cpu_seconds()
    zoo = import_zoo(format, source, out, workers=workers)
    seconds = time.perf_counter() - start
    ended.set()
    watching.join()
    used = cpu_seconds() - before - sum(watched)
    source_bytes, zoo_bytes = (sum(path.stat().st_size for path in one.rglob("*")) for one in (source, out))
    return Measured(len(zoo), source_bytes, zoo_bytes, seconds, used, machine.peak_bytes() + max(peaks))


def watch_children(peaks: list[int], watched: list[float], ended: threading.Event) -> None:
    """Notes now and then the most memory that each of this process's children has held, together; and its own work."""
    while not ended.wait(0.02):
        total = 0
        for listed in Path("/proc/self/task").glob("*/children"):
            with contextlib.suppress(OSError, StopIteration):  # a thread or a child has ended
                for child in listed.read_text().split():
                    if b"intake.child" in Path(f"/proc/{child}/cmdline").read_bytes():  # else it is not itself yet
                        lines = Path(f"/proc/{child}/status").read_text().splitlines()
                        total += next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
        peaks.append(total)
    watched.append(time.thread_time())


def cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def sha256_rate() -> float:
    """Bytes per second on one core."""
    data = bytes(1 << 26)
    return len(data) / machine.seconds_per_call(lambda: hashlib.sha256(data).digest())


def write_rate() -> float:
    """Bytes per second that reach the disk, in files as large as a shard."""
    data = bytes(1 << 23)
    with tempfile.TemporaryDirectory() as folder:
        seconds = machine.seconds_per_call(lambda: disk.write_atomically(Path(folder) / "file", data))
    return len(data) / seconds


def checkpoints(folder: Path, count: int, ending: str) -> None:
    """One file per net, and a table with the columns that people have."""
    torch.manual_seed(0)
    state_dict = nets.build(CHECKPOINT).state_dict()
    (folder / "archs.json").write_text(json.dumps({"mlp": CHECKPOINT}))
    rows = []
    for number in range(count):
        tensors = {name: torch.randn_like(tensor) for name, tensor in state_dict.items()}
        path = folder / f"{number:06d}.{ending}"
        torch.save(tensors, path) if ending == "pt" else save_file(tensors, path)
        rows.append({"path": path.name, "arch": "mlp", "activation": "relu", "optimizer": "adam", "learning_rate": 0.1})
    write_csv(folder / "nets.csv", rows)


def unterthiner(folder: Path, count: int) -> None:
    """weights.npy, layout.csv and metrics.csv as the release has them: nine snapshots of each run."""
    shapes = [
        ("conv2d", (3, 3, 1, 16)),
        ("conv2d_1", (3, 3, 16, 16)),
        ("conv2d_2", (3, 3, 16, 16)),
        ("dense", (16, 10)),
    ]
    layout, end = [], 0
    for name, shape in shapes:
        for variable, sizes in (("bias", shape[-1:]), ("kernel", shape)):
            start, end = end, end + int(np.prod(sizes))
            layout.append({"varname": f"{name}/{variable}:0", "start_idx": start, "end_idx": end, "shape": str(sizes)})
    write_csv(folder / "layout.csv", layout)
    np.save(folder / "weights.npy", np.random.default_rng(0).standard_normal((count, end), dtype=np.float32))
    config = {column: 0.1 for column, _ in small_cnn.HYPERPARAMETERS.values()}
    config |= {"config.optimizer": "adam", "config.activation": "relu", "config.w_init": "he_normal"}
    config |= {"config.dataset": "mnist", **dict.fromkeys(small_cnn.METRICS, 0.5)}
    write_csv(folder / "metrics.csv", [{**config, "modeldir": f"/run{n // 9}", "step": n % 9} for n in range(count)])


def eilertsen(folder: Path, count: int) -> None:
    """Runs of 20 snapshots of the release's fixed architecture."""
    row: dict[str, Any] = dict(
        zip(nws.PROPERTIES, ("mnist", 0.1, 64, True, False, 0, 0, 0, 5, 3, 2, 8, 128), strict=True)
    )
    arch = nws.architecture({name: str(value) for name, value in row.items()})
    total = sum(shape.numel() for shape, floating in fitting.expected(arch).values() if floating)
    numbers, rows = np.random.default_rng(0).standard_normal(total), []
    for run in range(-(-count // nws.SNAPSHOTS)):
        (folder / f"{run}" / "weights").mkdir(parents=True)
        np.zeros((20, 5)).tofile(folder / f"{run}" / "error.bin")
        np.array([20.0, 1, 1, 1]).tofile(folder / f"{run}" / "stat.bin")
        for snapshot in range(1, nws.SNAPSHOTS + 1):
            np.roll(numbers, run + snapshot).tofile(folder / f"{run}" / "weights" / f"{snapshot:03d}.bin")
        rows.append({**row, "path": run, "weightn_conv": 1000, "weightn_fc": total - 1000})
    write_csv(folder / "all.csv", rows)


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


SOURCES = {
    "pt": lambda folder, count: checkpoints(folder, count, "pt"),
    "safetensors": lambda folder, count: checkpoints(folder, count, "safetensors"),
    "small_cnn": unterthiner,
    "nws": eilertsen,
}


if __name__ == "__main__":
    commandline.run(main, Options)
