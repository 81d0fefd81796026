"""Questions about paths that a second process answers."""

from __future__ import annotations

import pytest

from certmond.files.parallel_path_search import find_in_two_processes
from certmond.pki.x509.certificate import Certificate
from certmond.pki.x509.path_building import PathSearch, Question, find_all
from tests.builders import cross_sign, make_ca, make_intermediate, make_leaf
from tests.files.beside import FORKS, elsewhere
from tests.files.test_forked_worker_messages import parts

OLD, NEW = make_ca("old"), make_ca("new")
CROSSED = cross_sign(NEW, OLD)
MIDDLE = make_intermediate(NEW)
LEAF = make_leaf(MIDDLE)
ANCHORS = OLD.facts, NEW.facts
QUESTIONS = [
    Question(LEAF.facts, ANCHORS, (MIDDLE.facts, CROSSED.facts), frozenset({"client auth"})),
    Question(make_leaf(OLD).facts, ANCHORS, (), frozenset()),
    Question(make_leaf(make_ca("old")).facts, ANCHORS, (), frozenset()),
    Question(LEAF.facts, ANCHORS, (), frozenset()),
    Question(OLD.facts, ANCHORS, (), frozenset()),
    Question(LEAF.facts, (), (), frozenset({"server auth"})),
]


@pytest.mark.filterwarnings(FORKS)
def test_the_answers_are_those_of_one_process() -> None:
    """The results refer to the same certificate objects, so that none is in memory twice."""
    with elsewhere() as brought:
        found = [*find_in_two_processes(QUESTIONS)]
    assert len(brought) == len(QUESTIONS)
    wanted = [*find_all(QUESTIONS)]
    assert parts(found) == parts(wanted)
    assert sum(bool(answer.paths) for answer in found) == 3
    assert {id(each) for answer in found for each in about(answer)} == {
        id(each) for answer in wanted for each in about(answer)
    }


def test_a_few_are_answered_here() -> None:
    """On most nodes there are no more."""
    assert [*find_in_two_processes(QUESTIONS)] == [*find_all(QUESTIONS)]
    assert [*find_in_two_processes([])] == []


def about(answer: PathSearch) -> list[Certificate]:
    return [each for path in answer.paths for each in path.certificates] + [
        each.certificate for each in answer.rejections
    ]
