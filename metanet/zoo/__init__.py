"""Zoos: populations of nets, from the spec to the shards. docs/zoo.md says how they are specified, stored and mended.

    spec.py, architectures.py   a YAML file -> nets, each fully determined; distributions.py is what they draw from
    images/, augment.py         what nets are trained on; a format of image files is a file
    nets.py, families/          what nets are; a family is a file (fields.py, layers.py: what it is made of)
    tasks.py                    what nets are trained to do
    hyperparameters.py          what else they draw; initialisations.py and schedules.py are among it
    plan.py, sizes.py           which nets are trained together, and what that takes
    estimate.py                 how long it will take here
    fit.py                      one group trained as one program; its feed.py or pixel_feed.py, stack.py, optimisers.py
    fit_stopping.py             the same of nets that stop early (early_stopping.py), each at its own end
    work.py, candidates.py      one group from what the disk holds to all its snapshots
    executors/                  where groups are trained
    make.py                     a spec -> a finished zoo
    layout.py                   where the files lie, and zoo.json
    shards.py, manifest.py      what is in the files: weights, and what is known of each net
    disk.py                     how they reach the disk: atomically, by one writer
    store.py, verify.py         reading a zoo, and finding its damage
    templates.py                the parameter graphs of its architectures, once build_graphs has left them there

What everything here keeps to:
- A net is a function of (seed of the zoo, its number, what the spec gives it). The executor and interruptions do not
  change it; other company in its group changes it to rounding only. All randomness comes from metanet.seeding, and no
  reduction runs across the nets of a group.
- A file of a zoo is whole or absent, and depends on no clock, host or path (log.jsonl excepted). A snapshot counts once
  its manifest fragment is there, and is never touched again.
- A user's mistake is a ValueError or OSError that says where, what was found, what was expected, and what to do.
"""
