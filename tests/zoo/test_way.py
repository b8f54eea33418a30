"""How a device computes: what is chosen for it, what a choice does, and that it changes nothing but rounding."""

import contextlib
import json

import pytest
import torch

import metanet
from metanet.zoo import convolutions, layout, make, way
from metanet.zoo.convolutions import VARIANTS, Fastest
from metanet.zoo.executors import local
from metanet.zoo.fit import Training
from metanet.zoo.make import make_zoo
from metanet.zoo.plan import plan
from metanet.zoo.spec import check_spec
from metanet.zoo.way import Way, choose
from metanet.zoo.work import Work
from tests.zoo.plain_loop import CNN, SEED, group


def test_a_gpu_gets_the_best_that_is_known_unless_another_is_given():
    assert choose("cuda:1") == Way("fastest", graphs=True, tf32=False)
    assert choose("cuda", "triton", graphs=False, tf32=True) == Way("triton", graphs=False, tf32=True)
    assert choose("cpu") == Way("grouped", graphs=False, tf32=False)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"convolution": "unfolded"}, "convolution=unfolded: a choice for GPUs, found device=cpu"),
        ({"graphs": False}, "graphs=False: a choice for GPUs"),
        ({"tf32": True}, "tf32=True: a choice for GPUs"),
        ({"convolution": "cudnn"}, "convolution=cudnn: expected one of grouped, planar, unfolded, triton, fastest"),
    ],
)
def test_what_a_cpu_does_not_have_is_refused(chosen, message):
    with pytest.raises(ValueError, match=message):
        choose("cpu", **chosen)


def flags() -> tuple[bool, str, bool]:
    cudnn = torch.backends.cudnn
    return cudnn.allow_tf32, torch.get_float32_matmul_precision(), cudnn.benchmark


@pytest.mark.parametrize("tf32", [True, False])
def test_tf32_holds_for_products_and_convolutions_while_a_gpu_trains_and_no_longer(tf32, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    before = flags()
    with Way(tf32=tf32).on("cuda"):
        assert flags() == (tf32, "high" if tf32 else "highest", True)
    assert flags() == before
    with Way(tf32=tf32).on("cpu"):
        assert flags() == before


def trained(chosen: Way, images) -> dict[str, torch.Tensor]:
    changes = [{}, {"activation": "tanh"}, {"augmentation": True}]
    training = Training(group(changes, CNN), images, SEED, torch.device("cpu"), torch.float64, chosen)
    for _ in range(4):
        training.step()
    return training.snapshot().state_dict


@pytest.mark.parametrize("convolution", [name for name in VARIANTS if name != "triton"])
def test_nets_are_the_same_to_rounding_however_they_are_convolved(convolution, images):
    expected = trained(Way(), images)
    for name, value in trained(Way(convolution), images).items():
        torch.testing.assert_close(value, expected[name], msg=lambda text, name=name: f"{name}: {text}")


def test_a_convolution_that_is_wrong_would_be_found(images, monkeypatch):
    """The twin."""
    monkeypatch.setitem(VARIANTS, "planar", lambda *of: 1.001 * VARIANTS["grouped"](*of))
    expected, found = trained(Way(), images), trained(Way("planar"), images)
    assert any(not torch.allclose(found[name].double(), value.double()) for name, value in expected.items())


def test_what_was_fastest_is_in_the_log(tmp_path, tiny_spec, monkeypatch):
    fastest = Fastest(convolutions.WAYS)
    monkeypatch.setattr(convolutions, "FASTEST", fastest)
    monkeypatch.setitem(VARIANTS, "fastest", fastest)
    spec = check_spec(tiny_spec, "here")
    (tmp_path / "manifest").mkdir()
    work = Work(spec, tmp_path, "cpu", Way("fastest"))
    groups = [each for each in plan(spec.nets()) if each.arch["family"] != "mlp"]
    work.train(groups[0], work.images(), lambda fraction: None)
    (line,) = (tmp_path / layout.LOG).read_text().splitlines()
    logged = json.loads(line)
    assert logged["event"] == "convolutions"
    assert logged["chosen"] == {str(case): name for case, name in fastest.chosen.items()}
    assert any("gradients of all" in case for case in logged["chosen"])
    assert fastest.news() == {}


def test_a_zoo_in_tf32_says_so_and_is_gone_on_with_in_tf32_alone(tmp_path, tiny_spec, monkeypatch):
    spec, out = check_spec(tiny_spec, "here"), tmp_path / "zoo"
    monkeypatch.setattr(local, "check", lambda device, way: None)
    monkeypatch.setattr(make, "_train", lambda *of: (_ for _ in ()).throw(InterruptedError))
    with pytest.raises(InterruptedError):
        make_zoo(spec, out, "cuda", way=choose("cuda", tf32=True))
    assert layout.read_record(out)["tf32"] is True
    with pytest.raises(InterruptedError):
        make_zoo(spec, other := tmp_path / "other", "cuda")
    assert "tf32" not in layout.read_record(other)
    for begun, path in ((True, out), (False, other)):
        with pytest.raises(ValueError, match=rf"was begun with tf32={begun}, found tf32={not begun}".lower()):
            make_zoo(spec, path, "cuda", way=choose("cuda", tf32=not begun))
        with pytest.raises(InterruptedError):
            make_zoo(spec, path, "cuda", way=choose("cuda", tf32=begun))


def test_a_zoo_of_a_cpu_says_nothing_of_gpus(tiny_zoo):
    assert "tf32" not in metanet.open_zoo(tiny_zoo.path).record


def test_the_way_of_a_device_is_made_sure_of_before_anything_is_written(tmp_path, tiny_spec, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(convolutions, "why_not", lambda name, device: "no reason" if name == "triton" else None)
    with pytest.raises(ValueError, match="convolution=triton: no reason"):
        make_zoo(check_spec(tiny_spec, "here"), tmp_path / "zoo", "cuda", way=way.choose("cuda", "triton"))
    assert not (tmp_path / "zoo").exists()
