"""Parts that several models use, each in a file of its noun."""
