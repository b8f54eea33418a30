"""Make: trains the nets of a spec into a folder, so that a kill at any time costs no snapshot that was acknowledged."""

from __future__ import annotations

import json
import platform
import sys
import time
from pathlib import Path

import torch

from metanet import machine
from metanet.progress import progress
from metanet.zoo import disk, layout, manifest, plan, sizes
from metanet.zoo.executors import EXECUTORS, Executor
from metanet.zoo.plan import Group
from metanet.zoo.spec import Spec
from metanet.zoo.store import Zoo, open_zoo
from metanet.zoo.work import Work


def make_zoo(
    spec: Spec, out: str | Path, device: str = "cpu", processes: int | None = None, executor: str = "local"
) -> Zoo:
    """The finished zoo of `spec` in the folder `out`; goes on from what is there already.

    Args:
        processes: workers on the CPU (None = one per core); they do not change the result.

    Raises:
        ValueError: a device or executor that is not there, or `out` holds another zoo.
        FileExistsError: `out` holds something else.
        FileNotFoundError: an image set is not there.
        LockedError: another process writes to `out`.
        ChildProcessError: a worker died. The same call goes on from there.
    """
    out = Path(out)
    if executor not in EXECUTORS:
        raise ValueError(f"executor={executor}: expected one of {', '.join(EXECUTORS)}")
    if processes is not None and processes < 1:
        raise ValueError(f"processes={processes}: expected at least 1")
    _check_device(device)
    recorded = _recorded(spec, out, device)
    if recorded and layout.is_complete(out, layout.read_record(out)):
        print(f"{out}: finished already", file=sys.stderr)
        return open_zoo(out)
    planned = recorded or plan.plan(spec.nets(), plan.STACK[device.split(":")[0]])
    work = Work(spec, out, device)
    work.images()  # a missing set is an error before anything is written
    disk.make_folder(out)
    with disk.one_writer(out):
        groups = _recorded(spec, out, device)
        if groups is None:
            groups = planned
            disk.write_atomically(out / layout.RECORD, layout.pack_record(spec, groups, device))
        _train(work, groups, processes, EXECUTORS[executor])
        paths = [layout.fragment_path(out, *snapshot) for snapshot in layout.snapshots(layout.read_record(out))]
        disk.write_atomically(out / layout.MANIFEST, manifest.merge({path.name: path.read_bytes() for path in paths}))
    return open_zoo(out)


def _train(work: Work, groups: list[Group], processes: int | None, execute: Executor) -> None:
    """Trains what is not there yet, the most expensive groups first, so that the workers end together."""
    _tell_changed_versions(work.zoo)
    _remove_temporary_files(work.zoo)
    disk.make_folder(work.zoo / "manifest")
    pending = [group for group in groups if not work.is_done(group)]
    costs = {group.name: sizes.training_cost(group) for group in pending}
    pending.sort(key=lambda group: -costs[group.name])
    nets = sum(len(group) for group in pending)
    done = dict.fromkeys(costs, 0.0)
    spent, total, shown = 0.0, sum(costs.values()), 0
    begun = time.time()
    _log(work.zoo, "start", nets=nets, host=platform.node(), machine=machine.describe(work.device))
    with progress(f"training {work.zoo.name}", nets) as advance:

        def report(group: Group, fraction: float) -> None:
            """Shows nets weighted by their cost, so that the rate stays even and the time left true."""
            nonlocal spent, shown
            spent += (fraction - done[group.name]) * costs[group.name]
            done[group.name] = fraction
            count = int(nets * spent / total + 1e-6)
            if count > shown:
                advance(count - shown)
                shown = count
            if fraction == 1:
                _log(work.zoo, "group", group=group.name, nets=len(group))

        if pending:
            execute(work, pending, processes, report)
    _log(work.zoo, "finish", seconds=round(time.time() - begun, 1))


def _check_device(device: str) -> None:
    kind = device.split(":")[0]
    if kind not in plan.STACK:
        raise ValueError(f"device={device}: expected {' or '.join(plan.STACK)}")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={device}: this machine or this build of torch has no CUDA. Use device=cpu.")


def _recorded(spec: Spec, out: Path, device: str) -> list[Group] | None:
    """The recorded groups of the zoo that `out` holds; None if there is no zoo yet."""
    if not (out / layout.RECORD).exists():
        if out.exists() and not out.is_dir():
            raise FileExistsError(f"{out}: found a file, expected a folder for the zoo, or nothing")
        others = [path.name for path in out.iterdir() if path.name[0] != "."] if out.is_dir() else []
        if others:
            raise FileExistsError(f"{out}: found {others[0]} but no {layout.RECORD}: no zoo. Choose another out=.")
        return None
    record = layout.read_record(out)
    wanted = spec.to_dict()
    different = [key for key in wanted if record["spec"].get(key) != wanted[key]]
    if different:
        changes = "; ".join(f"{key} is {record['spec'].get(key)!r} there and {wanted[key]!r} here" for key in different)
        raise ValueError(f"{out}: holds the zoo of another spec: {changes}. Choose another out=, or that spec.")
    if record["device"] != device.split(":")[0]:
        raise ValueError(
            f"{out}: was begun with device={record['device']}, found device={device}. Go on with the former."
        )
    return plan.from_json(record["plan"], spec.nets())


def _tell_changed_versions(out: Path) -> None:
    now = layout.versions()
    changed = [f"{name} {was}" for name, was in layout.read_record(out)["versions"].items() if now.get(name) != was]
    if changed:
        print(
            f"{out}: begun with {', '.join(changed)}; further nets equal what those versions give to rounding only",
            file=sys.stderr,
        )


def _remove_temporary_files(out: Path) -> None:
    """What a writer left that was killed."""
    for path in out.rglob(f".*{disk.TEMPORARY}"):
        disk.remove(path)


def _log(out: Path, event: str, **facts: object) -> None:
    """Times and host facts, for people; nothing reads them back."""
    with open(out / layout.LOG, "a") as file:
        file.write(json.dumps({"time": round(time.time(), 3), "event": event, **facts}) + "\n")
