"""Entry point of `python -m certmond`, which runs the command `certmond`."""

from certmond.cli.main import main

main()
