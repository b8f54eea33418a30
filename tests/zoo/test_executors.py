"""A real local Ray cluster of two workers, one of which is killed."""

import os
import signal
import time
from pathlib import Path
from threading import Thread

import pytest

from metanet.zoo.make import make_zoo
from metanet.zoo.spec import check_spec
from tests.zoo.test_make_zoo import command_line, tree


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
