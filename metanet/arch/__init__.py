"""An architecture as a parameter graph: trace -> axis types -> Template, with the symmetry from the same derivation.

`rules/` holds one operator family per file; a new operator is one new file there (see docs/add-a-layer.md).
"""
