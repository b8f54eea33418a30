"""What all tests share. Examples are fixed (derandomize) and untimed: a slow machine fails no test."""

from hypothesis import settings

settings.register_profile("metanet", deadline=None, derandomize=True, max_examples=30)
settings.load_profile("metanet")
