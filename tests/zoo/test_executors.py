"""Groups in processes of this machine, and on a real local Ray cluster of two workers, one of which is killed."""

import functools
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from threading import Thread
from types import ModuleType, SimpleNamespace

import pytest

from metanet import machine
from metanet.zoo import executors, layout, plan
from metanet.zoo.executors import local, ray
from metanet.zoo.make import make_zoo
from metanet.zoo.spec import check_spec
from metanet.zoo.store import Zoo
from metanet.zoo.way import Way
from metanet.zoo.work import TooLarge, Work
from tests.zoo.making import command_line, tree, worker_processes


def test_what_a_worker_meets_reaches_the_caller_as_one_error(tmp_path, tiny_spec):
    """The folder of shards is a file, so no worker can write."""
    spec, out = check_spec(tiny_spec, "here"), tmp_path / "tiny"
    out.mkdir()
    groups = plan.plan(spec.nets())
    (out / "shards").write_text("in the way")
    with pytest.raises(OSError, match="shards"):
        local.run(Work(spec, out, "cpu"), groups, 2, lambda group, fraction: None, lambda group: [])


def test_a_dead_worker_is_one_clear_error(tmp_path, tiny_spec):
    spec, out = check_spec(tiny_spec, "here"), tmp_path / "tiny"
    (out / "manifest").mkdir(parents=True)

    def kill_a_worker(group, fraction):
        os.kill(worker_processes(os.getpid())[0], signal.SIGKILL)

    with pytest.raises(ChildProcessError, match=r"its worker died \(exit code -9.* same command goes on"):
        local.run(Work(spec, out, "cpu"), plan.plan(spec.nets()), 2, kill_a_worker, lambda group: [])


class Device:
    """Stands for a GPU in this process: what is trained there is on record, and it has memory for so many at once."""

    def __init__(self, most: int = 99):
        self.most, self.training = most, list[str]()
        self.together = set[frozenset[str]]()

    def steps(self, work: Work, group: plan.Group, images, report):
        self.training.append(group.name)
        try:
            for nets in self.real(work, group, images, report):
                self.together.add(frozenset(self.training))
                if len(self.training) > self.most:
                    raise TooLarge(group.name)
                yield nets
        finally:
            self.training.remove(group.name)

    real = staticmethod(Work.steps)


def trained_in_turns(spec, out: Path, at_once: int, device: Device, monkeypatch, order: Callable = list) -> Zoo:
    def run(work, groups, processes, report, split):
        local._take_turns(work, order(groups), at_once, report, split)

    with monkeypatch.context() as patched, machine.single_threaded():
        patched.setattr(Work, "steps", lambda *of: device.steps(*of))
        patched.setattr(local, "run", run)
        return make_zoo(spec, out)


def test_groups_that_take_turns_are_what_they_are_alone(tmp_path, tiny_spec, tiny_zoo, monkeypatch):
    device = Device()
    zoo = trained_in_turns(check_spec(tiny_spec, "here"), tmp_path / "zoo", 3, device, monkeypatch)
    assert tree(zoo.path) == tree(tiny_zoo.path)
    assert max(map(len, device.together)) == 3


def test_a_group_without_room_beside_others_waits_and_none_is_split(tmp_path, tiny_spec, tiny_zoo, monkeypatch):
    device = Device(most=2)
    zoo = trained_in_turns(check_spec(tiny_spec, "here"), tmp_path / "zoo", 5, device, monkeypatch)
    assert tree(zoo.path) == tree(tiny_zoo.path)


def test_groups_that_fill_a_gpu_are_trained_alone(tmp_path, tiny_spec, monkeypatch):
    spec = check_spec(tiny_spec, "here")
    groups = plan.plan(spec.nets())
    monkeypatch.setattr(local, "IMAGES", max(len(group) * group.batch_size for group in groups) - 1)
    device = Device()
    trained_in_turns(spec, tmp_path / "zoo", 5, device, monkeypatch)
    filling = [group.name for group in groups if len(group) * group.batch_size > local.IMAGES]
    assert all(len(names) == 1 for names in device.together if names & set(filling))


def test_a_group_begins_beside_another_when_most_nets_of_that_have_stopped(
    tmp_path, stopping_spec, stopping_zoo, monkeypatch
):
    def begin_with(groups: list[plan.Group]) -> list[plan.Group]:
        return sorted(groups, key=lambda group: (-group.batch_size, not group.stops_early))

    spec = check_spec(stopping_spec, "here")
    first, second, *_ = begin_with(plan.plan(spec.nets()))
    monkeypatch.setattr(local, "IMAGES", (len(first) + len(second)) * 64 - 1)  # no room for both while all nets train
    device = Device()
    zoo = trained_in_turns(spec, tmp_path / "zoo", 5, device, monkeypatch, begin_with)
    assert any({first.name, second.name} <= names for names in device.together)
    assert tree(zoo.path) == tree(stopping_zoo.path)


def test_ray_is_asked_for_only_when_it_is_used(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"executor=ray needs Ray, .*pip install 'ray>=2.40'"):
        executors.find("ray").check("cpu", Way())


class DiedError(Exception):
    """As ray.exceptions.WorkerCrashedError."""


class EndedForMemoryError(DiedError):
    """As ray.exceptions.OutOfMemoryError."""


class RaisedError(DiedError):
    """As ray.exceptions.RayTaskError."""

    def __init__(self, cause: Exception):
        self.cause = cause


class OneProcess(ModuleType):
    """What the executor uses of the module ray, in this process. `fates` are raised in the place of the first tasks."""

    exceptions = SimpleNamespace(RayError=DiedError, OutOfMemoryError=EndedForMemoryError, RayTaskError=RaisedError)

    def __init__(self, fates: Iterable[Exception | None]):
        super().__init__("ray")
        self.fates = iter(fates)

    def is_initialized(self) -> bool:
        return True

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 3.0}

    def get_runtime_context(self) -> SimpleNamespace:
        return SimpleNamespace(gcs_address="10.0.0.1:6379")

    def remote(self, **resources: int) -> Callable[[Callable[..., None]], SimpleNamespace]:
        assert resources == {"num_cpus": 1, "max_retries": 0}
        return lambda act: SimpleNamespace(remote=lambda *words: functools.partial(act, *words))

    def wait(self, tasks: list) -> tuple[list, list]:
        return tasks[:1], tasks[1:]

    def get(self, task: Callable[[], None]) -> None:
        fate = next(self.fates, None)
        if fate is not None:
            raise fate
        try:
            task()
        except Exception as error:
            raise RaisedError(error) from error


@pytest.fixture
def on(monkeypatch, tmp_path, tiny_spec) -> Callable[..., Zoo]:
    """Makes the tiny zoo on a cluster with the given fates."""
    monkeypatch.setenv("METANET_DATA", str(tmp_path))  # the tasks set it, here for all other tests too
    ray._prepared.cache_clear()

    def make(*fates: Exception | None, spec=tiny_spec) -> Zoo:
        monkeypatch.setattr(ray, "_ray", lambda: OneProcess(fates))
        return make_zoo(check_spec(spec, "here"), tmp_path / "tiny", executor="ray")

    return make


def test_a_cluster_is_named_and_groups_whose_workers_died_are_trained_again(on, tiny_zoo, capsys):
    zoo = on(DiedError("node gone"), None, DiedError("node gone"))
    assert "Ray cluster at 10.0.0.1:6379 with 3 cores and 0 GPUs\n" in capsys.readouterr().err
    assert tree(zoo.path) == tree(tiny_zoo.path)


def test_nets_that_stop_early_are_on_a_cluster_what_they_are_here(on, stopping_spec, stopping_zoo):
    assert tree(on(DiedError("node gone"), spec=stopping_spec).path) == tree(stopping_zoo.path)


def test_a_group_whose_workers_die_again_and_again_is_an_error(on):
    with pytest.raises(ChildProcessError, match=r"its worker died 20 times \(node gone\)\. The same command goes on"):
        on(*[DiedError("node gone") for _ in range(1000)])


@pytest.mark.parametrize("fate", [EndedForMemoryError("95% of the memory"), RaisedError(TooLarge("a group"))])
def test_a_group_that_is_too_large_for_a_machine_of_the_cluster_is_halved(on, capsys, fate):
    zoo = on(fate)
    assert "needs too much memory; split: " in capsys.readouterr().err
    assert zoo.verify() == []
    assert zoo.finished


def test_what_a_task_meets_reaches_the_caller(on):
    with pytest.raises(OSError, match="no space") as error:
        on(RaisedError(OSError(28, "no space")))
    assert error.value.__notes__[0].startswith("in group ")
    with pytest.raises(RuntimeError, match=r"group .*: "):
        on(RaisedError(KeyError("a bug")))


def test_a_machine_with_other_versions_or_without_the_folder_is_refused(on, monkeypatch, tmp_path):
    versions = layout.versions()
    with pytest.raises(FileNotFoundError, match=r"not there on .*needs a folder that all machines share"):
        ray._train("group", str(tmp_path / "nothing"), "cpu", str(tmp_path), versions, Way())
    with pytest.raises(ValueError, match=r"'torch': '0\.1'.* others give other bits\. Install the same on all"):
        ray._train("group", str(tmp_path / "nothing"), "cpu", str(tmp_path), versions | {"torch": "0.1"}, Way())


def ray_tasks() -> list[int]:
    """Processes of this user that run one of our tasks."""
    numbers = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [number for number in numbers if command_line(number).startswith(b"ray::_train")]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
@pytest.mark.parametrize("kind", ["tiny", "stopping"])
def test_a_killed_worker_of_a_cluster_costs_nothing(tmp_path, request, kind):
    spec, expected = (request.getfixturevalue(f"{kind}_{what}") for what in ("spec", "zoo"))
    real = pytest.importorskip("ray", reason="the extra `ray` is not installed")
    out, killed = tmp_path / "tiny", []

    def kill_one():
        while not killed:
            if [*out.rglob("*.parquet"), *out.rglob("candidate-8.safetensors")]:
                for number in ray_tasks()[:1]:
                    os.kill(number, signal.SIGKILL)
                    killed.append(number)
            time.sleep(0.01)

    real.init(address="local", num_cpus=2, log_to_driver=False, include_dashboard=False)
    try:
        killer = Thread(target=kill_one)
        killer.start()
        zoo = make_zoo(check_spec(spec, "here"), out, executor="ray")
        killer.join(timeout=30)
    finally:
        killed.append(0)
        real.shutdown()
    assert killed[0] > 0
    assert zoo.verify() == []
    assert tree(out) == tree(expected.path)
