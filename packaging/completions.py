"""Completions for bash, zsh and fish, from the command line itself: `completions.py /usr/share` writes them."""

import sys
from pathlib import Path

from click.shell_completion import BashComplete, FishComplete, ZshComplete

from certmond.cli import cli

PLACES = {
    BashComplete: "bash-completion/completions/certmond",
    ZshComplete: "zsh/vendor-completions/_certmond",
    FishComplete: "fish/vendor_completions.d/certmond.fish",
}

for shell, path in PLACES.items():
    file = Path(sys.argv[1]) / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(shell(cli, {}, "certmond", "_CERTMOND_COMPLETE").source())
