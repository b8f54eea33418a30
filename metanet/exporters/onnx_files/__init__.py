"""Nets as ONNX graphs: torch.export's operators, one by one, with the weights under their own names.

graph.py   the graph of a module, for any number of samples
rules/     what an operator becomes
"""
