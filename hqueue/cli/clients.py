"""The commands about clients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from hqueue.cli import shown
from hqueue.cli.screen import Cell, Column

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from hqueue.cli.connection import Farm
    from hqueue.cli.screen import Screen

COLOURS: Final[Mapping[str, str]] = {"lost": "red", "condemned": "red", "disabled": "yellow", "terminating": "yellow"}
LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})


def clients(_options: argparse.Namespace, farm: Farm, screen: Screen) -> int:
    """List the clients of the farm."""
    found: list[dict[str, Any]] = farm.call("getClients")
    if screen.json_wanted:
        screen.json(found)
        return 0
    if found:
        names = {group["id"]: group["name"] for group in farm.call("getClientGroups")}
        columns = (
            Column("ID", right=True),
            Column("CLIENT", flexible=True),
            Column("STATE"),
            Column("JOBS", right=True),
            Column("CPUS", right=True),
            Column("LOAD", right=True),
            Column("MEMORY", right=True),
            Column("PLATFORM"),
            Column("GROUPS", flexible=True),
        )
        screen.table(columns, [_row(each, names) for each in found])
        for each in found:
            if each.get("stateReason") and not each.get("available"):
                screen.line(f"{shown.label(each)}: {shown.one_line(each['stateReason'])}")
    else:
        screen.aside(f'no clients; on each machine of the farm run "hqclient --server {farm.url}"')
    if farm.call("getConfig", "host") in LOOPBACK:
        screen.aside("only this machine can connect; set host = 0.0.0.0 in hqserver.ini to open the farm to others")
    return 0


def _row(client: Mapping[str, Any], groups: Mapping[int, str]) -> tuple[Cell, ...]:
    state = str(client.get("state") or "")
    load = client.get("load")
    return (
        Cell(str(client["id"])),
        Cell(shown.label(client)),
        Cell(state, COLOURS.get(state, "")),
        Cell(str(len(client.get("runningJobs") or ()))),
        Cell(str(client.get("cpus", ""))),
        Cell(f"{load:.1f}" if isinstance(load, int | float) else ""),
        Cell(shown.kilobytes(client.get("memory"))),
        Cell(str(client.get("platform") or "")),
        Cell(", ".join(shown.one_line(groups.get(each, each)) for each in client.get("groups") or ())),
    )
