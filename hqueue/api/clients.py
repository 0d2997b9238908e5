"""The clients, as scripts see and change them."""
# ruff: noqa: A002, N802 - methods and arguments have the names that they have on the wire

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from hqueue import __version__, wire
from hqueue.config import client_label
from hqueue.context import Chapter
from hqueue.database import listed
from hqueue.errors import InvalidArgumentError, UnknownClientError, UnsupportedError
from hqueue.lifecycle.clients import forget, give_up_runs
from hqueue.matching import RuleError, read_rules, rules_as_dicts
from hqueue.rpc import arguments
from hqueue.rpc.method import exposed
from hqueue.schema import client, client_group_member, job, note_thread, run
from hqueue.store import WakeScheduler
from hqueue.views.clientattributes import (
    CLIENT_ATTRIBUTES,
    DEFAULT_CLIENT_ATTRIBUTES,
    ClientNames,
    fetch_clients,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

    from hqueue.store import Session

_LONGEST_HISTORY = 100_000


_THESE: Final = listed("clients")


class Clients(Chapter):
    """The methods about clients."""

    @exposed()
    def getClients(self, ids: Any = None, attribs: Any = None) -> list[dict[str, Any]]:
        """Return attributes of clients: of all, by id, or of those asked for, in the order asked.

        Shapes: attribs is a list of names; without it, all attributes. Unknown ids are skipped.
        Errors: UnknownAttributeError, which lists the attributes there are.
        Source: 12. Ours are also description, label, name, port, freeMemory, freeDisk, diskCapacity (KB),
        installLocation, gpus, state and stateReason.
        """
        return self._fetch(arguments.optional_ids(ids, "ids"), _names(attribs))

    @exposed()
    def getClient(self, id: Any, attribs: Any = None) -> dict[str, Any] | None:
        """Return attributes of one client, None for an unknown id.

        Errors: UnknownAttributeError.
        Source: 12.
        """
        return _first(self._fetch([arguments.one_id(id, "id")], _names(attribs)))

    @exposed()
    def getClientsByHostname(self, hostnames: Any = None, attribs: Any = None) -> list[dict[str, Any]]:
        """Return attributes of the clients that names mean, of all without names.

        Shapes: a name is `hostname` (every client there), `hostname:name`, or `hostname:` for the unnamed one.
        Unknown names are skipped.
        Errors: UnknownAttributeError.
        Source: 12.
        """
        return self._named(hostnames, attribs, "hostnames")

    @exposed()
    def getClientByHostname(self, hostname: Any, attribs: Any = None) -> dict[str, Any] | None:
        """Return attributes of the client that a name means, None for an unknown one.

        Shapes: `hostname` is the unnamed client there, else the one with the lowest id; or `hostname:name`.
        Errors: UnknownAttributeError.
        Source: 12.
        """
        return self._one_named(hostname, attribs, "hostname")

    @exposed()
    def getClientsByName(self, names: Any = None, attribs: Any = None) -> list[dict[str, Any]]:
        """Return attributes of the clients that names mean, as getClientsByHostname does.

        Errors: UnknownAttributeError.
        Source: 17.
        """
        return self._named(names, attribs, "names")

    @exposed()
    def getClientByName(self, name: Any, attribs: Any = None) -> dict[str, Any] | None:
        """Return attributes of the client that a name means, as getClientByHostname does.

        Errors: UnknownAttributeError.
        Source: 17.
        """
        return self._one_named(name, attribs, "name")

    @exposed()
    def getJobHistory(self, client_id: Any, limit: Any = 5) -> list[int]:
        """Return the ids of the jobs whose run on a client ended, last ended first, each once.

        Shapes: at most `limit`; 0 or less: none. Deleted jobs are left out.
        Source: 12.
        """
        wanted = min(arguments.integer(limit, "limit"), _LONGEST_HISTORY)
        key = arguments.one_id(client_id, "client_id")
        found: dict[int, None] = {}
        query = (
            sa.select(run.c.job_id)
            .join(job, job.c.id == run.c.job_id)
            .where(run.c.client_id == key, run.c.closed_at.is_not(None), run.c.hook == "")
            .order_by(run.c.closed_at.desc(), run.c.id.desc())
        )
        with self._store.reading() as connection:
            # A job may have run there many times: go on until enough different ones have come together.
            seen, page = 0, 2 * wanted
            while len(found) < wanted:
                rows = list(connection.execute(query.limit(page).offset(seen)).scalars())
                found.update(dict.fromkeys(rows))
                if len(rows) < page:
                    break
                seen += page
        return list(found)[: max(0, wanted)]

    @exposed()
    def getJobIdsAssignedToClient(self, client_id: Any) -> list[int]:
        """Return the ids of the jobs that have an open run on a client, in ascending order.

        Source: 17.
        """
        found = self._fetch([arguments.one_id(client_id, "client_id")], ["runningJobs"])
        return found[0]["runningJobs"] if found else []

    @exposed()
    def setdisabled(self, clientname: Any, disabled: Any) -> Future[bool | None]:
        """Disable or enable clients: a disabled one takes no new jobs, and goes on with those that it has.

        Shapes: clientname is `hostname` (every client there), `hostname:name`, or `hostname:` for the unnamed one.
        Returns: True; None for an unknown client.
        Source: 12.
        """
        wanted, value = arguments.text(clientname, "clientname"), arguments.flag(disabled, "disabled")

        def write(session: Session) -> bool | None:
            found = ClientNames(session.connection).all_of(wanted)
            if not found:
                return None
            these = sa.update(client).where(client.c.id.in_(listed("clients")))
            session.connection.execute(these.values(disabled=value), {"clients": found})
            session.after_commit(WakeScheduler())
            return True

        return self._store.write_soon(write)

    @exposed()
    def upgradeClients(self, ids: Any) -> bool:
        """Bring clients to the server's version; return True when all of them have it.

        Unknown ids are skipped.
        Errors: UnsupportedError for a client of another version: this server cannot install it there yet.
        Source: 17.
        """
        wanted = arguments.ids(ids, "ids")
        for each in self._fetch(wanted, ["id", "label", "needsUpgrade", "version"]):
            if each["needsUpgrade"]:
                raise UnsupportedError(
                    f"ids: client {each['id']} ({each['label']}) has version {each['version']}, and this server cannot "
                    f"upgrade clients yet: install {__version__} there and restart hqclient; what it runs goes on",
                )
        return True

    @exposed()
    def setClientDescription(self, client_id: Any, text: Any) -> Future[bool]:
        """Set what people say of a client.

        Returns: True.
        Errors: UnknownClientError.
        Source: ours.
        """
        return self._set(client_id, {"description": wire.scrub(arguments.text(text, "text"))})

    @exposed()
    def setAvailabilityRules(self, client_id: Any, rules: Any) -> Future[bool]:
        """Say when a client is to be used: it takes jobs while one of its rules matches, and always without rules.

        Running jobs go on when a rule ceases to match.
        Shapes: a list of {type: "anytime"}, {type: "time", days, start: "HH:MM", end: "HH:MM"} and {type: "idle",
        minutes}, each with enabled (True when left out); disabled ones do not count. days: 0 = Monday, all when left
        out. Times are those of the clock on the server's wall; a window past midnight belongs to the day it starts on.
        Returns: True.
        Errors: UnknownClientError; InvalidArgumentError that names the rule.
        Source: ours.
        """
        try:
            found = read_rules(rules, "rules")
        except RuleError as error:
            raise InvalidArgumentError(str(error)) from None
        return self._set(client_id, {"rules_json": json.dumps(rules_as_dicts(found), separators=(",", ":"))})

    @exposed()
    def removeClients(self, ids: Any) -> Future[bool]:
        """Remove clients that no longer report, with their notes and their places in groups.

        What they still held is lost, and its jobs go back to the queue as if it had been rescued. One that registers
        again is new but for its id. Unknown ids are skipped.
        Returns: True.
        Errors: InvalidArgumentError for a client that still reports; then none is removed.
        Source: ours.
        """
        wanted = arguments.ids(ids, "ids")
        future = self._store.write_soon(lambda session: self._remove(session, wanted))
        future.add_done_callback(lambda done: self._leave(wanted) if done.exception() is None else None)
        return future

    def _set(self, client_id: Any, values: dict[str, str]) -> Future[bool]:
        key = arguments.one_id(client_id, "client_id")
        query = sa.update(client).where(client.c.id == key, ~client.c.forgotten).values(values)

        def write(session: Session) -> bool:
            if not session.connection.execute(query).rowcount:
                shown = arguments.shown(client_id)
                raise UnknownClientError(f"client_id is {shown}, but there is no client with this id")
            session.after_commit(WakeScheduler())
            return True

        return self._store.write_soon(write)

    def _remove(self, session: Session, client_ids: Sequence[int]) -> bool:
        connection = session.connection
        query = sa.select(client.c.id, client.c.hostname, client.c.name, client.c.lost)
        query = query.where(client.c.id.in_(_THESE), ~client.c.forgotten)
        rows = connection.execute(query, {"clients": client_ids}).all()
        for row in rows:
            if not row.lost:
                label = client_label(row.hostname, row.name)
                raise InvalidArgumentError(
                    f"ids: client {row.id} ({label}) still reports; stop it, and remove it once it is lost",
                )
        for row in rows:
            label = client_label(row.hostname, row.name)
            give_up_runs(session, row.id, f"client {label} was removed")
            forget(session, row.id)
        values = {"description": "", "rules_json": json.dumps([]), "disabled": False}
        for statement in (
            sa.delete(client_group_member).where(client_group_member.c.client_id.in_(_THESE)),
            sa.delete(note_thread).where(note_thread.c.client_id.in_(_THESE)),
            sa.update(client).where(client.c.id.in_(_THESE)).values(values),
        ):
            connection.execute(statement, {"clients": [row.id for row in rows]})
        return True

    def _leave(self, client_ids: Sequence[int]) -> None:
        for client_id in client_ids:
            self._live_farm.leave(client_id)

    def _fetch(self, client_ids: Sequence[int] | None, names: Sequence[str]) -> list[dict[str, Any]]:
        with self._store.reading() as connection:
            return fetch_clients(connection, self._farm, client_ids, names)

    def _named(self, wanted: Any, attribs: Any, argument: str) -> list[dict[str, Any]]:
        names = _names(attribs)
        if wanted is None:
            return self._fetch(None, names)
        listed = wanted if isinstance(wanted, (list, tuple)) else [wanted]
        hostnames = [arguments.text(each, f"{argument}[{place}]") for place, each in enumerate(listed)]
        with self._store.reading() as connection:
            known = ClientNames(connection)
            found = dict.fromkeys(client_id for each in hostnames for client_id in known.all_of(each))
            return fetch_clients(connection, self._farm, list(found), names)

    def _one_named(self, wanted: Any, attribs: Any, argument: str) -> dict[str, Any] | None:
        names, hostname = _names(attribs), arguments.text(wanted, argument)
        with self._store.reading() as connection:
            client_id = ClientNames(connection).one_of(hostname)
            if client_id is None:
                return None
            return _first(fetch_clients(connection, self._farm, [client_id], names))


def _first(found: list[dict[str, Any]]) -> dict[str, Any] | None:
    return found[0] if found else None


def _names(attribs: Any) -> list[str]:
    return arguments.attributes(attribs, DEFAULT_CLIENT_ATTRIBUTES, CLIENT_ATTRIBUTES)
