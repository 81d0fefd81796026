"""Other programs that renew the certificates of kubeadm: timers and services of systemd, and jobs of cron."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from certmond.files.catalog_observer import Store
from certmond.pki.catalog.other_renewer_spec import Renewer
from tests.conftest import real_part
from tests.daemon_harness import Running, running
from tests.node import Node

ETC, USR = "/etc/systemd/system", "/usr/lib/systemd/system"
SCRIPT, COMMAND = "/usr/local/bin/k8s-certs-renew.sh", "kubeadm certs renew all"
TIMER = "k8s-certs-renew.timer"


class Host:
    """A `node`, and the files of systemd and cron on it."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.store = Store((), str(node.root), renewers=True)

    def write(self, path: str, content: str, mode: int = 0o644) -> None:
        file = self.node.path(path[1:])
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        file.chmod(mode)

    def script(self, path: str = SCRIPT, command: str = COMMAND, mode: int = 0o755) -> None:
        self.write(path, f"#!/bin/bash\n{command}\n", mode)

    def unit(self, name: str, content: str, *, directory: str = ETC, enabled_in: str = ETC) -> None:
        self.write(f"{directory}/{name}", content)
        if enabled_in:
            self.enable(name, directory, enabled_in)

    def enable(self, name: str, directory: str = ETC, enabled_in: str = ETC) -> Path:
        link = self.node.path(f"{enabled_in[1:]}/multi-user.target.wants/{name}")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(f"{directory}/{name}")
        return link

    def kubespray(self, *, enabled_in: str = ETC, directory: str = ETC) -> None:
        """Install the timer of kubespray (roles/kubernetes/control-plane/templates/k8s-certs-renew.*)."""
        self.script()
        self.unit("k8s-certs-renew.service", f"[Service]\nType=oneshot\nExecStart={SCRIPT}\n", enabled_in="")
        self.unit(TIMER, "[Timer]\nOnCalendar=Mon *-*-1 03:00:00\n", directory=directory, enabled_in=enabled_in)

    def found(self) -> list[Renewer]:
        return [*self.store.observe().renewers]

    def where(self) -> list[tuple[str, int, str]]:
        return [(each.path, each.line, each.script) for each in self.found()]


@pytest.fixture
def host(node: Node) -> Host:
    return Host(node)


# --- systemd ----------------------------------------------------------------------------------------------------------


def test_the_timer_of_kubespray_is_a_renewer(host: Host) -> None:
    """An enabled timer renews certificates if a script in the command of its service does."""
    host.kubespray()
    stop = f"run: systemctl disable --now {TIMER}"
    assert host.found() == [Renewer(TIMER, f"{ETC}/{TIMER}", 0, SCRIPT, stop)]


def test_a_timer_that_is_not_enabled_is_no_renewer(host: Host) -> None:
    """A timer without a symlink in a directory of enabled units renews nothing."""
    host.kubespray(enabled_in="")
    assert host.found() == []


def test_a_masked_timer_is_no_renewer(host: Host) -> None:
    """A symlink to /dev/null in /etc/systemd/system turns off a timer of a package that is enabled."""
    host.kubespray(directory=USR, enabled_in=USR)
    assert [each.stop for each in host.found()] == [f"run: systemctl mask --now {TIMER}"]
    host.node.path(f"{ETC[1:]}/{TIMER}").symlink_to("/dev/null")
    assert host.found() == []


RUN = "/run/systemd/system"
STOPPED = {
    "a unit in /etc": (ETC, (ETC,), f"systemctl disable --now {TIMER}"),
    "a unit of a package, enabled by the operator": (USR, (ETC,), f"systemctl disable --now {TIMER}"),
    "a unit that is enabled until the next boot": (USR, (RUN,), f"systemctl disable --now --runtime {TIMER}"),
    "a unit in /etc that is enabled until the next boot": (ETC, (RUN,), f"systemctl disable --now --runtime {TIMER}"),
    "a unit that a package enables": (USR, (USR,), f"systemctl mask --now {TIMER}"),
    "a unit that the operator and a package enable": (USR, (ETC, USR), f"systemctl mask --now {TIMER}"),
    "a unit in /etc that a package enables": (
        ETC, (USR,), f"rm {USR}/multi-user.target.wants/{TIMER}; systemctl stop {TIMER}",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("directory", "enabled_in", "stop"), STOPPED.values(), ids=STOPPED)
def test_the_command_in_the_finding_ends_it(host: Host, directory: str, enabled_in: tuple[str, ...], stop: str) -> None:
    """After systemctl has executed the command of the finding, the timer is no renewer, also after the next boot."""
    host.kubespray(enabled_in="", directory=directory)
    for each in enabled_in:
        host.enable(TIMER, directory, each)
    assert [each.stop for each in host.found()] == [f"run: {stop}"]
    systemctl = real_part("systemctl")
    for command in stop.split("; "):
        words = command.split()
        if words[0] == "rm":
            host.node.path(words[1][1:]).unlink()
        elif words[1] != "stop":
            offline = [systemctl, f"--root={host.node.root}", *(word for word in words[1:] if word != "--now")]
            subprocess.run(offline, check=True, capture_output=True)
    assert host.found() == []


def test_a_timer_starts_the_unit_that_it_names(host: Host) -> None:
    """`Unit=` in a timer or in its drop-in names the service."""
    host.unit("renew.service", f"[Service]\nExecStart=/bin/sh -c '{COMMAND}'\n", enabled_in="")
    host.unit("monthly.timer", "[Timer]\nOnCalendar=monthly\n")
    assert host.found() == []
    host.write(f"{ETC}/monthly.timer.d/10-unit.conf", "[Timer]\nUnit=renew.service\n")
    assert host.where() == [(f"{ETC}/monthly.timer", 0, "")]


def test_a_missing_service_of_a_timer_renews_nothing(host: Host) -> None:
    """A timer whose service or whose script is missing is no renewer."""
    host.unit(TIMER, "[Timer]\nOnCalendar=monthly\n")
    assert host.found() == []
    host.unit("k8s-certs-renew.service", f"[Service]\nExecStart={SCRIPT}\n", enabled_in="")
    assert host.found() == []


def test_each_timer_is_reported_once(host: Host) -> None:
    """A service with several commands, and a service that is enabled beside its timer, give one renewer."""
    commands = f"ExecStart=/bin/true\nExecStart=/usr/bin/{COMMAND}\nExecStart=/usr/bin/{COMMAND}\n"
    host.unit("renew.service", f"[Service]\nType=oneshot\n{commands}")
    host.unit("renew.timer", "[Timer]\nOnCalendar=monthly\n")
    assert host.where() == [(f"{ETC}/renew.timer", 0, "")]


def test_an_enabled_service_is_a_renewer(host: Host) -> None:
    """An enabled service whose own command runs `kubeadm certs renew` renews certificates at each boot."""
    host.unit("renew@a.service", f"[Service]\nExecStart=/bin/sh -c '{COMMAND}'\n")
    host.unit("other.service", "[Service]\nExecStart=/bin/true\n")
    (found,) = host.found()
    assert (found.name, found.stop) == ("renew-a.service", "run: systemctl disable --now renew@a.service")


LOOPS = {
    "a loop": "while true; do\n  /usr/local/bin/kubeadm certs renew all\n  sleep 86400\ndone",
    "a condition": "while sleep 1d; do if [ -e /etc/kubernetes/admin.conf ]; then kubeadm certs renew all; fi; done",
    "a function": "renew() {\n  kubeadm certs renew all && touch /run/renewed\n}\nwhile renew; do sleep 1w; done",
}


@pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
@pytest.mark.parametrize("command", [SCRIPT, f"/bin/bash {SCRIPT}", f"/usr/bin/flock /run/renew {SCRIPT} --quiet"])
def test_a_service_without_a_timer_is_a_renewer(loop: str, command: str, host: Host) -> None:
    """An enabled service whose script renews certificates again and again needs no timer."""
    host.script(command=loop)
    host.unit("renewer.service", f"[Service]\nExecStart={command}\nRestart=always\n")
    host.unit("kubelet.service", "[Service]\nExecStart=/usr/bin/kubelet\n")
    stop = "run: systemctl disable --now renewer.service"
    assert host.found() == [Renewer("renewer.service", f"{ETC}/renewer.service", 0, SCRIPT, stop)]
    host.script(command="while sleep 1d; do kubeadm certs check-expiration; done")
    assert host.found() == []


def test_a_service_that_an_interpreter_runs_is_a_renewer(host: Host) -> None:
    """The first argument of Python, Perl, Ruby and Node.js is a script."""
    path, call = "/opt/renew/renew.py", 'subprocess.run(["kubeadm", "certs", "renew", "all"])'
    host.write(path, f"#!/usr/bin/env python3\nimport subprocess, time\nwhile True:\n  {call}\n  time.sleep(86400)\n")
    host.unit("renewer.service", f"[Service]\nExecStart=/usr/bin/python3.11 -u {path}\n")
    assert host.where() == [(f"{ETC}/renewer.service", 0, path)]


def test_a_service_that_is_not_enabled_is_no_renewer(host: Host) -> None:
    """A service without a symlink in a directory of enabled units does not start at a boot."""
    host.script()
    host.unit("renewer.service", f"[Service]\nExecStart={SCRIPT}\n", enabled_in="")
    assert host.found() == []


def test_the_service_of_a_timer_is_reported_once(host: Host) -> None:
    """If an enabled timer starts an enabled service, the finding names the timer."""
    host.kubespray()
    host.enable("k8s-certs-renew.service")
    assert host.where() == [(f"{ETC}/{TIMER}", 0, SCRIPT)]


PREFIXES = ("-", "!-", "@-", "+", "|")


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_of_a_command_is_no_part_of_its_path(host: Host, prefix: str) -> None:
    """systemd.service(5) permits special characters before the path of a program."""
    host.script()
    host.unit("renew.service", f"[Service]\nExecStart={prefix}{SCRIPT}\n", enabled_in="")
    host.unit("renew.timer", "[Timer]\nOnCalendar=monthly\n")
    assert host.where() == [(f"{ETC}/renew.timer", 0, SCRIPT)]


@pytest.mark.parametrize("name", ["ExecStartPre", "ExecStartPost"])
def test_each_command_of_a_service_is_read(host: Host, name: str) -> None:
    """A service also renews certificates with a command before or after its main command."""
    host.script()
    host.unit("renew.service", f"[Service]\nType=oneshot\nExecStart=/bin/true\n{name}={SCRIPT}\n", enabled_in="")
    host.unit("renew.timer", "[Timer]\nOnCalendar=monthly\n")
    assert host.where() == [(f"{ETC}/renew.timer", 0, SCRIPT)]


def test_a_service_with_a_masked_timer_is_a_renewer(host: Host) -> None:
    """An enabled service runs at each boot, also if its timer is masked."""
    host.unit("renew.service", f"[Service]\nType=oneshot\nExecStart=/usr/bin/{COMMAND}\n")
    host.unit("renew.timer", "[Timer]\nOnCalendar=monthly\n", directory=USR, enabled_in=USR)
    host.node.path(f"{ETC[1:]}/renew.timer").symlink_to("/dev/null")
    assert host.where() == [(f"{ETC}/renew.service", 0, "")]


# --- cron -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "before", "stop"),
    [
        ("/etc/crontab", "0 1 * * * root", "remove this line"),
        ("/etc/anacrontab", "7 10 renew", "remove this line"),
        ("/etc/cron.d/renew", "@daily root", "remove this line"),
        ("/var/spool/cron/crontabs/root", "10 */24 * * 1", "remove this line: crontab -u root -e"),
        ("/var/spool/cron/tabs/root", "@reboot", "remove this line: crontab -u root -e"),
        ("/var/spool/cron/root", "10 */24 * * 1", "remove this line: crontab -u root -e"),
    ],
)
def test_a_line_of_a_crontab_is_a_renewer(host: Host, path: str, before: str, stop: str) -> None:
    """The first line with the command gives the renewer. A comment does not count."""
    host.write(path, f"# {COMMAND}\nSHELL=/bin/sh\n{before} {COMMAND}\n{before} {COMMAND}\n")
    (found,) = host.found()
    assert (found.path, found.line, found.script, found.stop) == (path, 3, "", stop)


def test_a_script_in_a_crontab_is_followed(host: Host) -> None:
    """cron of StarlingX runs /usr/bin/kube-cert-rotation.sh, which runs `kubeadm certs renew`."""
    host.script("/usr/bin/kube-cert-rotation.sh", "kubeadm certs renew admin.conf")
    host.write("/var/spool/cron/crontabs/root", "10 */24 * * * /usr/bin/kube-cert-rotation.sh >/var/log/x.log 2>&1\n")
    (found,) = host.found()
    assert (found.name, found.script) == ("crontab-root", "/usr/bin/kube-cert-rotation.sh")


def test_the_output_of_a_job_is_no_script(host: Host) -> None:
    """A file to which the job writes, a file of more than 64 KiB, or a file in a comment is not a script of the job."""
    host.script()
    host.write("/var/log/renew.log", f"{COMMAND}\n")
    host.write("/usr/bin/program", f"{COMMAND}\n{'x' * (64 << 10)}", 0o755)
    host.write("/etc/cron.d/check", f"0 3 * * * root /usr/bin/program >> /var/log/renew.log\n# {SCRIPT}\n")
    assert host.found() == []


def test_a_script_of_a_script_is_followed(host: Host) -> None:
    """certmond follows the scripts that a script starts, but no further than three scripts."""
    host.script()
    host.script("/usr/local/sbin/first.sh", "exec /usr/local/sbin/second.sh")
    host.script("/usr/local/sbin/second.sh", f"sh {SCRIPT}")
    host.write("/etc/cron.d/renew", "0 3 * * * root /usr/local/sbin/first.sh\n")
    assert host.where() == [("/etc/cron.d/renew", 1, SCRIPT)]
    host.script("/etc/cron.daily/renew", "/usr/local/sbin/second.sh")
    assert ("/etc/cron.daily/renew", 0, SCRIPT) in host.where()
    host.script("/usr/local/sbin/before.sh", "/usr/local/sbin/first.sh; /usr/local/sbin/before.sh")
    host.write("/etc/cron.d/renew", "0 3 * * * root /usr/local/sbin/before.sh\n")
    assert host.where() == [("/etc/cron.daily/renew", 0, SCRIPT)]


def test_a_script_without_a_path_is_searched(host: Host) -> None:
    """cron searches a program in the PATH of the crontab, or in the usual directories."""
    host.script("/opt/kube/renew.sh")
    host.write("/etc/cron.d/renew", "PATH=/usr/bin:/opt/kube:relative\n0 3 * * * root renew.sh\n")
    assert host.where() == [("/etc/cron.d/renew", 2, "/opt/kube/renew.sh")]
    host.write("/etc/cron.d/renew", "0 3 * * * root renew.sh\n")
    assert host.found() == []
    host.script("/usr/local/sbin/renew.sh")
    assert host.where() == [("/etc/cron.d/renew", 1, "/usr/local/sbin/renew.sh")]


def test_an_argument_is_no_script(host: Host) -> None:
    """certmond reads a file in the position of a command, or after a shell, and only if the file is a script."""
    host.write("/var/log/audit.log", f"{COMMAND}\n")
    host.script("/usr/local/bin/renew", mode=0o644)
    for command in ("grep -c renew /var/log/audit.log", "/var/log/audit.log", "cat /usr/local/bin/renew"):
        host.write("/etc/cron.d/renew", f"0 3 * * * root {command}\n")
        assert host.found() == []
    host.write("/etc/cron.d/renew", "0 3 * * * root bash -x /usr/local/bin/renew %input of the script\n")
    assert host.where() == [("/etc/cron.d/renew", 1, "/usr/local/bin/renew")]


def test_a_variable_of_a_crontab_is_no_command(host: Host) -> None:
    """certmond does not follow a path in a variable of a crontab."""
    host.script()
    host.write("/etc/cron.d/renew", f"HELP={COMMAND}\nSHELL={SCRIPT}\nMAILTO = 'root'\n")
    assert host.found() == []


def test_debian_ignores_names_with_a_dot(host: Host) -> None:
    """cron and run-parts of Debian ignore names with a dot, those of other distributions do not."""
    host.script("/etc/cron.weekly/renew.sh")
    host.write("/etc/cron.d/renew.disabled", f"0 3 * * * root {COMMAND}\n")
    assert [path for path, _, _ in host.where()] == ["/etc/cron.d/renew.disabled", "/etc/cron.weekly/renew.sh"]
    host.write("/etc/debian_version", "12.1\n")
    host.script("/etc/cron.daily/renew")
    assert host.where() == [("/etc/cron.daily/renew", 0, "")]


def test_an_executable_file_of_run_parts_is_a_renewer(host: Host) -> None:
    """run-parts executes each executable file in /etc/cron.weekly, but no backup copy."""
    host.script("/etc/cron.weekly/renew", "kubeadm alpha certs renew all")
    host.script("/etc/cron.weekly/off", mode=0o644)
    host.script("/etc/cron.weekly/renew~")
    host.script("/etc/cron.weekly/.renew")
    host.script("/etc/cron.weekly/renew.rpmsave")
    host.write("/etc/cron.d/renew.dpkg-old", f"0 3 * * * root {COMMAND}\n")
    (found,) = host.found()
    assert (found.path, found.script, found.stop) == (
        "/etc/cron.weekly/renew", "", "run: chmod a-x /etc/cron.weekly/renew",
    )  # fmt: skip


# --- The daemon -------------------------------------------------------------------------------------------------------


def disable(host: Host) -> None:
    host.node.path(f"{ETC[1:]}/multi-user.target.wants/{TIMER}").unlink()


def empty_crontab(host: Host) -> None:
    host.write("/etc/cron.d/renew", "# nothing\n")


def correct_script(host: Host) -> None:
    host.script(command="kubeadm certs check-expiration")


def enable_with_script(host: Host) -> None:
    correct_script(host)
    host.enable(TIMER)
    host.script()


def enable_service(host: Host) -> None:
    host.enable("k8s-certs-renew.service")


CHANGES: dict[str, tuple[Callable[[Host], object], Callable[[Host], None]]] = {
    "a timer": (lambda host: host.enable(TIMER), disable),
    "a job of cron": (lambda host: host.write("/etc/cron.d/renew", f"0 3 * * * root {COMMAND}\n"), empty_crontab),
    "a script of an enabled timer": (enable_with_script, correct_script),
    "a script of an enabled service": (enable_service, correct_script),
}


def reported(daemon: Running) -> list[str]:
    return [each["message"] for each in daemon.status()["findings"] if each["reason"] == "second_renewer"]


@pytest.mark.long
@pytest.mark.parametrize("name", CHANGES)
def test_the_daemon_follows_a_second_renewer(name: str, host: Host, tmp_path: Path) -> None:
    """In enforce mode, the finding starts and ends with the change of a file, without a restart of the daemon."""
    begin, end = CHANGES[name]
    host.kubespray(enabled_in="")
    config = tmp_path / "config.yaml"
    config.write_text("mode: enforce\n")
    options = ["--config", str(config), "--state-dir", str(tmp_path / "state")]
    with running(host.node.root, tmp_path, *options) as daemon:
        assert reported(daemon) == []
        begin(host)
        daemon.until(lambda: reported(daemon), "the finding")
        daemon.until(lambda: 'reason="second_renewer"' in daemon.metrics(), "the metric")
        end(host)
        daemon.until(lambda: not reported(daemon), "the end of the finding")


@pytest.mark.long
def test_in_observe_mode_another_program_is_the_only_renewer(host: Host, tmp_path: Path) -> None:
    """In observe mode, certmond renews nothing, and does not report another program that renews."""
    host.kubespray()
    with running(host.node.root, tmp_path) as daemon:
        assert reported(daemon) == []
