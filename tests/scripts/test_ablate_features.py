import itertools
import json
import sys
from pathlib import Path

import plotly.graph_objects as go
import pytest
from fake_runs import TARGETS, write_run

from metanet import runs
from metanet.reporting import findings
from scripts import ablate_features as ablate


@pytest.fixture
def faked(monkeypatch, tmp_path):
    """Training replaced by a made-up run: the full model is right most often, `distribution=false` least."""
    trained = []

    def train(config, name):
        path = runs.folder_of(config, name)
        if path.exists():
            return 0.0
        trained.append(path.name)
        skill = 0.95 if name == "gnn" else 0.5 if "distribution" in name else 0.9
        changes = name.removeprefix("gnn").removeprefix("-")
        assert write_run(path.parent, "gnn", config.seed, skill, changes, num_lineages=60) == path
        return skill

    few = (ablate.FULL, "no message passing", "no statistics of tensors")
    monkeypatch.setattr(ablate, "VARIANTS", {name: ablate.VARIANTS[name] for name in few})
    monkeypatch.setattr(ablate.train, "train", train)
    options = ablate.Options(zoo="zoos/tiny", seeds=2, runs=str(tmp_path / "runs"), out=str(tmp_path / "ablation.html"))
    return options, trained


def test_every_variant_changes_the_model_and_no_two_do_the_same():
    configs = {variant: ablate.configured(words).model for variant, words in ablate.VARIANTS.items()}
    for one, two in itertools.combinations(configs, 2):
        assert configs[one] != configs[two], f"{one} and {two} train the same model"


def test_every_variant_is_trained_once_and_the_same_command_goes_on(faked):
    options, trained = faked
    ablate.main(options)
    assert len(trained) == len(set(trained)) == 2 * len(ablate.VARIANTS)
    options.seeds = 3
    ablate.main(options)
    assert len(trained) == 3 * len(ablate.VARIANTS)


def test_the_part_that_matters_is_told_from_noise(faked):
    options, _ = faked
    found = ablate.main(options)
    worst = next(entry for entry in found.entries if "distribution" in entry.name)
    full = next(entry for entry in found.entries if entry.name == "gnn")
    assert findings.difference(worst, full).verdict == "worse"
    lines = Path(options.out).with_suffix(".md").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("| no statistics of") and "12,345" in line)
    assert findings.number(worst.mean.value) in line
    assert findings.signed(worst.mean.value - full.mean.value) in line


def test_page_and_picture_are_written(faked):
    options, _ = faked
    ablate.main(options)
    text = Path(options.out).read_text()
    drawn = json.loads(text.split('<script id="figures" type="application/json">')[1].split("</script>")[0])
    assert len(drawn) == 1 + len(TARGETS)
    for figure in drawn:
        go.Figure(figure)
    pytest.importorskip("matplotlib")
    assert Path(options.out).with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_rest_is_written_and_said_so(faked, monkeypatch, capsys):
    options, _ = faked
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    ablate.main(options)
    assert "pip install 'metanet[draw]'" in capsys.readouterr().err
    assert Path(options.out).exists()
    assert not Path(options.out).with_suffix(".png").exists()


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match=r"expected at least 1, and a name ending in \.html"):
        ablate.main(ablate.Options(zoo="zoos/tiny", seeds=0))


@pytest.mark.slow
def test_a_real_ablation_of_one_part(tiny_zoo, tmp_path, monkeypatch):
    variants = {name: ablate.VARIANTS[name] for name in (ablate.FULL, "no message passing")}
    monkeypatch.setattr(ablate, "VARIANTS", variants)
    also = ["training.epochs=1", "model.width=8", "model.token_width=8", "split.valid=0.25", "split.test=0.25"]
    found = ablate.main(
        ablate.Options(str(tiny_zoo.path), 1, str(tmp_path / "a.html"), str(tmp_path / "runs"), also=also)
    )
    assert {len(entry.runs) for entry in found.entries} == {1}
    assert len(found.entries) == 2
