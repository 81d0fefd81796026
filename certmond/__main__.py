"""`python -m certmond` is `certmond`."""

from certmond.cli import main

main()
