"""Zoos and specs that the tests of making and reading them share."""

import copy
import shutil
from dataclasses import replace
from typing import Any

import pytest
import yaml

import metanet
from metanet.zoo.executors import local
from metanet.zoo.images import Images, load
from metanet.zoo.make import make_zoo
from metanet.zoo.spec import check_spec
from metanet.zoo.store import Zoo
from tests.conftest import TINY
from tests.zoo.making import Killed


@pytest.fixture
def spec_file(tmp_path, tiny_spec):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_spec))
    return path


@pytest.fixture(scope="session")
def stopping_spec() -> dict[str, Any]:
    """Nets of one architecture that stop early at different times, one that diverges among them, and some that do not
    stop early.
    """
    stopping = copy.deepcopy(TINY) | {"name": "stopping", "epochs": 9, "num_nets": 14, "num_architectures": 1}
    stopping |= {"architectures": TINY["architectures"][1:], "snapshots": [0.0, 0.25, 0.5, 0.75, 1.0]}
    stopping["hyperparameters"] |= {"early_stopping": [0, 1], "learning_rate": [1e-3, 0.1, 0.3, 1e25]}
    return stopping


@pytest.fixture(scope="session")
def stopping_zoo(stopping_spec, tmp_path_factory) -> Zoo:
    """The finished zoo of `stopping_spec`; shared, so tests that change files work on a copy."""
    return make_zoo(check_spec(stopping_spec, "here"), tmp_path_factory.mktemp("stopping") / "zoo", processes=1)


@pytest.fixture
def unfinished(tmp_path, tiny_spec, monkeypatch):
    """A zoo whose training was killed when its first group had two of three snapshots."""
    out = tmp_path / "unfinished"

    def killed(group, fraction):
        raise Killed

    def two_snapshots(work, groups, processes, report, split):
        work.train(groups[0], work.images(), lambda fraction: fraction > 0 and killed(groups[0], fraction))

    with monkeypatch.context() as patched:
        patched.setattr(local, "run", two_snapshots)
        with pytest.raises(Killed):
            make_zoo(check_spec(tiny_spec, "here"), out)
    assert len(list(out.rglob("resume-*"))) == 1
    return out


@pytest.fixture(name="copy")
def copy_of_a_zoo(tiny_zoo, tmp_path):
    """A zoo of which a test may break files."""
    return metanet.open_zoo(shutil.copytree(tiny_zoo.path, tmp_path / "tiny"))


@pytest.fixture(scope="module")
def images() -> dict[str, Images]:
    """Two sets of different size, which the nets of a group share."""
    digits = load("digits", shape=(1, 8, 8))
    negative = replace(
        digits,
        name="negative",
        train=255 - digits.train,
        test=255 - digits.test[:30],
        test_labels=digits.test_labels[:30],
    )
    return {"digits": digits, "negative": negative}
