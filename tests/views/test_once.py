"""Facts of an object are computed once and forgotten with it."""

import gc
from dataclasses import dataclass, field

from metanet.views.once import once_per_object


@dataclass(frozen=True)
class Subject:
    """Equal to others of its name, and without a hash."""

    name: str
    content: dict[str, int] = field(default_factory=dict)


def test_a_fact_is_computed_once_per_object_and_argument():
    calls = []

    @once_per_object
    def fact(subject: Subject, times: int = 1) -> str:
        calls.append((subject.name, times))
        return subject.name * times

    one, other = Subject("a"), Subject("b")
    assert [fact(one), fact(one), fact(one, 2), fact(one, times=3), fact(other)] == ["a", "a", "aa", "aaa", "b"]
    assert calls == [("a", 1), ("a", 2), ("a", 3), ("b", 1)]


def test_a_new_object_never_gets_the_facts_of_a_dead_one():
    @once_per_object
    def fact(subject: Subject) -> str:
        return subject.name

    for number in range(100):  # CPython gives a new object the number of a dead one again and again
        assert fact(Subject(str(number))) == str(number)
        gc.collect(0)
