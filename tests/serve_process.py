"""`certmond serve` as a process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.daemon_harness import Running


@contextmanager
def serving(work: Path, configuration: str, *options: str) -> Iterator[Running]:
    """Run the process until the block ends. It serves the files in `work`, unless an option names another directory."""
    config, log = work / "config.yaml", work / "log"
    config.write_text(configuration)
    command = [sys.executable, "-m", "certmond", "--config", str(config), "serve", "--runtime-dir", str(work), *options]
    with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=output, text=True) as process:
        try:
            yield Running(process, work, log)
        finally:
            process.kill()
