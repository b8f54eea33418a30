"""Every choice in configs/ composes and is complete; test_every_model.py builds the models."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import get_class
from omegaconf import OmegaConf

from metanet.splits import split
from metanet.train import settings_of

CONFIGS = Path(__file__).parents[1] / "configs"
CHOICES = sorted(str(path.relative_to(CONFIGS).with_suffix("")) for path in CONFIGS.glob("*/*.yaml"))


def test_there_are_choices():
    assert {"model/gnn", "model/majority", "split/lineage"} <= set(CHOICES)


@pytest.mark.parametrize("choice", CHOICES)
def test_a_choice_composes_and_says_what_it_is(config_of, choice):
    group, _, name = choice.partition("/")
    config = config_of(f"{group}={name}")
    OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    settings_of(config)
    get_class(config.model._target_)
    assert (CONFIGS / f"{choice}.yaml").read_text().startswith("#"), "the first line says what it is, and its source"


@pytest.mark.parametrize("name", [choice.removeprefix("split/") for choice in CHOICES if choice.startswith("split/")])
def test_a_split_either_splits_the_zoo_or_says_why_not(config_of, tiny_zoo, name):
    arguments: Any = OmegaConf.to_container(config_of(f"split={name}").split)
    possible = arguments["column"] is None or len(set(tiny_zoo.manifest[arguments["column"]].to_pylist()) - {None}) > 1
    with contextlib.nullcontext() if possible else pytest.raises(ValueError, match="cannot hold out"):
        assert set(split(tiny_zoo.manifest, **arguments).tolist()) == {0, 1, 2}
