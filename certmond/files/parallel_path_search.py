"""Search of certification paths on two processors, if the node has two.

The results are those of `pki.x509.path_building.find_all`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

from certmond.files.scan_process import in_two
from certmond.pki.x509.certificate import Certificate
from certmond.pki.x509.path_building import PathSearch, Question, find_all


def find_in_two(questions: Sequence[Question]) -> Iterator[PathSearch]:
    """Return an iterator of the results of `find_all`, each computed on demand."""
    return chain.from_iterable(in_two(questions, find_all, shared=_certificates))


def _certificates(questions: Sequence[Question]) -> list[Certificate]:
    """Return every certificate that a result can contain: both processes have them."""
    return [each for question in questions for each in (question.leaf, *question.anchors, *question.intermediates)]
