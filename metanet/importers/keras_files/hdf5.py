"""HDF5 as hostile files: only what lies in the file itself is read, and no more than its bytes can hold."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

os.environ["HDF5_PLUGIN_PRELOAD"] = "::"  # HDF5 loads no filter of another library

import h5py

from metanet.errors import RefusedError

MAGIC = b"\x89HDF\r\n\x1a\n"
FILTERS = (h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32)
MOST_OBJECTS, MOST_DEPTH = 100_000, 32
MOST_PACKED = 64  # a compressed dataset may be so many times as large as what is stored of it


class File:
    """A file in memory.

    Raises:
        ValueError: no HDF5.
    """

    def __init__(self, data: bytes, where: str):
        self.where, self._size = where, len(data)
        self._left = MOST_OBJECTS
        try:
            self.root = h5py.File(io.BytesIO(data), "r")
        except OSError as error:
            raise ValueError(f"{where}: damaged: no HDF5 ({str(error).splitlines()[0]})") from error

    def members(self, group: h5py.Group) -> Iterator[tuple[str, h5py.Group | h5py.Dataset]]:
        """What a group holds, by name.

        Raises:
            RefusedError: a link out of the file or to another place in it.
            ValueError: damaged, or nested too deeply.
        """
        if group.name is not None and group.name.count("/") > MOST_DEPTH:
            raise RefusedError(f"{self.where}: refused: groups inside each other more than {MOST_DEPTH} deep")
        for name in map(str, group):
            self._left -= 1
            if self._left < 0:
                raise RefusedError(f"{self.where}: refused: more than {MOST_OBJECTS:,} objects")
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise RefusedError(f"{self.where}: refused: {name!r} is a {type(link).__name__}, which leads elsewhere")
            member = group[name]
            if not isinstance(member, h5py.Group | h5py.Dataset):
                raise RefusedError(f"{self.where}: refused: {name!r} is neither a group nor a dataset")
            yield name, member

    def datasets(self, group: h5py.Group) -> Iterator[h5py.Dataset]:
        """All datasets below a group."""
        for _, member in self.members(group):
            if isinstance(member, h5py.Group):
                yield from self.datasets(member)
            elif isinstance(member, h5py.Dataset):
                yield member

    def groups(self, group: h5py.Group) -> dict[str, h5py.Group]:
        """What a group holds, which is nothing but groups.

        Raises:
            ValueError: a dataset.
        """
        found: dict[str, h5py.Group] = {}
        for name, member in self.members(group):
            if not isinstance(member, h5py.Group):
                raise ValueError(f"{self.where}: found the dataset {member.name}, expected groups beside each other")
            found[name] = member
        return found

    def array(self, dataset: h5py.Dataset) -> np.ndarray:
        """The numbers of a dataset.

        Raises:
            RefusedError: they lie elsewhere, are objects, or claim more than the file holds.
        """
        where = f"{self.where}: refused: {dataset.name}"
        kept = dataset.id.get_create_plist()
        if dataset.is_virtual or kept.get_external_count():
            raise RefusedError(f"{where} is virtual or lies in another file")
        is_bfloat16 = dataset.dtype == np.dtype("V2")  # which NumPy does not have, and Keras writes as its bytes
        if not is_bfloat16 and (dataset.dtype.kind not in "fiub" or dataset.dtype.itemsize > 8):
            raise RefusedError(f"{where} holds {dataset.dtype}, expected numbers")
        filters = [kept.get_filter(number)[0] for number in range(kept.get_nfilters())]
        if not set(filters) <= set(FILTERS):
            raise RefusedError(f"{where} is packed by the filters {filters}, expected none of other libraries")
        claimed, stored = math.prod(dataset.shape or ()) * dataset.dtype.itemsize, dataset.id.get_storage_size()
        if stored > self._size or claimed > stored * (MOST_PACKED if filters else 1):
            raise RefusedError(f"{where} claims {claimed:,} bytes, and the file holds {stored:,} of it")
        found = np.asarray(dataset[()])
        return (found.view("<u2").astype("<u4") << 16).view("<f4") if is_bfloat16 else found

    def text(self, owner: h5py.Group, name: str) -> str | None:
        """An attribute that is text."""
        found = self._attribute(owner, name)
        if isinstance(found, bytes):
            return found.decode("utf-8", "replace")
        return found if isinstance(found, str) else None

    def texts(self, owner: h5py.Group, name: str) -> list[str] | None:
        """An attribute that is a list of texts, which Keras cuts into NAME0, NAME1, ... where it is long."""
        names = [name] if name in owner.attrs else []
        while not names or names[-1] != name:
            if f"{name}{len(names)}" not in owner.attrs:
                break
            names.append(f"{name}{len(names)}")
        found: list[str] = []
        for one in names:
            values = np.asarray(self._attribute(owner, one)).reshape(-1).tolist()
            found += [value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value) for value in values]
        return found if names else None

    def _attribute(self, owner: h5py.Group, name: str) -> Any:
        if name not in owner.attrs:
            return None
        kept = owner.attrs.get_id(name)
        is_text = h5py.check_string_dtype(kept.dtype) is not None
        if math.prod(kept.shape) > MOST_OBJECTS or not (is_text or kept.dtype.kind in "fiuS"):
            raise RefusedError(f"{self.where}: refused: the attribute {name!r} is {kept.dtype} {kept.shape}")
        return owner.attrs[name]
