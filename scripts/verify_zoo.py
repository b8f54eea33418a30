"""Reads every byte of a zoo and says which are not what was written, by file, tensor and net.

    python scripts/verify_zoo.py zoo=zoos/demo

Prints a sentence per damage, with what to do about it; the exit code is 65 then, and 0 for a sound zoo. A zoo that is
still being trained can be checked too. docs/zoo.md tells how a damaged one is mended.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path

from metanet import commandline, errors
from metanet.progress import progress
from metanet.zoo import layout, verify


@dataclass
class Options:
    zoo: str = field(default=commandline.REQUIRED, metadata={"help": "a zoo's folder"})


def main(options: Options) -> None:
    path = Path(options.zoo)
    snapshots = list(layout.snapshots(layout.read_record(path)))
    damages = 0
    with progress(f"verifying {path.name}", len(snapshots), "shards") as advance:
        for problem in verify.problems(path, advance):
            print(problem, flush=True)
            damages += 1
    if damages:
        print(f"error: {path}: {damages} damages, listed above", file=sys.stderr)
        sys.exit(errors.BAD_DATA)
    there = sum(layout.fragment_path(path, *snapshot).is_file() for snapshot in snapshots)
    print(f"{path}: sound; {there} of {len(snapshots)} shards are there")


if __name__ == "__main__":
    commandline.run(main, Options)
