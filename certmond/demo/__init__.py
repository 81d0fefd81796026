"""`certmond demo`: a temporary node with the real daemon and the real server, and their output after each change."""

from certmond.demo.walkthrough import run

__all__ = ["run"]
