"""The command `certmond demo`, which runs the daemon and the HTTP server on a temporary node."""

from certmond.demo.walkthrough import run

__all__ = ["run"]
