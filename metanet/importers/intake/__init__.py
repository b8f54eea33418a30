"""Intake: what all importers share. Foreign files are hostile until proved otherwise.

folder.py      paths that stay below the source's root, and the SHA-256 of everything that was read
arrays.py      numbers as a file holds them, without torch
zips.py        entries of a zip that are stored as they are
checkpoints.py files of torch.save as arrays and plain values
containers.py  bytes of a container -> tensors and plain metadata, with every claimed size checked first
pickles.py     what a pickle would import or call, read without running it
stand_ins.py   pickles of foreign classes, read without those classes
objects.py     files of pickled objects, one reader per zoo -> tensors and plain metadata
parser.py      runs containers.py and objects.py in child processes with limits; safetensors come back
child.py       such a process
splits.py      the part and label that a JSON of splits gives to files
source.py      what a format gives: columns, and a stream of nets
fitting.py     foreign tensors -> the state_dict of a module, checked name by name and shape by shape
described.py   files that say their own architecture, and a table beside them
groups.py      nets, numbered and gathered by architecture -> shards and manifest
writing.py     the stream -> a zoo
"""
