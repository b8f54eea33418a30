"""Views: what a model sees of nets of one architecture.

A view is a function of (template, params), with `params` mapping each state_dict name to [nets, *shape]. It loops over
layers and never over nets, keeps the params' device and floating-point type, gives a net the same values in any
company, and raises ValueError for entries that do not fit the template.

    graph.py       the parameter graph: blocked and sparse layout (codes.py, taps.py and wiring.py are its parts)
    tokens.py      a token per channel
    sequence.py    all weights in a row
    statistics.py  per-layer statistics
"""
