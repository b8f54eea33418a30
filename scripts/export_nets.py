"""Writes nets of a zoo as files for other tools, and for `python -m metanet.predict`.

    python scripts/export_nets.py zoo=zoos/demo out=nets nets=[0,1]
    python scripts/export_nets.py zoo=zoos/demo out=nets                        # the last snapshot of every net
    python scripts/export_nets.py zoo=zoos/demo out=graphs format=pyg
    python scripts/export_nets.py zoo=zoos/demo out=nets format=huggingface shard_size=1000000

docs/export.md lists the formats, their files and their options. OUT lies under a hidden name until it is whole.
"""

import sys
from dataclasses import dataclass, field
from typing import Any

from metanet import commandline, exporters
from metanet.zoo.store import open_zoo


@dataclass
class Options:
    zoo: str = field(default=commandline.REQUIRED, metadata={"help": "the zoo's folder"})
    out: str = field(default=commandline.REQUIRED, metadata={"help": "a folder for the files, not there yet or empty"})
    format: str = field(default=exporters.DEFAULT, metadata={"help": "a module of metanet/exporters"})
    nets: list[int] = field(default_factory=list, metadata={"help": "their numbers (all that did not diverge)"})
    step: int | None = field(default=None, metadata={"help": "the snapshot's step (the last)"})
    shard_size: int | None = field(
        default=None, metadata={"help": "huggingface, pyg, table: bytes of a file at most, unless one tensor is larger"}
    )


def main(options: Options) -> None:
    zoo = open_zoo(options.zoo)
    snapshots = exporters.choose(zoo, options.nets, options.step)
    common = ("zoo", "out", "format", "nets", "step")
    own: dict[str, Any] = {k: v for k, v in vars(options).items() if k not in common and v is not None}
    try:
        exporters.export_nets(zoo, snapshots, options.format, options.out, **own)
    except KeyboardInterrupt:
        print("interrupted; nothing was written, and the same command starts anew", file=sys.stderr)
        sys.exit(130)
    nets = set(options.nets or zoo.manifest["net"].to_pylist())
    diverged = len(nets) - len(snapshots)
    told = f"; {diverged} left out because they diverged" if diverged else ""
    print(f"{options.out}: {len(snapshots)} nets{told}")


if __name__ == "__main__":
    commandline.run(main, Options)
