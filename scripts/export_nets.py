"""Writes nets of a zoo as single checkpoints: safetensors with the ordinary state_dict, and in the metadata, as JSON
under "metanet", the architecture and the net's row of the manifest. `python -m metanet.predict` reads them.

    python scripts/export_nets.py zoo=zoos/digits_mini out=nets nets=[0,1]
    python scripts/export_nets.py zoo=zoos/digits_mini out=nets                 # the last snapshot of every net
"""

from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import MISSING

from metanet import commandline
from metanet.progress import progress
from metanet.zoo import disk, shards
from metanet.zoo.store import Zoo, open_zoo


@dataclass
class Options:
    zoo: str = field(default=MISSING, metadata={"help": "the zoo's folder"})
    out: str = field(default=MISSING, metadata={"help": "a folder for the checkpoints"})
    nets: list[int] = field(default_factory=list, metadata={"help": "their numbers (all)"})
    step: int | None = field(default=None, metadata={"help": "the snapshot's step (the last)"})


def main(options: Options) -> None:
    zoo = open_zoo(options.zoo)
    nets = options.nets or sorted(set(zoo.manifest["net"].to_pylist()))
    snapshots = [(net, zoo.steps(net)[-1] if options.step is None else options.step) for net in nets]
    for net, step in snapshots:
        zoo.row(net, step)  # a net that is not there is an error before anything is written
    out = Path(options.out)
    disk.make_folder(out)
    with progress(f"exporting to {out}", len(snapshots)) as advance:
        for net, step in snapshots:
            disk.write_atomically(out / f"net-{net}-step-{step}.safetensors", checkpoint(zoo, net, step))
            advance()
    print(f"{out}: {len(snapshots)} checkpoints")


def checkpoint(zoo: Zoo, net: int, step: int) -> bytes:
    """The safetensors file of one net."""
    row = zoo.manifest.slice(zoo.row(net, step), 1).to_pylist()[0]
    return shards.pack(zoo.state_dict(net, step), {**row, "arch": zoo.archs[row["arch"]], "arch_name": row["arch"]})


if __name__ == "__main__":
    commandline.run(main, Options)
