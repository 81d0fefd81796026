"""Check whether certmond has the permissions for enforce mode, before the first renewal needs them."""

from __future__ import annotations

import os

from certmond.config.model import Config

UNIT = "certmond.service"
_DROP_IN = "/etc/systemd/system/certmond.service.d"
_REMEDY = (
    f"run: mkdir -p {_DROP_IN} && ln -sf /usr/share/certmond/enforce.conf {_DROP_IN}/enforce.conf; then run: "
    "systemctl daemon-reload && systemctl restart certmond"
)


def missing_rights(config: Config, root: str) -> str | None:
    """Return why this process cannot execute the steps of enforce mode, and the remedy. Return None if it can.

    The check covers the directories of the entries that exist on the node. Below another root, the result is None.
    """
    if config.mode != "enforce" or root != "/" or os.geteuid() == 0:
        return None
    directories = dict.fromkeys(os.path.dirname(spec.path) for spec in config.certificates if not spec.renewed_by)
    unwritable = [each for each in directories if os.path.isdir(each) and not os.access(each, os.W_OK)]
    if not unwritable:
        return None
    more = f" and {len(unwritable) - 1} more directories" if len(unwritable) > 1 else ""
    fact = f"`mode: enforce` needs write permission for {unwritable[0]}{more}"
    return f"{fact}, but certmond runs as user {os.geteuid()}; {_REMEDY}"


def unfit_unit(config: Config, user: str | None) -> str | None:
    """Return why the unit of certmond cannot execute the steps of enforce mode, and the remedy, or None.

    `user` is the user of the unit, or None if systemd does not know the unit.
    """
    if config.mode != "enforce" or user in {None, "", "root", "0"}:
        return None
    return f"`mode: enforce` needs root, but {UNIT} runs as user {user}; {_REMEDY}"
