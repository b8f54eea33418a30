import functools
import json
import math
import re

import pytest
import torch
from hydra.errors import HydraException
from safetensors.torch import load_file

import metanet
from metanet import learning as loop
from metanet import runs
from metanet.checkpoint import State, restore, save
from metanet.commandline import told
from metanet.dataset import Dataset
from metanet.learning import schedule
from metanet.train import settings_of, train

GNN = ("model=gnn", "model.width=8", "model.edge_width=4", "model.depth=1", "model.token_width=8", "model.mixing=1")
SANE = ("model=sane", "model.width=8", "model.heads=2", "model.depth=1", "model.latent=8", "model.window=16")
QUICK = ("training.checkpoint_seconds=0", "training.batch_nets=16", "training.epochs=3")


def log_of(config, name: str) -> list[dict]:
    """The log without what a clock wrote."""
    lines = (runs.folder_of(config, name) / runs.LOG).read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]


class Killed(BaseException):
    pass


@pytest.mark.parametrize(
    ("model", "kill_after"),
    [(GNN, 2), ((*SANE, "training.pretrain_epochs=2"), 1), ((*SANE, "training.pretrain_epochs=2"), 3)],
    ids=["training", "pretraining", "training after pretraining"],
)
def test_a_resumed_training_equals_an_uninterrupted_one_bit_for_bit(config_of, monkeypatch, model, kill_after):
    whole, cut = (config_of(*model, *QUICK, f"name={name}") for name in ("whole", "cut"))
    score = train(whole, "x")

    calls = 0
    original = loop.train_epoch

    def killed(*arguments):
        nonlocal calls
        calls += 1
        if calls > kill_after:
            raise Killed
        return original(*arguments)

    monkeypatch.setattr(loop, "train_epoch", killed)
    with pytest.raises(Killed):
        train(cut, "x")
    monkeypatch.setattr(loop, "train_epoch", original)
    assert (runs.folder_of(cut, "x") / runs.CHECKPOINT).is_file()
    assert train(cut, "x") == score
    assert log_of(cut, "x") == log_of(whole, "x")
    one, two = (load_file(runs.folder_of(config, "x") / runs.WEIGHTS) for config in (whole, cut))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not (runs.folder_of(cut, "x") / runs.CHECKPOINT).exists()


def test_training_learns_and_keeps_its_best_epoch(config_of):
    config = config_of(*GNN, "training.epochs=8", "training.batch_nets=8", "training.learning_rate=0.01")
    train(config, "gnn")
    log = log_of(config, "gnn")
    assert log[-1]["train_loss"] < 0.8 * log[0]["train_loss"]
    run = metanet.load_run(runs.folder_of(config, "gnn"))
    best = max(log, key=lambda entry: entry["valid_score"])
    assert run.result["best_epoch"] == best["epoch"]
    assert math.isclose(run.result["valid_score"], best["valid_score"], abs_tol=1e-6)


def test_early_stopping_waits_for_its_patience(config_of, monkeypatch):
    scores = iter([0.1, 0.3, 0.2, 0.2, 0.2, 0.9])
    monkeypatch.setattr(
        loop, "validate", lambda *_: {"valid_loss": 1.0, "valid_score": next(scores), "valid_scores": {}}
    )
    config = config_of(*GNN, "training.epochs=9", "training.patience=2")
    train(config, "gnn")
    result = runs.result_of(runs.folder_of(config, "gnn"))
    assert result is not None
    assert (result["best_epoch"], result["epochs"]) == (2, 5)


def test_a_budget_in_seconds_ends_the_training_at_a_learning_rate_of_zero(config_of):
    config = config_of(*GNN, "training.epochs=100000", "training.max_seconds=0.5", "training.patience=null")
    train(config, "gnn")
    log = log_of(config, "gnn")
    assert log[-1]["epoch"] == 100000
    assert len(log) < 1000


def test_the_same_command_on_a_finished_run_trains_nothing(config_of, monkeypatch, capsys):
    config = config_of("model=majority")
    score = train(config, "majority")
    monkeypatch.setattr("metanet.train.finish", None)
    assert train(config, "majority") == score
    assert "finished already, validation score" in capsys.readouterr().out
    monkeypatch.undo()
    assert train(config_of("model=majority", "force=true"), "majority") == score


def test_bf16_trains_too(config_of):
    assert math.isfinite(train(config_of(*GNN, "training.epochs=1", "training.bf16=true"), "gnn"))


def test_a_loss_that_is_not_finite_stops_the_training(config_of):
    config = config_of(*GNN, "training.learning_rate=1e30", "training.clip_norm=1e30", "training.epochs=4")
    with pytest.raises(ValueError, match=r"a loss became (nan|inf) in epoch .*Lower training.learning_rate"):
        train(config, "gnn")


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["zoo=nowhere"], FileNotFoundError, "nowhere: no zoo here"),
        (["target=optimiser"], ValueError, "did you mean optimizer"),
        (["training.epochs=many"], ValueError, "training.epochs: Value 'many' .*could not be converted to Integer"),
        (["training.epochs=0"], ValueError, "training.epochs=0: expected more than 0"),
        (["training.pretrain_epochs=1"], ValueError, "has no pretraining"),
        (["+model.training.epoch=1"], ValueError, "model.training.epoch: unknown, expected one of epochs"),
        (["training.max_seconds=-1"], ValueError, "training.max_seconds=-1.0: expected more than 0"),
        (["training.patience=-1"], ValueError, "training.patience=-1: expected 0 or more"),
        (["training.warmup=1"], ValueError, "training.warmup=1.0: expected a fraction of the training, below 1"),
        (["name=../other"], ValueError, r"name=../other: expected letters, digits"),
        (["seed=one"], ValueError, "seed=one: expected an integer"),
        (["split.test=half"], ValueError, "split.test=half: expected a fraction"),
        (["device=tpu"], ValueError, "device=tpu: expected cpu, cuda or cuda:<number>"),
        (["device=cpux"], ValueError, "device=cpux: expected cpu, cuda"),
        (["device=cuda:99"], ValueError, r"device=cuda:99: torch finds \d GPUs here"),
        (["split=held_out_images"], ValueError, r"cannot hold out image_set in \['digits'\]"),
        (["snapshots=some"], ValueError, "expected all or last"),
        (["model.width=-1"], ValueError, "negative dimension"),
    ],
)
def test_a_mistake_is_one_clear_error_and_writes_nothing(config_of, tmp_path, words, error, message):
    with pytest.raises(error, match=message):
        train(config_of("model=gnn", *words), "gnn")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("model=statistic", r"model=statistic: expected one of .*, gnn, .*; did you mean statistics\?"),
        ("split=random", "split=random: expected one of held_out_depth, .*lineage"),
        ("training.epoch=3", "training.epoch= on the command line: no such option; --help shows"),
        ("gnn", r"Error parsing override 'gnn' .* expected key=value"),
    ],
)
def test_what_hydra_refuses_is_told_in_one_line(config_of, word, message):
    with pytest.raises(HydraException) as refused:
        config_of(word)
    assert re.fullmatch(f"{message}.*", told(refused.value))


def test_the_command_line_rules_over_a_models_own_training_and_that_over_the_default(config_of):
    assert settings_of(config_of("model=sane")).pretrain_epochs > 0
    assert settings_of(config_of("model=gnn")).pretrain_epochs == 0
    assert settings_of(config_of("model=sane", "training.pretrain_epochs=1")).pretrain_epochs == 1


def test_the_schedule_warms_up_to_one_and_falls_to_zero():
    assert schedule(0.0, 0.1) == 0
    assert schedule(0.1, 0.1) == 1
    assert math.isclose(schedule(0.55, 0.1), 0.5)
    assert math.isclose(schedule(1.0, 0.1), 0, abs_tol=1e-12)
    assert schedule(0.0, 0.0) == 1


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    small, large = torch.nn.Linear(2, 2), torch.nn.Linear(3, 3)
    adam = functools.partial(torch.optim.AdamW, lr=1e-3)
    best = {name: tensor.clone() for name, tensor in small.state_dict().items()}
    save(tmp_path / "c.safetensors", State(epoch=4), small, best, adam(small.parameters()))
    state, best = restore(tmp_path / "c.safetensors", small, adam(small.parameters()))
    assert state.epoch == 4
    assert torch.equal(best["weight"], small.weight)
    with pytest.raises(ValueError, match=r"c.safetensors: not of this model .*force=true"):
        restore(tmp_path / "c.safetensors", large, adam(large.parameters()))


def test_evaluation_repeats_the_stored_predictions_and_reads_other_zoos(config_of, tiny_zoo, capsys, tmp_path):
    from metanet import evaluate

    config = config_of(*GNN, "training.epochs=1")
    train(config, "gnn")
    path = runs.folder_of(config, "gnn")
    stored = metanet.load_run(path).metrics
    found = evaluate.main(evaluate.Options(str(path)))
    assert found["optimizer"]["score"] == stored["optimizer"]["score"]
    test_nets = Dataset(tiny_zoo).count("test")
    assert f"{test_nets * 10:,} of {test_nets * 10:,} stored predictions are repeated" in capsys.readouterr().out
    other = tmp_path / "other"
    other.symlink_to(tiny_zoo.path)
    evaluate.main(evaluate.Options(str(path), zoo=str(other)))
    assert f"{test_nets * 10:,} of" in capsys.readouterr().out  # a link to the same zoo is the same zoo
