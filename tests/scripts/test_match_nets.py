"""The script that aligns two nets of a zoo, on a real one."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from metanet.zoo import images
from metanet.zoo.store import Zoo
from scripts import match_nets


@pytest.fixture(scope="module")
def pair(tiny_zoo: Zoo) -> list[dict[str, Any]]:
    """The last rows of two nets of one architecture with batch norm and one activation."""
    found: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
    for row in tiny_zoo.manifest.to_pylist():
        if row["status"] == "ok" and "bn" in row["arch"]:
            found.setdefault((row["arch"], row["activation"]), {})[row["net"]] = row
    return next(list(rows.values())[:2] for rows in found.values() if len(rows) > 1)


@pytest.fixture
def options(tiny_zoo: Zoo, pair, tmp_path: Path):
    nets = [row["net"] for row in pair]
    return match_nets.Options(zoo=str(tiny_zoo.path), nets=nets, images=96, points=3, out=str(tmp_path / "line.html"))


@pytest.mark.parametrize("method", ["weights", "activations", "straight_through"])
def test_the_ends_are_the_two_nets_as_the_zoo_evaluated_them(tiny_zoo, pair, options, method, capsys):
    result = match_nets.main(dataclasses.replace(options, method=method, epochs=1, reset=False))
    for line in (result.before, result.after):
        assert line.accuracy[0] == pytest.approx(pair[0]["test_accuracy"], abs=1e-6)
        assert line.accuracy[-1] == pytest.approx(pair[1]["test_accuracy"], abs=1e-6)
        assert line.loss[-1] == pytest.approx(pair[1]["test_loss"], rel=1e-4)
        assert line.barrier >= 0
    assert result.before.loss[1] != result.after.loss[1]
    assert result.function_error <= 1e-10
    if method == "weights":
        assert result.distance_after < result.distance_before
    printed = capsys.readouterr().out
    assert f"{result.after.barrier:.4f}" in printed
    assert method in printed


def test_the_loss_halfway_is_that_of_the_mean_net(tiny_zoo, pair, options):
    result = match_nets.main(dataclasses.replace(options, reset=False))
    states = [tiny_zoo.state_dict(row["net"], row["step"]) for row in pair]
    net = tiny_zoo.module(pair[0]["net"], pair[0]["step"])
    for name, value in net.state_dict().items():
        value.copy_((states[0][name] + states[1][name]) / 2)
    found = images.load("digits", shape=(1, 8, 8))
    count = tiny_zoo.spec["eval_images"]
    logits = net(found.test[:count].float() / 127.5 - 1)
    assert result.before.loss[1] == pytest.approx(F.cross_entropy(logits, found.test_labels[:count]).item(), rel=1e-4)
    assert match_nets.main(options).before.loss[1] != result.before.loss[1]  # statistics measured anew


def test_the_figure_stands_alone_as_a_page_and_is_a_png_on_request(options, tmp_path: Path):
    match_nets.main(options)
    text = (tmp_path / "line.html").read_text(encoding="utf-8")
    assert "barrier" in text
    assert not re.findall(r"""<(?:script|link|img)[^>]*(?:src|href)=(?!["']data:)""", text)
    match_nets.main(dataclasses.replace(options, out=str(tmp_path / "line.png")))
    assert (tmp_path / "line.png").read_bytes()[:4] == b"\x89PNG"


def test_wrong_options_are_refused_before_anything_is_read(options, tmp_path: Path):
    for change, message in (
        ({"nets": [0]}, r"nets=\[0\]: expected two different nets"),
        ({"nets": [1, 1]}, r"expected two different nets"),
        ({"method": "weight"}, "method=weight: expected one of weights, activations, straight_through"),
        ({"out": "line.pdf"}, r"out=line\.pdf: the figure is written as \.html or \.png"),
        ({"points": 1}, "points=1: expected at least 2"),
        ({"images": 0}, "images=0: expected at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            match_nets.main(dataclasses.replace(options, zoo=str(tmp_path / "none"), **change))


def test_nets_that_differ_in_more_than_their_weights_are_refused(tiny_zoo, pair, options):
    other = next(
        row["net"]
        for row in tiny_zoo.manifest.to_pylist()
        if row["arch"] != pair[0]["arch"] and row["status"] == "ok" and row["step"] == tiny_zoo.steps(row["net"])[-1]
    )
    with pytest.raises(ValueError, match="only nets of one architecture, activation and image set can be matched"):
        match_nets.main(dataclasses.replace(options, nets=[pair[0]["net"], other]))
    with pytest.raises(ValueError, match="found no snapshot of net"):
        match_nets.main(dataclasses.replace(options, step=7))
    assert torch.is_grad_enabled()
