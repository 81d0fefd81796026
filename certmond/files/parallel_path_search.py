"""Many questions about certification paths, answered on two processors where there are two.

Owns nothing of the answers: they are those of `pki.path.find_all`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

from certmond.files.scan_process import in_two
from certmond.pki.x509.certificate import Certificate
from certmond.pki.x509.path_building import PathSearch, Question, find_all


def find_in_two(questions: Sequence[Question]) -> Iterator[PathSearch]:
    """The answers of `find_all`, each when it is asked for."""
    return chain.from_iterable(in_two(questions, find_all, shared=_certificates))


def _certificates(questions: Sequence[Question]) -> list[Certificate]:
    """All that an answer can be about: both processes have them."""
    return [each for question in questions for each in (question.leaf, *question.anchors, *question.intermediates)]
