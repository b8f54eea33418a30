"""Make: trains the nets of a spec into a folder, so that a kill at any time costs no snapshot that was acknowledged."""

from __future__ import annotations

import platform
import sys
import time
from pathlib import Path
from types import ModuleType

from metanet import machine
from metanet.progress import progress
from metanet.zoo import disk, executors, layout, manifest, plan, sizes
from metanet.zoo.plan import Group
from metanet.zoo.spec import Spec
from metanet.zoo.store import Zoo, open_zoo
from metanet.zoo.way import Way, choose
from metanet.zoo.work import Work


def make_zoo(
    spec: Spec,
    out: str | Path,
    device: str = "cpu",
    processes: int | None = None,
    executor: str = "local",
    way: Way | None = None,
) -> Zoo:
    """The finished zoo of `spec` in the folder `out`; goes on from what is there already.

    Args:
        processes: groups at once: workers on a CPU (None = one per core), streams on a GPU (None = as many as fill it).
            They do not change the result, on a GPU but for rounding.
        executor: where groups are trained, one of `metanet.zoo.executors`; it does not change the result either.
        way: how a GPU computes; None = as `metanet.zoo.way.choose` has it.

    Raises:
        ValueError: a device or executor that is not there, or `out` holds another zoo.
        FileExistsError: `out` holds something else.
        FileNotFoundError: an image set is not there.
        LockedError: another process writes to `out`.
        ChildProcessError: a worker died. The same call goes on from there.
        OSError: disk full, no permission, or a single net that needs more memory than there is.
    """
    out = Path(out)
    way = way or choose(device)
    check_options(device, processes, executor, way)
    recorded = _recorded(spec, out, device, way)
    if recorded and layout.is_complete(out, layout.read_record(out)):
        disk.sync_folder(out)  # a kill may have come after the manifest's rename
        print(f"{out}: finished already", file=sys.stderr)
        return open_zoo(out)
    planned = recorded or plan.plan(spec.nets(), plan.STACK[device.split(":")[0]])
    Work(spec, out, "cpu").images()  # a missing set is an error before anything is written
    disk.make_folder(out)
    with disk.one_writer(out):
        groups = _recorded(spec, out, device, way)
        if groups is None:
            groups = planned
            disk.write_atomically(out / layout.RECORD, layout.pack_record(spec, groups, device, way.tf32))
        _tell_changed_versions(out)
        disk.make_folder(out / "manifest")
        disk.sync_folders(out)
        _remove_leftovers(out)
        _train(Work(spec, out, device, way), groups, processes, executors.find(executor))
        _remove_leftovers(out)
        paths = [layout.fragment_path(out, *snapshot) for snapshot in layout.snapshots(layout.read_record(out))]
        disk.write_atomically(out / layout.MANIFEST, manifest.merge({path.name: path.read_bytes() for path in paths}))
    return open_zoo(out)


def check_options(device: str, processes: int | None, executor: str, way: Way) -> None:
    """ValueError for a device, a number of workers, an executor or a way that cannot be had here."""
    execute = executors.find(executor)
    if processes is not None and processes < 1:
        raise ValueError(f"processes={processes}: expected at least 1")
    if device.split(":")[0] not in plan.STACK:
        raise ValueError(f"device={device}: expected {' or '.join(plan.STACK)}")
    execute.check(device, way)


def _train(work: Work, groups: list[Group], processes: int | None, execute: ModuleType) -> None:
    """Trains what is not there yet, the most expensive groups first, so that the workers end together."""
    pending = [group for group in groups if not work.is_done(group)]
    costs = {group.name: sizes.training_cost(group) for group in pending}
    pending.sort(key=lambda group: -costs[group.name])
    nets = sum(len(group) for group in pending)
    done = dict.fromkeys(costs, 0.0)
    shown, begun = 0, time.monotonic()
    layout.log(work.zoo, "start", nets=nets, host=platform.node(), machine=machine.describe(work.device))
    with progress(f"training {work.zoo.name}", nets) as advance:

        def report(group: Group, fraction: float) -> None:
            """Shows nets weighted by their cost, so that the rate stays even and the time left true."""
            nonlocal shown
            done[group.name] = fraction
            spent = sum(done[name] * cost for name, cost in costs.items())
            count = int(nets * spent / sum(costs.values()) + 1e-6)
            if count > shown:
                advance(count - shown)
                shown = count
            if fraction == 1:
                layout.log(work.zoo, "group", group=group.name, nets=len(group))

        def split(group: Group) -> list[Group]:
            parts = _split(work, group)
            del costs[group.name], done[group.name]
            costs.update((part.name, sizes.training_cost(part)) for part in parts)
            done.update((part.name, 0.0) for part in parts)
            return parts

        if pending:
            execute.run(work, pending, processes, report, split)
    layout.log(work.zoo, "finish", seconds=round(time.monotonic() - begun, 1))


def _split(work: Work, group: Group) -> list[Group]:
    """What is trained in the place of a group that does not fit in memory; recorded in zoo.json before it begins.

    Raises:
        OSError: the group is a single net.
    """
    if len(group) == 1:
        size = sizes.size(group)
        raise OSError(
            f"group {group.name}: net {group.nets[0].net} alone ({size.parameters:,} parameters, batches of "
            f"{group.batch_size}) needs more memory than there is. Give fewer processes=, more memory, or a spec "
            f"without {group.arch_name}."
        )
    acknowledged = work.acknowledged(group)
    if group.stops_early and acknowledged:
        raise OSError(
            f"group {group.name}: its shard is lost, and to train it anew needs more memory than there is. It is not "
            f"halved, since its manifest fragment is there. Give fewer processes=, or more memory."
        )
    parts = plan.split(group, acknowledged)
    record = layout.read_record(work.zoo)
    groups = plan.from_json(record["plan"], work.spec.nets())
    replaced = [part for one in groups for part in (parts if one.name == group.name else [one])]
    disk.write_atomically(work.zoo / layout.RECORD, layout.replan(record, replaced))
    names = ", ".join(part.name for part in parts[-2:])
    print(f"{work.zoo}: group {group.name} ({len(group)} nets) needs too much memory; split: {names}", file=sys.stderr)
    layout.log(work.zoo, "split", group=group.name, parts=[part.name for part in parts])
    return parts


def _recorded(spec: Spec, out: Path, device: str, way: Way) -> list[Group] | None:
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
    planned = plan.from_json(record["plan"], spec.nets())
    schema = layout.schema(planned)
    if record["schema"] != schema and not layout.is_complete(out, record):
        raise ValueError(
            f"{out}: begun by metanet {record['versions']['metanet']} (schema {record['schema']}, here is "
            f"{schema}): it can be read as it is, but not gone on with. Finish it with that version, or choose "
            f"another out=."
        )
    if record["device"] != device.split(":")[0]:
        raise ValueError(
            f"{out}: was begun with device={record['device']}, found device={device}. Go on with the former."
        )
    if record.get("tf32", False) != way.tf32:
        begun, found = ("true", "false") if not way.tf32 else ("false", "true")
        raise ValueError(f"{out}: was begun with tf32={begun}, found tf32={found}. Go on with the former.")
    return planned


def _tell_changed_versions(out: Path) -> None:
    now = layout.versions()
    changed = [f"{name} {was}" for name, was in layout.read_record(out)["versions"].items() if now.get(name) != was]
    if changed:
        print(
            f"{out}: begun with {', '.join(changed)}; further nets equal what those versions give to rounding only",
            file=sys.stderr,
        )


def _remove_leftovers(out: Path) -> None:
    """Removes what a killed writer left: temporary files, and shards and resume files that nothing counts on."""
    record = layout.read_record(out)
    for path in out.rglob(f".*{disk.TEMPORARY}"):
        disk.remove(path)
    kept: set[Path] = set()
    for entry in record["plan"]:
        steps, group = layout.steps(entry), entry["group"]
        there = [step for step in steps if layout.fragment_path(out, group, step).is_file()]
        kept |= {layout.shard_path(out, group, step) for step in there}
        if steps == [None] and not there:
            kept |= set((out / "shards" / group).glob("*.safetensors"))
        elif len(there) < len(steps):
            kept |= {layout.resume_path(out, group, step) for step in there if step is not None}
    for path in (out / "shards").rglob("*.safetensors"):
        if path not in kept:
            disk.remove(path)
    groups = [entry["group"] for entry in record["plan"]]
    for folder in (out / "shards").glob("*"):
        if folder.is_dir() and folder.name not in groups:  # split before it had a snapshot
            disk.remove_folder(folder)
