"""Search for certification paths in two processes. The results are those of `pki.x509.path_building.find_all`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain

from certmond.files.forked_worker import in_two_processes
from certmond.pki.x509.certificate import Certificate
from certmond.pki.x509.path_building import PathSearch, Question, find_all


def find_in_two_processes(
    questions: Sequence[Question], alive: Callable[[], None] = lambda: None
) -> Iterator[PathSearch]:
    """Return the results of `find_all` for `questions`, in the order of the questions.

    Call `alive` after each search, also in the forked process.
    """

    def find(some: Sequence[Question]) -> list[PathSearch]:
        found = list[PathSearch]()
        for each in find_all(some):
            found.append(each)
            alive()
        return found

    return chain.from_iterable(in_two_processes(questions, find, shared=_certificates))


def _certificates(questions: Sequence[Question]) -> list[Certificate]:
    """Return every certificate that a result for `questions` can contain. Both processes share these certificates."""
    return [each for question in questions for each in (question.leaf, *question.anchors, *question.intermediates)]
