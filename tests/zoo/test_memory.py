"""Too little memory: groups are halved, and a net that is too large alone is named."""

import os
import resource
import signal
from pathlib import Path

import pytest
import torch

import metanet
from metanet import machine
from metanet.zoo import layout, plan, work
from metanet.zoo.executors import local
from metanet.zoo.make import make_zoo
from metanet.zoo.spec import check_spec
from tests.zoo.making import in_child, tree, worker_processes


def without_memory(monkeypatch, most: int, error: Exception) -> None:
    """Training runs out of memory after the first snapshot of every group of more than `most` nets."""

    def fit(group, images, seed, device, resume, on_snapshot, way):
        def keep(snapshot):
            on_snapshot(snapshot)
            if len(group) > most:
                raise error

        yield from real(group, images, seed, device, resume, keep, way=way)

    real = work.fit
    monkeypatch.setattr(work, "fit", fit)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: not enough memory")],
)
def test_a_group_that_is_too_large_is_halved_and_a_resume_honours_it(tmp_path, tiny_spec, monkeypatch, capsys, error):
    spec, out = check_spec(tiny_spec, "here"), tmp_path / "tiny"
    planned = plan.to_json(plan.plan(spec.nets()))
    with monkeypatch.context() as patched:
        without_memory(patched, 1, error)
        zoo = make_zoo(spec, out, processes=1)
    assert "needs too much memory; split: " in capsys.readouterr().err
    assert zoo.verify() == []
    rows = [(row["net"], row["step"]) for row in zoo.manifest.to_pylist()]
    assert len(set(rows)) == len(rows) == 36
    last = [row["group"] for row in zoo.manifest.to_pylist() if row["snapshot_fraction"] == 1]
    assert len(set(last)) == len(last)  # each net ended in a group of its own
    assert len(zoo.record["plan"]) > len(planned)
    whole = tree(out)
    row = next(row for row in zoo.manifest.to_pylist() if row["step"] and row["group"].endswith(("a", "b")))
    layout.shard_path(out, row["group"], row["step"]).unlink()
    make_zoo(spec, out, processes=1)  # there is memory now, but the recorded plan holds
    assert tree(out) == whole


def test_a_single_net_that_is_too_large_is_named(tmp_path, tiny_spec, monkeypatch):
    without_memory(monkeypatch, 0, MemoryError())
    with pytest.raises(OSError, match=r"group .*: net \d+ alone \(.* parameters, .* needs more memory than there is"):
        make_zoo(check_spec(tiny_spec, "here"), tmp_path / "tiny", processes=1)


def test_every_kind_of_lacking_memory_is_known():
    for error in (MemoryError(), torch.OutOfMemoryError(), RuntimeError("CUDA error: out of memory\nCUDA kernel")):
        assert machine.is_out_of_memory(error)
    for other in (RuntimeError("CUDA error: an illegal memory access was encountered"), ValueError("out of memory")):
        assert not machine.is_out_of_memory(other)
    assert machine.memory_kills() >= 0


def test_memory_that_lacked_while_a_graph_was_recorded_is_known_by_what_came_before():
    def recorded(first: Exception) -> RuntimeError:
        try:
            try:
                raise first
            finally:
                raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
        except RuntimeError as error:
            return error

    assert machine.is_out_of_memory(recorded(torch.OutOfMemoryError("CUDA out of memory")))
    assert not machine.is_out_of_memory(recorded(RuntimeError("a bug")))


def test_another_runtime_error_is_no_lack_of_memory(tmp_path, tiny_spec, monkeypatch):
    without_memory(monkeypatch, 0, RuntimeError("a bug"))
    with pytest.raises(RuntimeError, match="a bug"):
        make_zoo(check_spec(tiny_spec, "here"), tmp_path / "tiny", processes=1)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs the size of this process, as Linux tells it")
def test_a_process_with_too_little_memory_halves_its_groups_until_they_fit(tmp_path, tiny_spec, capfd):
    """The system itself refuses: torch's allocator gets no more than so many bytes."""
    wide = {"family": "mlp", "depth": 3, "width": 1024, "batch_norm": False}  # more than what tests before it freed
    tiny_spec |= {"num_nets": 16, "num_architectures": 1, "train_images": 64, "eval_images": 16, "epochs": 1}
    tiny_spec |= {"snapshots": [0.0, 1.0]}
    tiny_spec["hyperparameters"]["batch_size"] = 64
    spec = check_spec(tiny_spec | {"architectures": [wide]}, "here")
    assert [len(group) for group in plan.plan(spec.nets())] == [16]

    def make():
        small = check_spec(tiny_spec | {"architectures": [wide | {"width": 8}]}, "here")
        make_zoo(small, tmp_path / "small", processes=1)  # loads all libraries
        size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (size + 2**28, size + 2**28))
        make_zoo(spec, tmp_path / "zoo", processes=1)

    assert in_child(make) == 0
    assert "(16 nets) needs too much memory; split: " in capfd.readouterr().err
    zoo = metanet.open_zoo(tmp_path / "zoo")
    assert zoo.verify() == []
    assert zoo.finished
    assert sorted(zip(zoo.manifest["net"].to_pylist(), zoo.manifest["snapshot_fraction"].to_pylist(), strict=True)) == [
        (net, fraction) for net in range(16) for fraction in (0.0, 1.0)
    ]


@pytest.mark.slow
def test_a_worker_that_the_system_ends_for_want_of_memory_is_replaced_and_its_group_halved(
    tmp_path, tiny_spec, monkeypatch, capsys
):
    killed: list[int] = []
    real = local.run

    def run(work, groups, processes, report, split):
        def killing(group, fraction):
            report(group, fraction)
            if not killed:
                killed.append(worker_processes(os.getpid())[0])
                os.kill(killed[0], signal.SIGKILL)

        real(work, groups, processes, killing, split)

    monkeypatch.setattr(local, "run", run)
    monkeypatch.setattr(machine, "memory_kills", lambda: len(killed))
    zoo = make_zoo(check_spec(tiny_spec, "here"), tmp_path / "tiny", processes=2)
    assert "needs too much memory; split: " in capsys.readouterr().err
    assert zoo.verify() == []
    assert (
        len(zoo) == len(set(zip(zoo.manifest["net"].to_pylist(), zoo.manifest["step"].to_pylist(), strict=True))) == 36
    )
