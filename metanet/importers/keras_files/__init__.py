"""Files of Keras as programs; the format itself is metanet/importers/keras.py. Runs in the child process of the parser.

hdf5.py       HDF5 without links, plug-ins, objects or claims beyond the file -> arrays
reading.py    .keras, .h5 and .weights.h5 -> the model's configuration, and each layer's arrays in its own order
graph.py      the configuration -> layers in order, with what each reads
building.py   steps and tensors of a program, and where the channels of every value lie
layers.py     a function for each kind of layer
activations.py    and for each activation
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # (torch imports it for operators without data; later that would be a write)
from torch import Tensor

from metanet.importers.intake import described
from metanet.importers.keras_files import graph, reading
from metanet.zoo.families import program


def parse(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of the net in a file, and beside them its architecture, as `arch`, and what the file says.

    Raises:
        RefusedError: it names code, or leads out of the file.
        ValueError: damaged, weights alone, or a layer that is not supported; says which.
    """
    model = reading.read(path)
    made, arrays = graph.program(model, str(path))
    about = reading.told(model) | {described.ARCH: program.architecture(made)}
    about |= {described.BESIDE: [model.beside]} if model.beside else {}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}, about
