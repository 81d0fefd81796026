"""`certmond demo`: a node of its own, the real daemon and the real server, and what they show when things go wrong."""

from certmond.demo.walkthrough import run

__all__ = ["run"]
