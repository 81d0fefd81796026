"""`python -m certmond` is `certmond`."""

from certmond.cli.main import main

main()
