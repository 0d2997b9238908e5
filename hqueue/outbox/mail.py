"""A letter as mail, by SMTP: with TLS and a login where the settings say so."""

from __future__ import annotations

import contextlib
import smtplib
import socket
import ssl
from email.message import EmailMessage
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any, Final

from hqueue.clock import from_ms
from hqueue.outbox.delivery import LineDownError, NotTakenError

if TYPE_CHECKING:
    from collections.abc import Callable

    from hqueue.config import ServerConfig

_CONNECT_S: Final = 10.0
ANSWER_S: Final = 60.0  # a mail server may look at a mail for a while before it says that it has taken it


class Mailer:
    """A connection to the mail server, opened for the first letter of a round and kept for the others."""

    def __init__(self, config: ServerConfig, answer_s: float = ANSWER_S) -> None:
        self._config = config
        self._answer_s = answer_s
        self._smtp: smtplib.SMTP | None = None
        self.sender = config.error_email_from or f"hqserver@{socket.getfqdn()}"
        self._domain = self.sender.rpartition("@")[2].strip(" >")

    def send(self, letter: Any, opened: Callable[[socket.socket], None]) -> None:
        """Hand a letter to the mail server; `opened` is told of the socket.

        Errors: NotTakenError when the server does not take this letter; LineDownError when there is no talking to it.
        """
        message = self._message(letter)
        try:
            smtp = self._smtp = self._smtp or self._open(opened)
            smtp.send_message(message)
        except (smtplib.SMTPRecipientsRefused, smtplib.SMTPSenderRefused, smtplib.SMTPDataError) as error:
            raise NotTakenError(_words(error)) from error
        except (OSError, smtplib.SMTPException) as error:
            self.close()
            raise LineDownError(_words(error)) from error

    def close(self) -> None:
        """End the connection; what it was for is done, or will be done again."""
        smtp, self._smtp = self._smtp, None
        if smtp is not None:
            with contextlib.suppress(OSError, smtplib.SMTPException):
                smtp.quit()
            smtp.close()

    def _open(self, opened: Callable[[socket.socket], None]) -> smtplib.SMTP:
        config = self._config
        context = None if config.smtp_tls == "off" else ssl.create_default_context()
        at_once = context if config.smtp_tls == "tls" else None
        smtp = _Connection(config.smtp_server, config.smtp_port, opened, at_once, self._answer_s)
        try:
            if config.smtp_tls == "starttls":
                smtp.starttls(context=context)
            if config.smtp_user:
                smtp.login(config.smtp_user, config.smtp_password)
        except BaseException:
            smtp.close()
            raise
        return smtp

    def _message(self, letter: Any) -> EmailMessage:
        message = EmailMessage()
        message["Message-ID"] = f"<{letter.key}@{self._domain}>"
        message["Date"] = format_datetime(from_ms(letter.at))
        message["From"] = self.sender
        message["To"] = letter.address
        message["Subject"] = " ".join(letter.subject.split())
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(letter.body)
        return message


class _Connection(smtplib.SMTP):
    """One whose socket is known from the moment there is one, so that an end of the server need not wait for it."""

    def __init__(
        self,
        host: str,
        port: int,
        opened: Callable[[socket.socket], None],
        context: ssl.SSLContext | None,
        answer_s: float,
    ) -> None:
        self._opened = opened
        self._context = context
        super().__init__(host, port, timeout=answer_s)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        made = socket.create_connection((host, port), min(_CONNECT_S, timeout))
        made.settimeout(timeout)
        self._opened(made)
        if self._context is not None:
            try:
                made = self._context.wrap_socket(made, server_hostname=host)
            except BaseException:
                made.close()
                raise
            self._opened(made)
        return made


def _words(error: Exception) -> str:
    """Return what a mail server said, or what became of the connection."""
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        code, said = next(iter(error.recipients.values()))
        return f"{code} {said.decode('utf-8', 'replace')}"
    if isinstance(error, smtplib.SMTPResponseException):
        text = error.smtp_error
        return f"{error.smtp_code} {text.decode('utf-8', 'replace') if isinstance(text, bytes) else text}"
    return str(error) or type(error).__name__
