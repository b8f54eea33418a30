"""The benchmark for a GPU, rehearsed on the CPU: every section is there, and what it finds wrong shows."""

import importlib
import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
device = importlib.import_module("benchmark_zoo_device")
SMALL = {"device": "cpu", "stack": 2, "batch_size": 4, "samples": 1, "streams": [2], "seconds": 0.0, "tf32": False}


@pytest.mark.slow
def test_a_rehearsal_on_the_cpu_measures_every_way_and_finds_all_right(tmp_path, capsys):
    options = device.Options(out=str(tmp_path), families=["small_cnn"], spec="zoo_specs/digits_mini.yaml", **SMALL)
    found = device.main(options)
    assert json.loads((tmp_path / "device.json").read_text()) == json.loads(json.dumps(found))
    assert found["failed"] == {}
    assert found["left_out"] == []
    assert set(found["right"]["small_cnn"]) == {"grouped", "planar", "unfolded", "fastest"}
    assert max(found["right"]["small_cnn"].values()) < 1e-9
    (group,) = found["spec"].values()
    assert min(group[way] for way in ("plain", "plain, fused", "grouped", "unfolded", "2 at once", "make_zoo")) > 0
    hours = found["whole"]["digits_mini"]["hours"]
    assert hours["plain"]["steps"] / hours["make_zoo"]["steps"] == pytest.approx(group["make_zoo"] / group["plain"])
    assert hours["make_zoo"]["evaluations"] > hours["plain"]["evaluations"] == 0
    assert {"grouped", "planar", "unfolded"} == set(found["shapes"][0]["seconds"])
    text = (tmp_path / "device.md").read_text()
    assert "All of digits_mini" in text
    assert "Microseconds of a convolution" in text


@pytest.fixture
def at_once(monkeypatch):
    """A machine whose limits are known without measuring."""
    monkeypatch.setattr(device.machine, "sgemm_rate", lambda *arguments: 1e9)
    monkeypatch.setattr(device.machine, "memcpy_rate", lambda *arguments: 1e9)


def test_what_there_was_no_time_for_is_named(tmp_path, capsys, at_once):
    options = device.Options(out=str(tmp_path), families=["mlp"], spec=None, budget=-1.0, **SMALL)
    assert device.main(options)["left_out"] == ["right mlp", "families mlp"]
    assert "Not measured, for want of time: right mlp, families mlp" in capsys.readouterr().out


def test_what_fails_is_named_and_the_rest_goes_on(tmp_path, capsys, at_once, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("no such kernel")

    monkeypatch.setitem(device.VARIANTS, "planar", broken)
    options = device.Options(out=str(tmp_path), families=["small_cnn"], spec=None, **SMALL)
    found = device.main(options)
    assert found["failed"] == dict.fromkeys(
        ("right small_cnn planar", "small_cnn planar"), "RuntimeError: no such kernel"
    )
    assert found["families"]["small_cnn"]["planar"] is None
    assert found["families"]["small_cnn"]["grouped"] > 0
    assert "Failed: small_cnn planar: RuntimeError: no such kernel" in capsys.readouterr().out


def test_a_wrong_result_shows(monkeypatch):
    monkeypatch.setitem(device.VARIANTS, "fastest", lambda *arguments: 1.01 * device.VARIANTS["grouped"](*arguments))
    differences = device.right("small_cnn", device.Options(**SMALL), {"failed": {}})
    assert differences["fastest"] > 1e-3
    assert differences["unfolded"] < 1e-9
