"""A connection of Ansible to a machine of these tests: commands run in its namespaces, and files are below its root."""

from __future__ import annotations

import shutil
import subprocess

from ansible.plugins.connection import ConnectionBase

DOCUMENTATION = """
name: machine
short_description: Enter a machine of the tests
description: Enter the namespaces of a process.
options:
  leader:
    description: PID of the first process of the machine.
    vars: [{name: machine_leader}]
    required: true
"""


class Connection(ConnectionBase):  # type: ignore[misc]  # Ansible has no types
    transport = "machine"
    has_pipelining = True

    def _connect(self) -> Connection:
        return self

    def exec_command(self, cmd: str, in_data: bytes | None = None, sudoable: bool = True) -> tuple[int, bytes, bytes]:
        leader = str(self.get_option("leader"))
        enter = ["nsenter", "-t", leader, "-m", "-u", "-i", "-n", "-p", "-C", "--", "env", "-i"]
        variables = ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "HOME=/root"]
        done = subprocess.run(
            [*enter, *variables, "/bin/sh", "-c", cmd], input=in_data or b"", capture_output=True, check=False
        )
        return done.returncode, done.stdout, done.stderr

    def put_file(self, in_path: str, out_path: str) -> None:
        shutil.copyfile(in_path, self._path(out_path))

    def fetch_file(self, in_path: str, out_path: str) -> None:
        shutil.copyfile(self._path(in_path), out_path)

    def close(self) -> None:
        """Nothing is open."""

    def _path(self, name: str) -> str:
        return f"/proc/{self.get_option('leader')}/root{name}"
