"""The whole flow as a user walks it: spec, zoo, graphs, models, report, a prediction for one checkpoint."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import metanet

ROOT = Path(__file__).parents[1]
SMALL = ("model.width=8", "model.edge_width=4", "model.depth=1", "model.token_width=8", "training.epochs=2")


def command(*words: str, folder: Path) -> str:
    """Runs Python with `words` in `folder`; its output. A warning or an exit code above 0 fails the test."""
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "HOME": str(folder)}
    done = subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture
def folder(tiny_spec, tmp_path) -> Path:
    OmegaConf.save(OmegaConf.create(tiny_spec), tmp_path / "tiny.yaml")
    return tmp_path


def test_from_a_spec_to_a_report_and_a_prediction(folder):
    scripts = str(ROOT / "scripts")
    command(f"{scripts}/make_zoo.py", "spec=tiny.yaml", "out=zoos/tiny", "processes=1", folder=folder)
    command(f"{scripts}/build_graphs.py", "zoo=zoos/tiny", folder=folder)
    command("-m", "metanet.train", "-m", "model=majority,architecture_only", "zoo=zoos/tiny", folder=folder)
    command("-m", "metanet.train", "model=gnn", "zoo=zoos/tiny", *SMALL, "name=gnn-seed0", folder=folder)
    assert sorted(path.name for path in (folder / "runs" / "tiny").iterdir()) == [
        *("architecture_only-seed0", "gnn-seed0", "majority-seed0")
    ]
    report = command("-m", "metanet.report", "runs=runs/tiny", "out=report.html", folder=folder)
    assert "majority" in report
    assert "</html>" in (folder / "report.html").read_text()
    command(f"{scripts}/export_nets.py", "zoo=zoos/tiny", "nets=[0]", "out=nets", folder=folder)
    checkpoint = next((folder / "nets").glob("*.safetensors"))
    words = ("run=runs/tiny/gnn-seed0", f"checkpoint={checkpoint}", "json=true")
    answers = json.loads(command("-m", "metanet.predict", *words, folder=folder))
    run = metanet.load_run(folder / "runs" / "tiny" / "gnn-seed0")
    assert set(answers) == {target.name for target in run.schema.targets}
    left = {path.name for path in folder.iterdir()}
    assert left == {"tiny.yaml", "zoos", "runs", "report.html", "report.md", "nets"}, "nothing else is written"
