import math
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from metanet.zoo import nets
from metanet.zoo.distributions import draw
from metanet.zoo.hyperparameters import HYPERPARAMETERS, NEUTRAL
from metanet.zoo.manifest import columns
from metanet.zoo.spec import check_spec, load_spec

SHIPPED = sorted(Path("zoo_specs").glob("*.yaml"))

SIREN = {"family": "siren", "depth": 1, "width": 8, "omega": 30}
WILD = {"family": "wild_park", "depth": [2, 4], "kernels": [3, 5], "widths": [4, 8], "skips": [0, 2, 3]}


@pytest.fixture
def spec_file(tmp_path, tiny_spec):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_spec))
    return path


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_spec_gives_nets_that_can_be_built(path):
    spec = load_spec(path)
    assert spec.name == path.stem
    drawn = load_spec(path, {"num_nets": spec.num_architectures}).nets()
    archs = {net.arch_name: net.arch for net in drawn}
    assert len(archs) == spec.num_architectures
    for arch in archs.values():
        nets.build(arch)


def test_the_same_spec_gives_the_same_nets_wherever_it_is_drawn(tiny_spec):
    """Written down once; a change here changes every zoo that was ever made."""
    spec = check_spec(tiny_spec, "here")
    assert spec.hash() == "f7c7bd67e6bfbbaceab5140f74cce462b4c948b3f052b6b8e9475c95f7fee539"
    net = spec.nets()[5]
    assert net.arch_name == "mlp-2x8-bn-1x8x8-10"
    assert (
        net.hyperparameters
        == {
            "optimizer": "adam",
            "learning_rate": 0.00261745,
            "batch_size": 64,
            "activation": "tanh",
            "initialisation": "glorot_uniform",
            "augmentation": True,
            "dropout": 0.2,
            "weight_decay": 0.0,
        }
        | NEUTRAL
    )


def test_another_seed_gives_other_nets(tiny_spec):
    first = check_spec(tiny_spec, "here").nets()
    second = check_spec(tiny_spec | {"seed": 4}, "here").nets()
    assert [net.hyperparameters for net in first] != [net.hyperparameters for net in second]


def test_more_nets_leave_the_first_ones_as_they_are(tiny_spec):
    few = check_spec(tiny_spec, "here").nets()
    many = check_spec(tiny_spec | {"num_nets": 50}, "here").nets()
    assert many[: len(few)] == few


def test_architectures_get_equally_many_nets_and_every_choice_is_drawn(tiny_spec):
    drawn = check_spec(tiny_spec | {"num_nets": 600, "images": ["digits"]}, "here").nets()
    names = [net.arch_name for net in drawn]
    assert {names.count(name) for name in names} == {200}
    for name in ("optimizer", "batch_size", "activation", "augmentation", "dropout"):
        chosen = [net.hyperparameters[name] for net in drawn]
        assert all(240 < chosen.count(value) < 360 for value in set(chosen)), name  # 300 expected, deviation 12


def test_snapshot_steps_follow_the_fractions_of_whole_batches(tiny_spec):
    for net in check_spec(tiny_spec, "here").nets():
        steps = 2 * (256 // net.hyperparameters["batch_size"])
        assert net.steps == steps
        assert net.snapshot_steps == (0, steps // 2, steps)


@given(key=st.integers(0, 2**63 - 1), low=st.floats(1e-6, 1), factor=st.floats(1, 1e6))
def test_a_draw_from_a_range_lies_in_it(key, low, factor):
    high = low * factor
    for kind in ("uniform", "log_uniform"):
        value = draw({kind: [low, high]}, key)
        assert low * (1 - 1e-5) <= value <= high * (1 + 1e-5)


def test_log_uniform_draws_are_uniform_in_the_logarithm():
    values = [math.log10(draw({"log_uniform": [1e-4, 1.0]}, i * 2**63 // 1000)) for i in range(1000)]
    assert max(abs(value - (-4 + 4 * i / 1000)) for i, value in enumerate(values)) < 1e-4


def test_overrides_replace_fields_and_single_hyperparameters(spec_file):
    overridden = load_spec(spec_file, {"num_nets": 5, "hyperparameters": {"dropout": 0.5}})
    assert overridden.num_nets == 5
    assert overridden.hyperparameters["dropout"] == 0.5
    assert overridden.hyperparameters["optimizer"] == ["adam", "momentum"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_net": 3}, "unknown key 'num_net'.* did you mean num_nets?"),
        ({"num_nets": "many"}, "num_nets: found 'many', expected an integer of at least 1"),
        ({"num_nets": True}, "num_nets: found True, expected an integer"),
        ({"num_nets": 2}, "found 2 nets, 3 architectures and 2 families, expected num_nets >= num_architectures"),
        ({"epochs": 0}, "epochs: found 0, expected an integer of at least 1"),
        ({"name": "a/b"}, "name: found 'a/b', expected a name of letters"),
        ({"images": ["mnits"]}, "images: found 'mnits', expected one of .*; did you mean mnist?"),
        ({"images": []}, r"images: found \[\], expected a list of at least one"),
        ({"images": ["digits", "digits"]}, "images: .* expected every value once"),
        ({"image_shape": [8, 8]}, "image_shape: .* expected a list of 3"),
        ({"snapshots": [0.5, 1.5]}, "snapshots: found 1.5, expected a fraction"),
        ({"num_classes": 5}, "num_classes: found 5, expected at least the 10 classes of digits"),
        ({"hyperparameters": {"optimizer": "adma"}}, "hyperparameters.optimizer: found 'adma'.* did you mean adam?"),
        ({"hyperparameters": {"lr": 0.1}}, "hyperparameters: unknown key 'lr'"),
        ({"hyperparameters": {"dropout": {"uniform": [0.5, 0.1]}}}, "dropout: .* expected low <= high"),
        ({"hyperparameters": {"dropout": {"normal": [0.5, 0.1]}}}, "dropout: found {'normal'.*uniform"),
        ({"hyperparameters": {"dropout": 1}}, r"dropout: found 1, expected a number in \[0, 1\)"),
        ({"hyperparameters": {"learning_rate": float("nan")}}, "learning_rate: found nan, expected a number above 0"),
        ({"hyperparameters": {"batch_size": {"uniform": [1, 9]}}}, "batch_size: .* expected an integer of at least 1"),
        ({"hyperparameters": {"augmentation": "yes"}}, "augmentation: found 'yes', expected true or false"),
        ({"architectures": []}, r"architectures: found \[\], expected a list of families"),
        ({"architectures": [{"family": "nws"}]}, r"architectures\[0\].family: found 'nws'.* did you mean nws_cnn?"),
        ({"architectures": [{"family": "mlp", "depth": 2}]}, r"architectures\[0\]: missing .*width"),
        (
            {"architectures": [{"family": "mlp", "depth": 2, "width": 8, "batch_norm": True}, SIREN]},
            "architectures: found mlp for classification, siren for image_fitting, expected one task: make two zoos",
        ),
        (
            {"architectures": [SIREN], "num_architectures": 1, "hyperparameters": {"augmentation": False}},
            r"hyperparameters.dropout: found \[0.0, 0.2\], expected 0.0: it does nothing in image_fitting",
        ),
        (
            {"architectures": [WILD | {"kernels": [3, 4]}]},
            r"architectures\[0\].kernels: found 4, expected an odd integer",
        ),
        ({"architectures": [WILD | {"skips": "0-2"}]}, r"skips: found '0-2', expected 0, or an integer of at least 2"),
        (
            {"architectures": [WILD | {"family": "wild_park_mixed", "activations": ["relu", "none"]}]},
            r"hyperparameters.activation: found .*, expected own if and only if .* of these do: wild_park_mixed",
        ),
        (
            {"architectures": [WILD], "hyperparameters": {"activation": "own"}},
            r"hyperparameters.activation: found 'own', expected own if and only if .* of these do: none",
        ),
    ],
)
def test_a_wrong_spec_says_where_what_and_how(spec_file, change, message):
    with pytest.raises(ValueError, match=message) as raised:
        load_spec(spec_file, change)
    assert str(spec_file) in str(raised.value)


def test_a_spec_without_a_hyperparameter_names_it(tmp_path, tiny_spec):
    del tiny_spec["hyperparameters"]["dropout"]
    with pytest.raises(ValueError, match="here: hyperparameters: missing dropout"):
        check_spec(tiny_spec, "here")


def test_too_few_steps_or_architectures_say_what_to_change(tiny_spec):
    with pytest.raises(ValueError, match=r"2 epochs of 40 digits images in batches of \d\d are \d steps, too few"):
        check_spec(tiny_spec | {"train_images": 40}, "here").nets()
    with pytest.raises(ValueError, match=r"architectures\[1\] \(mlp\) should give 3 distinct .* hold only 1"):
        check_spec(tiny_spec | {"num_architectures": 9, "num_nets": 9}, "here").nets()


@pytest.mark.parametrize("text", ["a: [1", "- 1\n- 2", "7", "a: ${b}"])
def test_a_file_that_is_no_mapping_is_one_clear_error(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(str(path))):
        load_spec(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yaml: no such spec file"):
        load_spec(tmp_path / "nowhere.yaml")
    (tmp_path / "somewhere.yaml").touch()
    with pytest.raises(FileNotFoundError, match=r"no such spec file\. Did you mean .*somewhere\.yaml\?"):
        load_spec(tmp_path / "somwhere.yaml")


def test_hyperparameters_are_all_drawn(tiny_spec):
    for net in check_spec(tiny_spec, "here").nets():
        assert set(net.hyperparameters) == set(HYPERPARAMETERS)
        assert all(type(value) is HYPERPARAMETERS[name].kind for name, value in net.hyperparameters.items())


def test_a_hyperparameter_with_a_neutral_value_changes_nothing_until_it_is_named(tiny_spec):
    plain = check_spec(tiny_spec, "here")
    tiny_spec["hyperparameters"]["label_noise"] = [0.1, 0.2]
    named = check_spec(tiny_spec, "here")
    assert named.hash() != plain.hash()
    for before, after in zip(plain.nets(), named.nets(), strict=True):
        assert before.hyperparameters["label_noise"] == 0
        assert after.hyperparameters["label_noise"] in (0.1, 0.2)
        assert dict(after.hyperparameters) | {"label_noise": 0.0} == before.hyperparameters
    assert "label_noise" not in columns(plain)["hyperparameters"]
    assert "label_noise" in columns(named)["hyperparameters"]


def test_a_fraction_of_the_training_images_leaves_so_many_steps(tiny_spec):
    tiny_spec["hyperparameters"] |= {"train_fraction": [0.5, 1.0], "batch_size": 32}
    for net in check_spec(tiny_spec, "here").nets():
        assert net.train_images == 256 * net.hyperparameters["train_fraction"]
        assert net.steps_per_epoch == net.train_images // 32


def test_a_spec_is_restricted_to_some_of_its_image_sets(tiny_spec):
    spec = check_spec(tiny_spec | {"images": ["digits", "mnist"]}, "here")
    restricted = spec.restricted(["digits"])
    assert restricted.to_dict() == spec.to_dict() | {"images": ["digits"]}
    assert {net.image_set for net in restricted.nets()} == {"digits"}
    with pytest.raises(ValueError, match="spec tiny: images=: found 'fashion_mnist', expected one of digits, mnist"):
        spec.restricted(["fashion_mnist"])
    with pytest.raises(ValueError, match="expected a list of at least one"):
        spec.restricted([])


def test_layers_are_drawn_one_by_one_and_skips_beyond_the_first_layer_are_none(tiny_spec):
    changes = {"architectures": [WILD], "num_architectures": 60, "num_nets": 60}
    archs = [net.arch for net in check_spec(tiny_spec | changes, "here").nets()]
    assert len({nets.arch_name(arch) for arch in archs}) == 60
    assert {arch["depth"] for arch in archs} == {2, 4}
    for name, places in (("kernels", 4), ("widths", 4), ("skips", 4)):
        drawn = [arch[name].split("-") for arch in archs if arch["depth"] == places]
        assert all(len(layers) == places for layers in drawn)
        chosen = [{layers[place] for layers in drawn} for place in range(places)]
        allowed = {"kernels": {"3", "5"}, "widths": {"4", "8"}}.get(name)
        if allowed:
            assert all(found == allowed for found in chosen)
        else:
            assert chosen == [{"0"}, {"0"}, {"0", "2"}, {"0", "2", "3"}]


def test_the_order_of_the_fields_does_not_matter(tiny_spec):
    changes = {"architectures": [WILD], "num_architectures": 9, "num_nets": 9}
    turned = changes | {"architectures": [dict(reversed(WILD.items()))]}
    drawn = [[net.arch for net in check_spec(tiny_spec | of, "here").nets()] for of in (changes, turned)]
    assert drawn[0] == drawn[1]


def test_an_implicit_representation_sees_every_pixel_once_an_epoch(tiny_spec):
    tiny_spec["hyperparameters"] |= {"augmentation": False, "dropout": 0.0, "activation": "sin", "batch_size": 16}
    spec = check_spec(tiny_spec | {"architectures": [SIREN], "num_architectures": 1}, "here")
    assert spec.task == "image_fitting"
    assert all(net.steps_per_epoch == 64 // 16 for net in spec.nets())
    assert columns(spec)["metrics"] == ["image", "label", "train_loss", "psnr"]
