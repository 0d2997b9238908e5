"""Every error a caller can see, each with the fault code it has on the wire.

An error's docstring is its default message. Codes are published (README, "Faults") and never change their meaning.
Codes below 0 are those of the XML-RPC fault interoperability list.
"""

from __future__ import annotations

import enum
import inspect
from typing import ClassVar, Final


class Kind(enum.Enum):
    """What kind of failure something is; told apart by number where it happens, and each is handled in one way."""

    AWAY = "away"  # unreachable, restarting, busy: nothing was changed, and it passes
    FULL = "full"  # no room on a disk or in memory, no descriptors: nothing was changed, and it passes
    UNKNOWN = "unknown"  # it may be stored, or not: the answer to a COMMIT was lost
    BAD_ITEM = "one bad item"  # refused for what it is: the same again is refused again
    BROKEN_PROMISE = "broken promise"  # what was promised cannot be kept: the process ends, and repair heals


class HQueueError(Exception):
    """Something went wrong inside the server; the log has the details."""

    code = -32500
    kind: ClassVar[Kind] = Kind.BAD_ITEM

    def __init__(self, message: str = "") -> None:
        self.message = message or inspect.cleandoc(type(self).__doc__ or "")
        super().__init__(self.message)


class MalformedRequestError(HQueueError):
    """The request is not a well-formed XML-RPC call."""

    code = -32700


class UnknownMethodError(HQueueError):
    """This server has no such method; system.listMethods() tells which it has."""

    code = -32601


class WrongArgumentsError(HQueueError):
    """The method was called with the wrong number of arguments."""

    code = -32602


class InternalError(HQueueError):
    """The server met an error of its own, which its log has; look what the call did before you repeat it."""

    code = -32603


class LimitExceededError(HQueueError):
    """The request is larger or deeper than this server accepts."""

    code = 10


class InvalidArgumentError(HQueueError):
    """An argument has a value that this method cannot take."""

    code = 11


class UnknownAttributeError(InvalidArgumentError):
    """An attribute was asked for that does not exist."""

    code = 12


class InvalidSpecError(HQueueError):
    """The job specification cannot be accepted; nothing was stored."""

    code = 20


class UnknownJobError(HQueueError):
    """There is no job with this id."""

    code = 30


class CyclicGraphError(HQueueError):
    """The jobs would be their own ancestors; nothing was stored."""

    code = 31


class JobStateError(HQueueError):
    """The job's status does not allow this."""

    code = 32


class UnknownClientError(HQueueError):
    """There is no client with this id."""

    code = 40


class ClientRefusedError(HQueueError):
    """Another machine is registered under this name; give this one a name of its own."""

    code = 41


class UnknownGroupError(HQueueError):
    """There is no client group with this id."""

    code = 42


class DuplicateNameError(HQueueError):
    """Something of this kind has this name already."""

    code = 43


class UnknownResourceError(HQueueError):
    """There is no resource with this id."""

    code = 44


class StoreUnavailableError(HQueueError):
    """The server's database cannot be used at the moment; nothing was changed, try again shortly."""

    code = 50
    kind = Kind.AWAY


class UnsupportedError(HQueueError):
    """This server cannot do that yet."""

    code = 51


class OutcomeUnknownError(HQueueError):
    """It is not known whether this was stored; look for it before you repeat it, but for what has a submissionId."""

    code = 52
    kind = Kind.UNKNOWN


class ServerBusyError(HQueueError):
    """The server has no room for this at the moment; nothing was changed, try again shortly."""

    code = 53
    kind = Kind.FULL


class StoreFullError(HQueueError):
    """The server's disk has no room for this; nothing was changed, and it can be repeated when there is room."""

    code = 54
    kind = Kind.FULL


class ConfigError(HQueueError):
    """The configuration cannot be used."""

    code = 60


class BrokenPromiseError(Exception):
    """What was promised cannot be kept; for whoever ends the process, callers get OutcomeUnknownError."""

    kind: ClassVar[Kind] = Kind.BROKEN_PROMISE


# What passes by itself. Services that catch these look at the store anew and go on.
PASSING: Final = (StoreUnavailableError, StoreFullError, OutcomeUnknownError)
