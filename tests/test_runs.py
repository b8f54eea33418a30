import json
import math
import shutil
import string

import pyarrow.compute as pc
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import metanet
from metanet import runs
from metanet.train import train


@pytest.fixture
def run_path(config_of):
    config = config_of("model=majority")
    train(config, "majority")
    return runs.folder_of(config, "majority")


def test_a_run_reads_back_with_its_metrics(run_path):
    run = metanet.load_run(run_path)
    assert run.metrics["optimizer"]["score"] == run.result["test"]["optimizer"]["score"]
    assert run.config.seed == 0
    assert {target.name for target in run.schema.targets} == set(run.metrics)


def test_predictions_are_probabilities_and_values_in_the_targets_units(run_path, tiny_zoo):
    run = metanet.load_run(run_path)
    nets = []
    for row in tiny_zoo.manifest.slice(0, 4).to_pylist():
        nets.append((tiny_zoo.template(row["arch"], row["activation"]), tiny_zoo.state_dict(row["net"], row["step"])))
    found = run.predict(nets)
    assert found["optimizer"].shape == (4, 2)
    torch.testing.assert_close(found["optimizer"].sum(1), torch.ones(4, dtype=torch.float64))
    assert (found["learning_rate"] > 0).all()
    stored = run.predictions.filter(pc.field("target") == "learning_rate")
    assert math.isclose(found["learning_rate"][0], stored["predicted"][0].as_py())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda name, tensors: tensors.pop(name), "no tensor .*: the architecture has it"),
        (lambda name, tensors: tensors.update({name: tensors[name][None]}), r"found shape \[1, .*expected \["),
        (lambda name, tensors: tensors[name].view(-1)[:1].fill_(math.nan), "NaN or infinite values"),
    ],
)
def test_weights_that_do_not_fit_the_template_are_refused(run_path, tiny_zoo, change, message):
    row = tiny_zoo.manifest.slice(0, 1).to_pylist()[0]
    tensors = tiny_zoo.state_dict(row["net"], row["step"])
    change(next(iter(tensors)), tensors)
    with pytest.raises(ValueError, match=message):
        metanet.load_run(run_path).predict([(tiny_zoo.template(row["arch"], row["activation"]), tensors)])


def test_a_missing_or_unfinished_or_damaged_run_says_so(run_path, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"no run there .*did you mean .*{run_path.name}"):
        metanet.load_run(run_path.with_name("majority-sed0"))
    broken = tmp_path / "broken"
    shutil.copytree(run_path, broken)
    (broken / runs.SCHEMA).write_text("{")
    with pytest.raises(ValueError, match=r"schema.json: damaged .*force=true"):
        metanet.load_run(broken)
    (broken / runs.RESULT).write_text("{")
    with pytest.raises(ValueError, match=r"result.json: damaged .*force=true"):
        metanet.load_run(broken)
    (broken / runs.RESULT).unlink()
    with pytest.raises(FileNotFoundError, match="this run is not finished"):
        metanet.load_run(broken)


def test_a_run_of_another_version_is_one_error_that_names_its_commit(run_path, monkeypatch):
    def refuse(model, tensors):
        torch.nn.Linear(2, 2).load_state_dict(torch.nn.Linear(3, 2).state_dict())

    monkeypatch.setattr(runs, "load_state", refuse)
    with pytest.raises(ValueError, match=r"model.safetensors: does not fit .*of commit .*size mismatch .*force=true"):
        metanet.load_run(run_path)


def test_names_say_what_the_command_line_changes_and_nothing_else():
    words = ["model=gnn", "zoo=zoos/x", "seed=3", "device=cuda", "training.epochs=3", "model.width=8", "split=lineage"]
    assert runs.model_name("gnn", words) == "gnn-width=8-split=lineage-epochs=3"
    assert runs.model_name("gnn", words[::-1]) == runs.model_name("gnn", words)
    assert runs.model_name("gnn", ["model=gnn", "hydra.verbose=true", "force=true"]) == "gnn"


@given(
    one=st.lists(st.text(string.printable, max_size=80), max_size=3, unique=True),
    two=st.lists(st.text(string.printable, max_size=80), max_size=3, unique=True),
)
def test_names_fit_a_file_system_and_differ_where_the_changes_do(one, two):
    names = [runs.model_name("gnn", [f"a{place}={text}" for place, text in enumerate(each)]) for each in (one, two)]
    assert all(len(name) <= 120 and "/" not in name and "\n" not in name for name in names)
    assert (names[0] == names[1]) == (one == two)


def test_a_run_of_another_config_or_a_remade_zoo_is_not_taken_over(run_path, config_of, tiny_zoo, monkeypatch):
    with pytest.raises(ValueError, match=r"begun with snapshots=all, but this command has snapshots=last.*name="):
        train(config_of("model=majority", "snapshots=last"), "majority")
    monkeypatch.setitem(tiny_zoo.record, "spec_sha256", "another")
    with pytest.raises(ValueError, match=f"{run_path}: begun with zoo_sha256=.*force=true"):
        train(config_of("model=majority"), "majority")


def test_a_model_that_its_numbers_do_not_fit_is_one_error(config_of, tiny_zoo):
    schema = metanet.dataset.Dataset(tiny_zoo).schema
    with pytest.raises(ValueError, match=r"model metanet.models.gnn.GNN: .*negative dimension"):
        runs.build(config_of("model=gnn", "model.width=-3"), schema)
    with pytest.raises(ValueError, match=r"model metanet.models.gnn.GNN: .*unexpected keyword argument 'colour'"):
        runs.build(config_of("model=gnn", "+model.colour=3"), schema)


def test_a_model_has_the_weights_of_its_seed(config_of, tiny_zoo):
    schema = metanet.dataset.Dataset(tiny_zoo).schema
    one, again, other = (
        runs.state_of(runs.build(config_of("model=gnn", f"seed={seed}"), schema)) for seed in (0, 0, 1)
    )
    name = next(name for name in one if name.endswith("weight"))
    assert torch.equal(one[name], again[name])
    assert not torch.equal(one[name], other[name])


def test_the_commit_is_that_of_the_checkout():
    assert runs.commit() == "unknown" or len(runs.commit().removesuffix("-dirty")) >= 7


def test_result_and_predictions_say_what_a_table_needs(run_path):
    result = json.loads((run_path / runs.RESULT).read_text())
    assert {"valid_score", "test_score", "parameters", "seconds", "commit", "machine", "nets"} <= set(result)
    table = metanet.load_run(run_path).predictions
    assert set(table["split"].to_pylist()) == {"valid", "test"}
    probabilities = table["probabilities"].to_pylist()
    regressed = [target in ("learning_rate", "dropout") for target in table["target"].to_pylist()]
    assert all(p is None or abs(sum(p) - 1) < 1e-5 for p in probabilities)
    assert any(regressed)
