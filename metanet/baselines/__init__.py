"""Baselines and controls, one per file, each named by a `configs/model/NAME.yaml`.

The contract, for these and for `metanet.models`, is checked by tests/test_every_model.py:

- `Model(schema, **numbers)`: what the data determine comes with `schema`, numbers from the YAML.
- `model(batch)` with a list of `Nets` returns, for every target of the schema, logits [nets, classes] or standardised
  values [nets], nets in the order of the batch. It computes its own view of the nets (`metanet.views`).
- A net's prediction is the same alone, in any batch and in any order.
- The module says `INVARIANT = True` if the order of hidden units changes no prediction, else `INVARIANT = False`;
  a control that reads no weights says `READS_WEIGHTS = False`.

A model that learns by gradients is an `nn.Module`, and may have
- `facts(nets)`: a tensor [nets, ...] of what it reads of each net and training never changes; the loop asks once and
  hands it over as `nets.facts`, which is None when nobody asked;
- `prepare(train)`: called once, before training, with batches of training nets, to fit normalisers into buffers;
- `pretrain_loss(batch, generator)`: a self-supervised loss, minimised for `pretrain_epochs` before the others.

A model that is fitted in one go is a plain class with
- `fit(train, valid)`, two lists of `Nets`; `valid` is for choices, never for learning;
- `state()`, a dict of tensors that is all it has learnt, and `load_state(state)`.
"""
