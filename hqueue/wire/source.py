"""The bytes of a document, made into UTF-8 that an XML reader takes.

Documents hold characters that XML 1.0 cannot carry: Python's own clients send them, raw or as references. They are
read as they were meant, so that a job specification can be refused with the path of the culprit and a note mended.
"""

from __future__ import annotations

import codecs
import re
from typing import Final

from hqueue.errors import MalformedRequestError
from hqueue.wire.writing import DROPPED, REPLACED

_DECLARATION: Final = re.compile(rb"""\s*<\?xml[^>]*?encoding\s*=\s*["']([A-Za-z0-9._:-]{1,40})["']""")
_DECLARATION_BYTES: Final = 256
# An allow-list, for Python knows "encodings" that unpack archives or take quadratic time.
_KNOWN_ENCODING: Final = re.compile(
    r"utf-?8|utf-?16(-?[lb]e)?|(us-)?ascii|iso-?8859-?\d+|latin-?1|windows-125\d|cp(125\d|437|850|932|949)"
    r"|shift[_-]?jis|euc[_-](jp|kr)|gbk|gb2312|gb18030|big5|koi8-[ru]|macroman",
    re.IGNORECASE,
)
# What XML cannot carry travels through the XML reader as U+1FFFE, its code and a semicolon. U+1FFFE itself, which no
# text has a use for, takes the same way.
_STAND_IN: Final = re.compile("\U0001fffe([0-9]+);")
_FOREIGN: Final = re.compile(f"[{DROPPED}{REPLACED}\U0001fffe]")
_REFERENCE: Final = re.compile(r"&#(?:[xX]([0-9a-fA-F]{1,8})|([0-9]{1,10}));")
_OPEN_REFERENCE: Final = re.compile(r"&[^;]{0,12}\Z")


def restore(text: str) -> str:
    """Put the characters back that XML cannot carry."""
    return _STAND_IN.sub(_restored, text)


def _restored(found: re.Match[str]) -> str:
    return chr(int(found[1]))


class Source:
    """Turns the bytes of a document, in the encoding it declares, into UTF-8 that holds only legal characters."""

    __slots__ = ("decoder", "head", "replaced", "rest")

    def __init__(self) -> None:
        self.decoder: codecs.IncrementalDecoder | None = None
        self.head = b""
        self.rest = ""
        self.replaced = False

    def read(self, chunk: bytes | bytearray, *, final: bool) -> bytes:
        """Return what can be read of the document after this piece; the rest waits for the next."""
        if self.decoder is None:
            chunk = self.head + chunk
            if len(chunk) < _DECLARATION_BYTES and not final:
                self.head = chunk
                return b""
            self.decoder = _decoder_for(chunk)
            self.head = b""
        text = self.rest + self.decoder.decode(chunk, final)
        self.rest = ""
        if not final and "&" in text and (cut := _OPEN_REFERENCE.search(text)):
            text, self.rest = text[: cut.start()], text[cut.start() :]
        if _FOREIGN.search(text):
            text = _FOREIGN.sub(self._stand_in, text)
        if "&#" in text:
            text = _REFERENCE.sub(self._reference, text)
        return text.encode()

    def _stand_in(self, found: re.Match[str]) -> str:
        self.replaced = True
        return f"\U0001fffe{ord(found[0])};"

    def _reference(self, found: re.Match[str]) -> str:
        code = int(found[1], 16) if found[1] else int(found[2])
        if code > 0x10FFFF:
            return found[0]  # the XML reader has a sentence for it
        if _FOREIGN.match(chr(code)):
            self.replaced = True
            return f"\U0001fffe{code};"
        return found[0]


def _decoder_for(start: bytes | bytearray) -> codecs.IncrementalDecoder:
    """Return a decoder for a document that starts so; what does not fit the encoding becomes U+FFFD."""
    name = "utf-8-sig" if start.startswith(codecs.BOM_UTF8) else "utf-8"
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        name = "utf-16"
    elif found := _DECLARATION.match(start):
        declared = found[1].decode()
        if not _KNOWN_ENCODING.fullmatch(declared):
            raise MalformedRequestError(f"the document is encoded as {declared!r}; send UTF-8")
        if not declared.lower().startswith("utf"):
            name = declared
    try:
        return codecs.getincrementaldecoder(name)("replace")
    except LookupError:
        raise MalformedRequestError(f"the document is encoded as {name!r}; send UTF-8") from None
