"""Metanetworks, one per file; the contract is the one in `metanet/baselines/__init__.py`, held by tests/test_every_model.py."""
