"""What zoos of the further formats are good for: graphs, a training, a report."""

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from metanet import report, runs
from metanet.train import train
from tests.importers import keras_written, test_keras, test_model_zoos_dataset, test_wild_park
from tests.scripts.test_import_zoo import GNN, run


def wild_park(folder: Path) -> tuple[str, ...]:
    nets = list(test_wild_park.NETS.values())
    park = {f"run{number}": nets[number % 4] for number in range(24)}
    test_wild_park.put(folder, park, ("AdamW", "SGD", "SGD"))
    return ("format=wild_park", f"path={folder}")


def model_zoos_dataset(folder: Path) -> tuple[str, ...]:
    parts = test_model_zoos_dataset.divided(counts={"trainset": 12, "valset": 4, "testset": 8})
    test_model_zoos_dataset.put(folder / "zoo.pt", parts)
    return ("format=model_zoos_dataset", f"path={folder}", "image_set=mnist")


def keras(folder: Path) -> tuple[str, ...]:
    folder.mkdir()
    lines = ["path,optimizer,learning_rate"]
    for number in range(24):
        layers, arrays, _ = test_keras.written(("flattened", "separable")[number % 2])
        keras_written.archive(folder / f"{number}.keras", keras_written.sequential(layers), layers, arrays)
        lines.append(f"{number}.keras,{('adam', 'sgd', 'sgd')[number % 3]},0.{number + 1}")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return ("format=keras", f"path={folder}")


def huggingface(folder: Path) -> tuple[str, ...]:
    """Small classifiers of transformers."""
    pytest.importorskip("transformers")
    from tests.importers.test_huggingface import made

    lines = ["path,optimizer,learning_rate,test_accuracy"]
    for number in range(12):
        net = made("BertForSequenceClassification", number, num_hidden_layers=1, hidden_size=6)
        net.save_pretrained(folder / f"net{number}")
        lines.append(f"net{number},{('adamw', 'sgd')[number % 2]},{10.0**-number},{number / 12}")
    (folder / "metadata.csv").write_text("\n".join(lines))
    return ("format=huggingface", f"path={folder}")


@pytest.mark.filterwarnings("ignore::FutureWarning:transformers", "ignore::UserWarning:transformers")
@pytest.mark.parametrize("make", [huggingface, keras, model_zoos_dataset, wild_park], ids=lambda make: make.__name__)
def test_an_imported_zoo_goes_through_graphs_training_and_report(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    config_of: Callable[..., DictConfig],
    make: Callable[[Path], tuple[str, ...]],
):
    out = tmp_path / "zoo"
    assert run(monkeypatch, "import_zoo.py", *make(tmp_path / "source"), f"out={out}") == 0
    assert "left out" not in capsys.readouterr().out
    assert run(monkeypatch, "build_graphs.py", f"zoo={out}") == 0
    assert run(monkeypatch, "verify_zoo.py", f"zoo={out}") == 0
    config = config_of(f"zoo={out}", *GNN, "training.epochs=1", "name=imported")
    train(config, "x")
    (found,) = report.main(report.Options(runs=str(runs.folder_of(config, "x")), out=str(tmp_path / "report.html")))
    assert "optimizer" in {target.name for target in found.targets}
    assert "optimizer" in (tmp_path / "report.md").read_text()
