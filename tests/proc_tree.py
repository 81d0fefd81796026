"""A directory of processes in the format of proc(5)."""

from __future__ import annotations

from pathlib import Path

ROOT = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw"


class ProcTree:
    """Processes below `path`. The process `self` is certmond in certmond.service."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.add("self", "/usr/bin/certmond", unit="certmond.service", user=990)

    def __str__(self) -> str:
        return str(self.path)

    def add(
        self,
        pid: str,
        *words: str,
        unit: str = "k0scontroller.service",
        cgroup: str | None = None,
        user: int = 0,
        mounts: str = ROOT,
    ) -> None:
        """Add or replace a process in the control group of a unit, or in the control group `cgroup`."""
        users = "\t".join([str(user)] * 4)
        self.write(pid, "cmdline", "".join(f"{word}\0" for word in words))
        self.write(pid, "cgroup", f"0::/system.slice/{unit}\n" if cgroup is None else cgroup)
        self.write(pid, "status", f"Name:\tx\nUid:\t{users}\nGid:\t0\t0\t0\t0\n")
        self.write(pid, "mountinfo", f"{mounts}\n30 22 0:25 / /run rw - tmpfs tmpfs rw\n")

    def write(self, pid: str, name: str, content: str) -> None:
        directory = self.path / pid
        directory.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(content)

    def remove(self, pid: str, *names: str) -> None:
        """Remove files of a process, or the process."""
        directory = self.path / pid
        for path in [directory / name for name in names] or [*directory.iterdir()]:
            path.unlink()
        if not names:
            directory.rmdir()
