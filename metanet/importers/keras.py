"""Keras: .keras files, whole models in .h5, and .weights.h5 beside the JSON of their configuration.

A net becomes one of the family `program` (metanet/zoo/families/program.py), which needs no library to be opened. Its
configuration is read as data, Sequential or Functional, in the manner of Keras 2 or 3; the kinds of layers are those of
metanet/importers/keras_files/layers. A Lambda, a class or a function of somebody's own is code, and refused.
NAME.weights.h5 holds weights alone: what model.to_json() gives has to lie beside it as NAME.json.

Keras' layout becomes torch's: images [height, width, channels] are read as [channels, height, width], and sequences
[steps, channels] as [channels, steps] where a net has layers for grids of one axis; kernels [*kernel, in, out] become
[out, in, *kernel], dense ones [in, out] become [out, in], and behind a flattened image their rows are put into torch's
order. Padding "same" adds one more after than before where it is odd, averages leave padding out as in TensorFlow, and
the eps of norms is the file's. Optimizer and random generators are left out and counted in `source.file`. Needs the
package h5py: pip install metanet[keras].

A table beside the files says how they were trained, as in format `state_dicts`.
"""

from __future__ import annotations

import importlib.util

from metanet.importers.intake import described
from metanet.importers.intake.folder import Folder
from metanet.importers.intake.parser import Parser
from metanet.importers.intake.source import Source


def read(folder: Folder, parser: Parser, *, labels: str | None = None) -> Source:
    """Every file of the folder, with the labels that the table has of it."""
    if importlib.util.find_spec("h5py") is None:
        raise ValueError("format=keras needs the package h5py, which is not installed: pip install metanet[keras]")
    names = folder.names("**/*.keras", "**/*.h5", "**/*.hdf5")
    return described.source(folder, parser, names, "keras", labels)
