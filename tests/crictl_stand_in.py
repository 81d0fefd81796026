"""A stand-in for crictl: run as `crictl_stand_in.py ARGUMENTS…`, it calls the runtime of tests/kubelet_stand_in.py.

It follows cmd/crictl/{main,container}.go of cri-tools v1.24 to v1.37 for `ps` and `stop`, and Go's flag package for
other arguments: flags end with the first other word, `-name` is `--name`, an undefined flag is an error, and a duration
has a unit. A missing runtime, a call that exceeds --timeout, and an unknown container give the errors of gRPC. `stop`
without its own --timeout kills at once.
"""

from __future__ import annotations

import json
import re
import socket
import sys
from pathlib import Path
from typing import Any, NoReturn

import yaml

GLOBAL = {
    "config": str, "c": "config", "runtime-endpoint": str, "r": "runtime-endpoint", "image-endpoint": str,
    "i": "image-endpoint", "timeout": "duration", "t": "timeout", "debug": bool, "D": "debug",
}  # fmt: skip
PS = {
    "id": str, "name": str, "pod": str, "p": "pod", "image": str, "state": str, "s": "state", "label": list,
    "quiet": bool, "q": "quiet", "output": str, "o": "output", "all": bool, "a": "all", "namespace": str,
}  # fmt: skip
STOP = {"timeout": int, "t": "timeout"}
STATES = {f"{state}": f"CONTAINER_{state.upper()}" for state in ("created", "running", "exited", "unknown")}
DEFAULT_CONFIG = "/etc/crictl.yaml"


def fail(message: str) -> NoReturn:
    sys.stderr.write(f'time="2026-11-24T12:00:00Z" level=fatal msg={json.dumps(message)}\n')
    sys.exit(1)


def parse(words: list[str], known: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the flags at the beginning of `words` by their long names, and the other words."""
    flags: dict[str, Any] = {}
    while words and words[0].startswith("-") and words[0] != "-":
        word, *words = words
        if word == "--":
            break
        name, given, value = word.lstrip("-").partition("=")
        if name not in known:
            fail(f"Incorrect Usage: flag provided but not defined: -{name}")
        kind = known[name]
        if isinstance(kind, str) and kind in known:
            name, kind = kind, known[kind]
        if kind is bool:
            flags[name] = value != "false"
            continue
        if not given:
            if not words:
                fail(f"Incorrect Usage: flag needs an argument: -{name}")
            value, *words = words
        if kind is list:
            flags.setdefault(name, []).extend(value.split(","))
        else:
            flags[name] = number(name, value, kind)
    return flags, words


def number(name: str, value: str, kind: Any) -> Any:
    if kind is str:
        return value
    if match := re.fullmatch(r"([0-9.]+)(ms|s|m|h)" if kind == "duration" else r"(-?[0-9]+)()", value):
        return float(match[1]) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[match[2]] if match[2] else int(match[1])
    fail(f'Incorrect Usage: invalid value "{value}" for flag -{name}: parse error')


def configured(flags: dict[str, Any]) -> tuple[str, float]:
    """The endpoint, and the seconds for a call. Flags go before the configuration, as they do in the real one."""
    path = Path(flags.get("config", DEFAULT_CONFIG))
    if "config" in flags and not path.exists():
        fail(f"get server config: load config file: stat {path}: no such file or directory")
    config = yaml.safe_load(path.read_bytes()) if path.exists() else {}
    if unknown := set(config) - {"runtime-endpoint", "image-endpoint", "timeout", "debug"}:
        fail(f"no configuration option named {unknown.pop()}")
    endpoint = flags.get("runtime-endpoint") or config.get("runtime-endpoint")
    if not endpoint:
        fail("validate service connection: the default endpoints are not there")
    return str(endpoint), float(flags.get("timeout") or config.get("timeout") or 2)


def call(endpoint: str, seconds: float, question: dict[str, Any]) -> dict[str, Any]:
    path = endpoint.removeprefix("unix://")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(seconds)
        try:
            connection.connect(path)
            connection.sendall(json.dumps(question).encode() + b"\n")
            with connection.makefile() as answers:
                line = answers.readline()
        except TimeoutError:
            fail("rpc error: code = DeadlineExceeded desc = context deadline exceeded")
        except OSError as error:
            said = f"dial unix {path}: connect: {str(error.strerror).lower()}"
            fail(f'validate service connection: rpc error: code = Unavailable desc = "transport: {said}"')
    answer: dict[str, Any] = json.loads(line)
    if "error" in answer:
        fail(answer["error"])
    return answer


def ps(endpoint: str, seconds: float, flags: dict[str, Any]) -> None:
    labels = {}
    for word in flags.get("label", ()):
        if word.count("=") != 1:
            fail(f"incorrectly specified label: {word}")
        name, _, value = word.partition("=")
        labels[name] = value
    state = flags.get("state", "" if flags.get("all") else "running").lower()
    if state and state not in STATES:
        fail("--state should be one of created, running, exited or unknown")
    found = [
        container
        for container in call(endpoint, seconds, {"call": "list"})["containers"]
        if state in {"", next(key for key, name in STATES.items() if name == container["state"])}
        and labels.items() <= container["labels"].items()
        and re.search(flags.get("name", ""), container["metadata"]["name"])
        and re.search(flags.get("namespace", ""), container["labels"]["io.kubernetes.pod.namespace"])
        and container["id"].startswith(flags.get("id", ""))
    ]
    if flags.get("output") == "json":
        sys.stdout.write(json.dumps({"containers": found}, indent=2) + "\n")
    elif flags.get("quiet"):
        sys.stdout.writelines(f"{container['id']}\n" for container in found)
    else:
        fail("this stand-in has no table: ask for --quiet or --output json")


def main(*words: str) -> None:
    flags, rest = parse(list(words), GLOBAL)
    match rest:
        case ["ps", *rest]:
            own, rest = parse(rest, PS)
            if rest:
                fail("this stand-in has no help to show")
            ps(*configured(flags), own)
        case ["stop", *rest]:
            own, rest = parse(rest, STOP)
            if not rest:
                fail("you must specify at least one CONTAINER-ID or use --all")
            endpoint, seconds = configured(flags)
            grace = own.get("timeout", 0)
            for identifier in rest:
                call(endpoint, seconds + grace, {"call": "stop", "id": identifier, "timeout": grace})
                sys.stdout.write(f"{identifier}\n")
        case _:
            fail(f"No help topic for '{rest[0] if rest else ''}'")


if __name__ == "__main__":
    main(*sys.argv[1:])
