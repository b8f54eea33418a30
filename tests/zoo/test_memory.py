"""Too little memory: groups are halved, and a net that is too large alone is named."""

import pytest
import torch

from metanet.zoo import layout, plan, work
from metanet.zoo.make import make_zoo
from metanet.zoo.spec import check_spec
from tests.zoo.making import tree


def without_memory(monkeypatch, most: int, error: Exception) -> None:
    """Training runs out of memory after the first snapshot of every group of more than `most` nets."""

    def fit(group, images, seed, device, resume, on_snapshot):
        def keep(snapshot):
            on_snapshot(snapshot)
            if len(group) > most:
                raise error

        real(group, images, seed, device, resume, keep)

    real = work.fit
    monkeypatch.setattr(work, "fit", fit)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("DefaultCPUAllocator: not enough")],
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


def test_another_runtime_error_is_no_lack_of_memory(tmp_path, tiny_spec, monkeypatch):
    without_memory(monkeypatch, 0, RuntimeError("a bug"))
    with pytest.raises(RuntimeError, match="a bug"):
        make_zoo(check_spec(tiny_spec, "here"), tmp_path / "tiny", processes=1)
