"""`certmond demo`: a temporary node with the daemon and the server. The demo shows their output after each change."""

from certmond.demo.walkthrough import run

__all__ = ["run"]
