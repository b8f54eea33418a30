"""Turns somebody else's nets into an ordinary zoo, which build_graphs, metanet.train and metanet.predict read.

    python scripts/import_zoo.py format=nws path=nws_main out=zoos/nws
    python scripts/import_zoo.py format=small_cnn path=mnist out=zoos/unterthiner_mnist image_set=mnist
    python scripts/import_zoo.py format=state_dicts path=nets out=zoos/mine module=mine:Net input=[1,3,32,32]

Foreign files are read as if they were hostile: pickles as plain tensors or not at all, by a process with limits. What
is left out stands in OUT/left_out.json. docs/import.md lists the formats, their files and their options.
"""

import gc
from dataclasses import dataclass, field
from typing import Any

from metanet import commandline


@dataclass
class Options:
    format: str = field(
        default=commandline.REQUIRED, metadata={"help": "what the files are: a module of metanet/importers"}
    )
    path: str = field(default=commandline.REQUIRED, metadata={"help": "their folder, or a single file"})
    out: str = field(default=commandline.REQUIRED, metadata={"help": "a folder for the zoo, not there yet"})
    image_set: str | None = field(
        default=None, metadata={"help": "small_cnn, model_zoos, model_zoos_dataset, inr: where the files do not say it"}
    )
    activation: str | None = field(default=None, metadata={"help": "model_zoos_dataset: where the files do not say it"})
    module: str | None = field(default=None, metadata={"help": "state_dicts, table: package:factory of the nets"})
    input: list[int] | None = field(default=None, metadata={"help": "with module: [1,channels,height,width]"})
    weights: str | None = field(
        default=None, metadata={"help": "state_dicts, table: the entry with the net, where checkpoints have several"}
    )
    labels: str | None = field(
        default=None,
        metadata={"help": "huggingface, keras, onnx, state_dicts, table, inr, wild_park: the table beside the files"},
    )
    omega: int | None = field(default=None, metadata={"help": "inr: the factor before every sine (30)"})
    offset: float | None = field(default=None, metadata={"help": "inr: what their code adds to the output (0.5)"})
    workers: int | None = field(
        default=None, metadata={"help": "processes that parse checkpoints; as many as cores if left out"}
    )
    non_finite: str | None = field(
        default=None, metadata={"help": "weights that are not finite: leave_out (if left out), refuse or keep"}
    )
    verify: str | None = field(
        default=None, metadata={"help": "accuracy: some nets must do on their image sets what the source says"}
    )


def main(options: Options) -> None:
    gc.disable()  # of what is imported nearly all stays, and looking for the rest takes a fifth of the time
    from metanet.importers.intake.writing import REPORT, import_zoo  # takes seconds: Ctrl-C is answered meanwhile too

    gc.freeze()
    gc.enable()
    chosen: dict[str, Any] = {name: value for name, value in vars(options).items() if value is not None}
    zoo = import_zoo(chosen.pop("format"), chosen.pop("path"), chosen.pop("out"), **chosen)
    runs, left_out = len(set(zoo.manifest["lineage"].to_pylist())), zoo.record["source"]["left_out"]
    told = f"; {left_out} left out, see {zoo.path / REPORT}" if left_out else ""
    print(f"{zoo.path}: {len(zoo)} snapshots of {runs} training runs, {len(zoo.archs)} architectures{told}")
    factories = ",".join(sorted({arch["factory"] for arch in zoo.archs.values() if "factory" in arch}))
    leave = f"METANET_FACTORIES={factories} " if factories else ""
    print(f"next: {leave}python scripts/build_graphs.py zoo={zoo.path}, then python -m metanet.train zoo={zoo.path}")


if __name__ == "__main__":
    commandline.run(main, Options)
