"""A Ray cluster (https://docs.ray.io): every group is a task on one core or one GPU.

What travels is the path of the zoo and the name of a group; images, plan and weights lie in folders that all machines
share, under one path. A task whose worker dies runs again, maybe beside one that was taken for dead; both put the same
bytes where nothing is (`metanet.zoo.work`), so every snapshot is there once.
"""

from __future__ import annotations

import functools
import os
import platform
from collections import deque
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from metanet import machine
from metanet.zoo import layout, plan
from metanet.zoo.executors import Report, Split
from metanet.zoo.executors.local import check as check_device
from metanet.zoo.images import Images
from metanet.zoo.plan import Group
from metanet.zoo.spec import check_spec
from metanet.zoo.work import TooLarge, Work

RETRIES = 20  # of a task whose worker died; spot machines come and go


def check(device: str) -> None:
    """The driver itself needs no GPU: the machines of the cluster do, and say so."""
    _ray()


def run(work: Work, groups: list[Group], processes: int | None, report: Report, split: Split) -> None:
    """Trains the groups on the cluster that $RAY_ADDRESS names or that runs here, else on a new local one.

    Raises:
        ValueError, OSError: what a task met, with the group's name and its machine.
        ChildProcessError: the workers of a group died again and again.
    """
    ray = _ray()
    joined = ray.is_initialized()
    if not joined:
        ray.init(log_to_driver=False, include_dashboard=False)
    try:
        resources = {"num_cpus": 1} if work.device == "cpu" else {"num_cpus": 1, "num_gpus": 1}
        task = ray.remote(**resources, max_retries=RETRIES)(_train)
        data = os.environ.get("METANET_DATA") or str(Path("data").resolve())
        pending = deque(groups)
        running: dict[Any, Group] = {}
        while pending or running:
            while pending and (processes is None or len(running) < processes):
                group = pending.popleft()
                running[task.remote(str(work.zoo.resolve()), group.name, work.device, data)] = group
            (ended, *_), _ = ray.wait(list(running))
            group = running.pop(ended)
            if _result(ray, ended, group):
                report(group, 1.0)
            else:
                pending.extend(split(group))
    finally:
        if not joined:
            ray.shutdown()


def _ray() -> ModuleType:
    try:
        import ray  # only here: it takes seconds, and is an extra
    except ImportError as error:
        raise ValueError(f"executor=ray needs Ray, which is missing ({error}): pip install 'metanet[ray]'") from error
    return ray


def _result(ray: ModuleType, task: Any, group: Group) -> bool:
    """Whether the group is trained; False if it does not fit in memory."""
    try:
        return ray.get(task)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ValueError | OSError):
            error.cause.add_note(f"in group {group.name}")
            raise error.cause from error
        raise
    except ray.exceptions.RayError as error:
        reason = " ".join(str(error).split())
        raise ChildProcessError(
            f"group {group.name}: its workers died {RETRIES + 1} times ({reason}). The same command goes on from the "
            f"last snapshot."
        ) from error


def _train(zoo: str, group: str, device: str, data: str) -> bool:
    """On a machine of the cluster: the same as `Work.train`; False if there is too little memory."""
    os.environ["METANET_DATA"] = data
    if not (Path(zoo) / layout.RECORD).is_file():
        raise FileNotFoundError(f"{zoo}: not there on {platform.node()}. executor=ray needs a folder that all share.")
    record = layout.read_record(Path(zoo))
    entry = next(entry for entry in record["plan"] if entry["group"] == group)
    work, nets, images = _prepared(zoo, record["spec_sha256"], device)
    try:
        work.train(plan.from_json([entry], nets)[0], images, lambda fraction: None)
    except TooLarge:
        return False
    return True


@functools.lru_cache(maxsize=1)
def _prepared(zoo: str, spec_sha256: str, device: str) -> tuple[Work, list[Any], dict[str, Images]]:
    """What a worker keeps from task to task; `spec_sha256` tells a zoo from another that took its path."""
    check_device(device)
    machine.tune_allocator()
    torch.set_num_threads(1)
    spec = check_spec(layout.read_record(Path(zoo))["spec"], zoo)
    assert spec.hash() == spec_sha256
    work = Work(spec, Path(zoo), device)
    return work, spec.nets(), work.images()
