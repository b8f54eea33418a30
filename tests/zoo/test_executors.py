"""Groups in processes of this machine, and on a real local Ray cluster of two workers, one of which is killed."""

import os
import signal
import sys
import time
from pathlib import Path
from threading import Thread

import pytest

from metanet.zoo import executors, plan
from metanet.zoo.executors import local
from metanet.zoo.make import make_zoo
from metanet.zoo.spec import check_spec
from metanet.zoo.work import Work
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


def test_ray_is_asked_for_only_when_it_is_used(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"executor=ray needs Ray, .*pip install 'ray>=2.40'"):
        executors.find("ray").check("cpu")


def ray_tasks() -> list[int]:
    """Processes of this user that run one of our tasks."""
    numbers = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [number for number in numbers if command_line(number).startswith(b"ray::_train")]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_killed_worker_of_a_cluster_costs_nothing(tmp_path, tiny_spec, tiny_zoo):
    ray = pytest.importorskip("ray")
    out, killed = tmp_path / "tiny", []

    def kill_one():
        while not killed:
            if list(out.rglob("*.parquet")):
                for number in ray_tasks()[:1]:
                    os.kill(number, signal.SIGKILL)
                    killed.append(number)
            time.sleep(0.01)

    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
    try:
        killer = Thread(target=kill_one)
        killer.start()
        zoo = make_zoo(check_spec(tiny_spec, "here"), out, executor="ray")
        killer.join(timeout=30)
    finally:
        killed.append(0)
        ray.shutdown()
    assert killed[0] > 0
    assert zoo.verify() == []
    assert tree(out) == tree(tiny_zoo.path)
