"""Every error a caller can see, each with the fault code it has on the wire.

An error's docstring is its default message. Codes are published (README, "Faults") and never change their meaning.
Codes below 0 are those of the XML-RPC fault interoperability list.
"""

from __future__ import annotations

import inspect


class HQueueError(Exception):
    """Something went wrong inside the server; the log has the details."""

    code = -32500

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
    """The server met an error of its own; the call changed nothing, and the server's log has the details."""

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


class UnsupportedError(HQueueError):
    """This server cannot do that yet."""

    code = 51


class OutcomeUnknownError(HQueueError):
    """The server ends because of an error of its own; look whether the call was carried out before you repeat it."""

    code = 52


class ServerBusyError(HQueueError):
    """The server has no room for this at the moment; nothing was changed, try again shortly."""

    code = 53


class ConfigError(HQueueError):
    """The configuration cannot be used."""

    code = 60
