"""Facts of a template are computed once, not at every batch."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Hashable
from typing import Concatenate, ParamSpec, TypeVar

Subject = TypeVar("Subject")
Rest = ParamSpec("Rest")
Fact = TypeVar("Fact")


def once_per_object(fact: Callable[Concatenate[Subject, Rest], Fact]) -> Callable[Concatenate[Subject, Rest], Fact]:
    """`fact(subject, ...)`, remembered for each subject as long as it lives, and for each of the other arguments.

    For frozen objects that hold dicts and so have no hash: templates and blocks. The answers are shared between
    callers, who must not change them in place.
    """
    known: dict[int, dict[Hashable, Fact]] = {}

    @functools.wraps(fact)
    def remembered(subject: Subject, *args: Rest.args, **kwargs: Rest.kwargs) -> Fact:
        if id(subject) not in known:
            known[id(subject)] = {}
            weakref.finalize(subject, known.pop, id(subject))
        answers, key = known[id(subject)], (args, tuple(sorted(kwargs.items())))
        if key not in answers:
            answers[key] = fact(subject, *args, **kwargs)
        return answers[key]

    return remembered
