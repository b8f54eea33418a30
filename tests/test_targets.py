import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss

from metanet import targets
from metanet.targets import Target

COUNT = 40
ARCH = np.arange(COUNT) % 4
LINEAGE = np.arange(COUNT)
TRAIN = np.arange(COUNT) < 30


def describe(values, name="hyperparameter", arch=ARCH, lineage=LINEAGE, train=TRAIN) -> Target | str:
    return targets.describe(name, pa.array(values), arch, lineage, train)


def test_text_booleans_and_repeated_numbers_are_classes_in_their_natural_order():
    generator = np.random.default_rng(0)
    text = describe(generator.choice(["tanh", "relu"], COUNT))
    assert isinstance(text, Target)
    assert (text.kind, text.classes) == ("classification", ("relu", "tanh"))
    flags = describe(generator.choice([True, False], COUNT))
    assert isinstance(flags, Target)
    assert flags.classes == ("False", "True")
    sizes = describe(generator.choice([128, 32, 64], COUNT))
    assert isinstance(sizes, Target)
    assert sizes.classes == ("32", "64", "128")
    assert math.isclose(sum(sizes.shares), 1)


def test_numbers_that_hardly_repeat_are_regressed():
    few = describe(np.linspace(1, 2, 6), arch=np.zeros(6, int), lineage=np.arange(6), train=np.ones(6, bool))
    assert isinstance(few, Target)
    assert few.kind == "regression"


def test_a_measured_number_is_regressed_however_few_values_it_has():
    target = describe(np.arange(COUNT) % 3 / 2, "snapshot_fraction")
    assert isinstance(target, Target)
    assert target.kind == "regression"


def test_the_scale_is_log_where_all_values_are_positive_and_span_decades():
    wide = describe(np.logspace(-4, -2, COUNT))
    narrow = describe(np.linspace(2e-4, 5e-3, COUNT))
    zeros = describe(np.r_[0, np.logspace(-4, -2, COUNT - 1)])
    assert [t.log for t in (wide, narrow, zeros) if isinstance(t, Target)] == [True, False, False]


def test_scales_and_shares_come_from_the_training_nets_alone():
    values = np.linspace(0.0, 1.0, COUNT)
    moved = np.where(TRAIN, values, 1000.0 + values)
    one, two = describe(values), describe(moved)
    assert isinstance(one, Target)
    assert isinstance(two, Target)
    assert (one.mean, one.std) == (two.mean, two.std) == (values[TRAIN].mean(), values[TRAIN].std())


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (["adam"] * COUNT, "the same for every net (adam)"),
        (["sgd" if train else "adam" for train in TRAIN], "the same for every training net"),
        ([["a", "b", "c", "d"][arch] for arch in ARCH], "every architecture has one value of it"),
        ([None, *(["a", "b"] * COUNT)[1:COUNT]], "1 nets have no value"),
    ],
)
def test_what_cannot_be_learnt_is_left_out_with_the_reason(values, reason):
    assert describe(values) == reason


def test_a_value_per_net_is_no_given_away_value_when_each_net_has_its_own_architecture():
    target = describe(np.random.default_rng(0).choice(["a", "b"], COUNT), arch=np.arange(COUNT))
    assert isinstance(target, Target)


@given(values=st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=20), log=st.booleans())
def test_reading_a_standardised_value_gives_the_value_back(values, log):
    target = Target("x", "regression", log=log, mean=-1.5, std=0.7)
    predicted, probabilities = target.read(target.truth(np.array(values)))
    assert probabilities is None
    np.testing.assert_allclose(predicted, values, rtol=1e-4, atol=1e-5)


def test_probabilities_sum_to_one_and_their_largest_is_predicted():
    target = Target("x", "classification", ("a", "b", "c"))
    predicted, probabilities = target.read(torch.tensor([[0.0, 3.0, 1.0], [2.0, 0.0, 0.0]]))
    assert probabilities is not None
    np.testing.assert_allclose(probabilities.sum(1), 1)
    assert predicted.tolist() == [1, 0]


def test_the_loss_of_the_best_constant_prediction_is_one():
    values = np.random.default_rng(0).choice(["a", "b", "c"], COUNT, p=[0.6, 0.3, 0.1])
    target = describe(values, train=np.ones(COUNT, bool))
    assert isinstance(target, Target)
    encoded = target.encode(values)
    constant = torch.tensor(target.shares).log().expand(COUNT, -1)
    torch.testing.assert_close(target.loss(constant, target.truth(encoded)), torch.tensor(1.0))
    number = Target("y", "regression", mean=0.5, std=0.2)
    truth = number.truth(np.random.default_rng(1).normal(0.5, 0.2, 200_000))
    assert abs(float(number.loss(torch.zeros(len(truth)), truth)) - 1) < 0.02


def test_the_loss_is_scikit_learns_cross_entropy_over_the_entropy():
    target = Target("x", "classification", ("a", "b"), shares=(0.5, 0.5))
    logits, truth = torch.randn(30, 2), torch.arange(30) % 2
    expected = log_loss(truth.numpy(), logits.double().softmax(1).numpy()) / math.log(2)
    assert abs(float(target.loss(logits, truth)) - expected) < 1e-5


def test_a_class_that_the_run_never_saw_is_encoded_as_none_of_its_classes():
    assert Target("x", "classification", ("a", "b")).encode(np.array(["b", "z"])).tolist() == [1, -1]


def test_an_unknown_target_names_what_there_is_and_a_close_match():
    with pytest.raises(ValueError, match=r"target 'optimiser': this zoo has optimizer, dropout; did you mean optimi"):
        targets.choose("optimiser", ["optimizer", "dropout"])
    for names in ([], ["dropout", "dropout"]):
        with pytest.raises(ValueError, match="expected all, a name, or a list of different names of optimizer"):
            targets.choose(names, ["optimizer", "dropout"])
    assert targets.choose("all", ["a", "b"]) == ["a", "b"]
    assert targets.choose(["b"], ["a", "b"]) == ["b"]


def test_the_generalisation_gap_is_train_minus_test_accuracy():
    manifest = pa.table({"train_accuracy": [0.9, 0.8], "test_accuracy": [0.5, 0.9], "image_set": ["a", "b"]})
    columns = targets.candidates(manifest, [])
    assert list(columns) == ["image_set", "test_accuracy", "generalisation_gap"]
    np.testing.assert_allclose(columns["generalisation_gap"].to_numpy(), [0.4, -0.1])


def test_texts_that_single_runs_have_are_no_target():
    """Names of files, dates and the like: no net of the test split has a class that was trained on."""
    assert describe([f"run-{lineage}" for lineage in LINEAGE.tolist()]) == (
        f"{len(np.unique(LINEAGE))} different texts, which hardly two training runs share"
    )
    assert isinstance(describe([f"group-{lineage % 9}" for lineage in LINEAGE.tolist()]), Target)
