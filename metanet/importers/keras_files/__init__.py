"""Files of Keras as programs; the format itself is metanet/importers/keras.py. Runs in the child process of the parser.

hdf5.py       HDF5 without links, plug-ins, objects or claims beyond the file -> arrays
weights.py    the arrays of a file as a tree, by layers and their parts
configuration.py    the model's JSON -> layers, and what each use of them reads
reading.py    .keras, .h5 and .weights.h5 -> configuration and weights
building.py   steps and tensors of a program, and where the channels of every value lie
layers/       a function for each kind of layer
activations.py    and for each activation
graph.py      the layers in order, and the models inside the model

Torch, which takes 200 MB, is not imported here: the importer's own process makes the architecture of the program.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from metanet.errors import RefusedError
from metanet.importers.intake.arrays import Array
from metanet.importers.keras_files import graph, reading

PROGRAM, BESIDE = "program", "external"  # see intake/described.py


def parse(path: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    """The tensors of the net in a file, and beside them its program, and what the file says.

    Raises:
        RefusedError: it names code, or leads out of the file.
        ValueError: damaged, weights alone, or a layer that is not supported; says which.
    """
    where = str(path)
    try:
        model = reading.read(path)
        made, tensors = graph.program(model)
    except ValueError as error:
        kind = RefusedError if isinstance(error, RefusedError) else ValueError
        raise error if where in str(error) else kind(f"{where}: {error}") from error
    about = reading.told(model) | {PROGRAM: made} | ({BESIDE: [model.beside]} if model.beside else {})
    return {name: Array("F32", array.shape, array.tobytes()) for name, array in tensors.items()}, about
