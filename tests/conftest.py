"""What all tests share. Examples are fixed (derandomize) and untimed: a slow machine fails no test."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hypothesis import settings
from omegaconf import DictConfig

from metanet.zoo.make import make_zoo
from metanet.zoo.spec import check_spec
from metanet.zoo.store import Zoo

settings.register_profile("metanet", deadline=None, derandomize=True, max_examples=30)
settings.load_profile("metanet")


@pytest.fixture
def tiny_spec() -> dict[str, Any]:
    """A spec as YAML gives it: trained in a second or two, with something of everything."""
    return copy.deepcopy(TINY)


@pytest.fixture(scope="session")
def tiny_zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """The finished zoo of `tiny_spec`; shared, so tests that change files work on a copy."""
    out = tmp_path_factory.mktemp("zoos") / "tiny"
    return make_zoo(check_spec(TINY, "tests"), out, processes=1)


@pytest.fixture
def config_of(tiny_zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., DictConfig]:
    """The config of `python -m metanet.train WORDS` on the tiny zoo, with runs below `tmp_path`.

    The zoo is opened once for all tests, so that its architectures are traced once.
    """

    def opened(path: str | Path) -> Zoo:
        return tiny_zoo if Path(path).resolve() == tiny_zoo.path.resolve() else Zoo(Path(path))

    monkeypatch.setattr("metanet.zoo.store.open_zoo", opened)

    def composed(*words: str) -> DictConfig:
        with initialize_config_dir(str(Path(__file__).parents[1] / "configs"), version_base="1.3"):
            return compose("train", [f"zoo={tiny_zoo.path}", f"runs={tmp_path / 'runs'}", *words])

    return composed


TINY = {
    "name": "tiny",
    "seed": 3,
    "num_nets": 12,
    "images": ["digits"],
    "image_shape": [1, 8, 8],
    "num_classes": 10,
    "train_images": 256,
    "eval_images": 64,
    "epochs": 2,
    "learning_rate_decay": 0.96,
    "num_architectures": 3,
    "architectures": [
        {
            "family": "nws_cnn",
            "weight": 2,
            "filter_size": 3,
            "conv_depth": 3,
            "conv_width": [2, 3],
            "dense_depth": 2,
            "dense_width": [8, 12],
            "batch_norm": [True, False],
        },
        {"family": "mlp", "depth": 2, "width": 8, "batch_norm": True},
    ],
    "hyperparameters": {
        "optimizer": ["adam", "momentum"],
        "learning_rate": {"log_uniform": [1e-3, 1e-1]},
        "batch_size": [32, 64],
        "activation": ["relu", "tanh"],
        "initialisation": ["glorot_uniform", "he_normal"],
        "augmentation": [False, True],
        "dropout": [0.0, 0.2],
        "weight_decay": 0.0,
    },
    "snapshots": [0.0, 0.5, 1.0],
}
