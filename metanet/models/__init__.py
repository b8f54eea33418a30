"""Metanetworks, one per file. Their contract is that of `metanet/baselines`, held by tests/test_every_model.py."""
