"""A Ray cluster (https://docs.ray.io): every group is a task on one core or one GPU. docs/cluster.md is for users.

What travels is the path of the zoo and the name of a group; images, plan and weights lie in folders that all machines
share, under one path. A group whose worker died is trained again, maybe beside one that was only taken for dead; both
put the same bytes where nothing is (`metanet.zoo.work`), so every snapshot is there once.
"""

from __future__ import annotations

import functools
import os
import platform
import sys
from collections import Counter, deque
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from metanet import machine
from metanet.zoo import disk, images, layout, plan
from metanet.zoo.executors import Report, Split
from metanet.zoo.executors.local import check as check_here
from metanet.zoo.images import Images
from metanet.zoo.plan import Group
from metanet.zoo.spec import check_spec
from metanet.zoo.way import Way
from metanet.zoo.work import TooLarge, Work

ATTEMPTS = 20  # at a group whose workers die; spot machines come and go


def check(device: str, way: Way) -> None:
    """The driver itself needs no GPU: the machines of the cluster do, and say so."""
    _ray()


def run(work: Work, groups: list[Group], processes: int | None, report: Report, split: Split) -> None:
    """Trains the groups on the cluster that this process has joined, that $RAY_ADDRESS names or that runs on this
    machine, else on a new one of this machine alone; stderr says on which.

    Raises:
        ValueError, OSError: what a task met, with the group's name.
        ChildProcessError: the workers of a group died again and again.
    """
    ray = _ray()
    joined = ray.is_initialized()
    if not joined:
        ray.init(log_to_driver=False, include_dashboard=False)
    try:
        _tell(ray, work)
        device = work.device.split(":")[0]  # Ray says which of a machine's
        resources = {"num_cpus": 1} if device == "cpu" else {"num_cpus": 1, "num_gpus": 1}
        # Ray's own retries of a task that needs too much memory have no end, so it gets none
        task = ray.remote(**resources, max_retries=0)(_train)
        data = str(images.root_folder().resolve())
        common = (str(work.zoo.resolve()), device, data, layout.versions(), work.way)
        pending, deaths = deque(groups), Counter[str]()
        running: dict[Any, Group] = {}
        while pending or running:
            while pending and (processes is None or len(running) < processes):
                group = pending.popleft()
                running[task.remote(group.name, *common)] = group
            (ended, *_), _ = ray.wait(list(running))
            group = running.pop(ended)
            try:
                _get(ray, ended, group)
                report(group, 1.0)
            except TooLarge:
                pending.extend(split(group))
            except ray.exceptions.RayError as error:  # its worker or the machine is gone
                deaths[group.name] += 1
                if deaths[group.name] == ATTEMPTS:
                    raise ChildProcessError(
                        f"group {group.name}: its worker died {ATTEMPTS} times ({' '.join(str(error).split())}). "
                        f"The same command goes on from the last snapshot."
                    ) from error
                pending.append(group)
        disk.sync_folders(work.zoo)  # opening a folder anew shows what others wrote through a network file system
    finally:
        if not joined:
            ray.shutdown()


def _ray() -> ModuleType:
    try:
        import ray  # only here: it takes seconds, and is an extra
    except ImportError as error:
        raise ValueError(f"executor=ray needs Ray, which is missing ({error}): pip install 'ray>=2.40'") from error
    return ray


def _tell(ray: ModuleType, work: Work) -> None:
    """Which cluster it is: one that runs here is joined without being asked for."""
    found = ray.cluster_resources()
    cores, gpus = int(found.get("CPU", 0)), int(found.get("GPU", 0))
    address = ray.get_runtime_context().gcs_address
    waits = "; nothing is trained before a machine with a GPU joins" if work.device != "cpu" and not gpus else ""
    print(f"{work.zoo}: Ray cluster at {address} with {cores} cores and {gpus} GPUs{waits}", file=sys.stderr)


def _get(ray: ModuleType, task: Any, group: Group) -> None:
    """Nothing if the group is trained; else raises what its task raised."""
    try:
        ray.get(task)
    except ray.exceptions.OutOfMemoryError as error:  # Ray killed it before the system would
        raise TooLarge(group.name) from error
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, TooLarge):
            raise error.cause from error
        if isinstance(error.cause, ValueError | OSError):
            error.cause.add_note(f"in group {group.name}")
            raise error.cause from error
        raise RuntimeError(f"group {group.name}: {error}") from error


def _train(group: str, zoo: str, device: str, data: str, versions: dict[str, str], way: Way) -> None:
    """On a machine of the cluster: the same as `Work.train`."""
    here = platform.node()
    if layout.versions() != versions:
        raise ValueError(
            f"{here}: found {layout.versions()}, expected the versions of the machine where the command was given, "
            f"{versions}: others give other bits. Install the same on all machines."
        )
    if not (Path(zoo) / layout.RECORD).is_file():
        raise FileNotFoundError(f"{zoo}: not there on {here}. executor=ray needs a folder that all machines share.")
    os.environ["METANET_DATA"] = data
    record = layout.read_record(Path(zoo))
    entry = next(entry for entry in record["plan"] if entry["group"] == group)
    work, nets, loaded = _prepared(zoo, record["spec_sha256"], device, way)
    work.train(plan.from_json([entry], nets)[0], loaded, lambda fraction: None)


@functools.lru_cache(maxsize=1)
def _prepared(zoo: str, spec_sha256: str, device: str, way: Way) -> tuple[Work, list[Any], dict[str, Images]]:
    """What a worker keeps from task to task; `spec_sha256` tells a zoo from another that took its path."""
    check_here(device, way)
    machine.tune_allocator()
    torch.set_num_threads(1)
    work = Work(check_spec(layout.read_record(Path(zoo))["spec"], zoo), Path(zoo), device, way)
    return work, work.spec.nets(), work.images()
