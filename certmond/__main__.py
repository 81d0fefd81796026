"""Entry point of `python -m certmond`."""

from certmond.cli.main import main

main()
