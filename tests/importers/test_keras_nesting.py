"""Keras: models inside models, in the manner of Keras 2 and 3, against NumPy."""

from pathlib import Path

import numpy as np
import pytest

from metanet.errors import RefusedError
from metanet.importers.intake.writing import import_zoo
from metanet.importers.keras_files.weights import own_names
from tests.importers.keras_written import (
    INNER,
    Config,
    X,
    computed,
    dense,
    described,
    functional,
    input_layer,
    integers,
    keras2,
    keras3,
    sequential,
    start,
    tensor,
    use,
)

CHAIN = integers([(3, 2), (2,)], 1)


def nested(old: bool) -> Config:
    """tail(block(block(x))), with block a model and tail a Sequential."""
    block = [start("i", 3), dense("dense", 3, use(("i", 0)), activation="tanh")]
    chain = [described("Dense", "dense", {"units": 2})]
    first, second = ([[["x", 0, 0, {}]]], [[["block", 1, 0, {}]]]) if old else ([use(("x", 0))], [use(("block", 0))])
    last = [[["block", 2, 0, {}]]] if old else [use(("block", 1))]
    layers = [
        start("x", 3),
        functional("block", block, (["i", 0, 0], ["dense", 0, 0]), inbound_nodes=first + second),
        sequential(chain) | {"name": "tail", "inbound_nodes": last},
    ]
    layers[2]["config"] = {"name": "tail", "layers": [start("j", 3), *chain]}
    return functional("net", layers, (["x", 0, 0], ["tail", int(old), 0]))


@pytest.mark.parametrize("old", [False, True])
def test_models_inside_models_are_read_in_the_manner_of_both_generations(tmp_path: Path, old: bool):
    if old:
        path = keras2(tmp_path / "net.h5", nested(old), {"block/dense": INNER, "tail/dense": CHAIN})
    else:
        arrays = {"layers/functional/layers/dense": INNER, "layers/sequential/layers/dense": CHAIN}
        path = keras3(tmp_path / "net.keras", nested(old), arrays)
    expected = np.tanh(np.tanh(X @ INNER[0] + INNER[1]) @ INNER[0] + INNER[1]) @ CHAIN[0] + CHAIN[1]
    np.testing.assert_allclose(computed(path, tmp_path, X), expected, rtol=1e-5)


def test_results_and_inputs_of_an_inner_model_are_told_apart(tmp_path: Path):
    inner = [start("a", 3), start("b", 3), dense("p", 2, use(("a", 0))), dense("q", 2, use(("b", 0)))]
    ends = ([["a", 0, 0], ["b", 0, 0]], [["p", 0, 0], ["q", 0, 0]])
    called = {"args": [[tensor("x"), tensor("first")]], "kwargs": {"mask": [None, None]}}
    second = {"class_name": "__keras_tensor__", "config": {"keras_history": ["pair", 0, 1]}}
    layers = [
        start("x", 3),
        dense("first", 3, use(("x", 0))),
        functional("pair", inner, ends, inbound_nodes=[called]),
        described("Subtract", "rest", {}, inbound_nodes=[{"args": [[second, tensor("pair")]], "kwargs": {}}]),
    ]
    first, p, q = integers([(3, 3), (3,)], 2), integers([(3, 2), (2,)], 3), integers([(3, 2), (2,)], 4)
    below = "layers/functional/layers/"
    arrays = {"layers/dense": first, f"{below}dense": p, f"{below}dense_1": q}
    path = keras3(tmp_path / "net.keras", functional("net", layers, (["x", 0, 0], ["rest", 0, 0])), arrays)
    expected = (X @ first[0] + first[1]) @ q[0] + q[1] - (X @ p[0] + p[1])
    np.testing.assert_allclose(computed(path, tmp_path, X), expected, rtol=1e-5)


def test_names_of_layers_are_not_taken_for_places(tmp_path: Path):
    """In a file without names, dense_1 is the second layer, whatever the first one is called."""
    layers = [input_layer((3,)), dense("dense_1", 3), dense("dense", 3)]
    first, second = integers([(3, 3), (3,)], 5), integers([(3, 3), (3,)], 6)
    path = keras3(tmp_path / "net.keras", sequential(layers), {"layers/dense": first, "layers/dense_1": second})
    expected = (X @ first[0] + first[1]) @ second[0] + second[1]
    np.testing.assert_allclose(computed(path, tmp_path, X), expected, rtol=1e-5)


def test_models_that_double_themselves_end(tmp_path: Path):
    model = functional("m0", [start("i", 3), dense("d", 3, use(("i", 0)))], (["i", 0, 0], ["d", 0, 0]))
    for depth in range(1, 15):
        nodes = [use(("x", 0)), use((f"m{depth - 1}", 0)), use((f"m{depth - 1}", 1))]
        layers = [start("x", 3), model | {"inbound_nodes": nodes}]
        model = functional(f"m{depth}", layers, (["x", 0, 0], [f"m{depth - 1}", 3, 0]))
    below = "/".join(["layers/functional"] * 14)
    path = keras3(tmp_path / "net.keras", model, {f"{below}/layers/dense": INNER})
    with pytest.raises(ValueError, match="found more than 50,000 operations in the model"):
        import_zoo("keras", path, tmp_path / "zoo")


def test_code_inside_an_inner_model_is_refused(tmp_path: Path):
    code = described("Lambda", "f", {"function": "x"})
    inner = sequential([start("i", 3), code]) | {"config": {"name": "s", "layers": [start("i", 3), code]}}
    path = keras3(tmp_path / "net.keras", sequential([input_layer((3,)), inner]), {})
    with pytest.raises(RefusedError, match="refused: layer 'f' is a Lambda"):
        import_zoo("keras", path, tmp_path / "zoo")


def test_nets_of_one_session_share_an_architecture(tmp_path: Path):
    """Keras numbers the layers that nobody named through all models that a process makes."""
    (tmp_path / "nets").mkdir()
    for net, (first, last) in enumerate([("dense", "dense_1"), ("dense_2", "dense_3"), ("dense_9", "dense_10")]):
        layers = [input_layer((3,)), dense(first, 3), dense(last, 2)]
        arrays = {"layers/dense": integers([(3, 3), (3,)], net), "layers/dense_1": integers([(3, 2), (2,)], net)}
        keras3(tmp_path / "nets" / f"net{net}.keras", sequential(layers), arrays)
    zoo = import_zoo("keras", tmp_path / "nets", tmp_path / "zoo")
    assert (len(zoo), len(zoo.archs)) == (3, 1)
    assert {"net.dense.weight", "net.dense_1.weight"} <= zoo.state_dict(2, 0).keys()


def test_names_that_somebody_gave_stay(tmp_path: Path):
    layers = [input_layer((3,)), dense("head_7", 3), described("Conv1D", "dense", {}), dense("dense_4", 2)]
    assert list(own_names(layers).values()) == ["input_layer", "head_7", "dense", "dense_1"]
    assert list(own_names([dense("dense_4", 2), *layers[2:3]]).values()) == ["dense_4", "dense"]  # two would be dense
