"""Python values and what XML-RPC can carry, both ways.

writing  values to documents; scrubbing and escaping
source   the bytes of a document to text an XML reader takes
reading  documents to values, any well-formed one
quick    documents to values, the usual shape, four times as fast
scalars  the text of one value to the value
guard    which requests of browsers are refused
"""

from hqueue.wire.reading import loads_request, loads_response
from hqueue.wire.writing import (
    PIECE_BYTES,
    Raw,
    dumps_fault,
    dumps_request,
    dumps_response,
    dumps_value,
    escape,
    find_unencodable,
    response_pieces,
    scrub,
)

__all__ = [
    "PIECE_BYTES",
    "Raw",
    "dumps_fault",
    "dumps_request",
    "dumps_response",
    "dumps_value",
    "escape",
    "find_unencodable",
    "loads_request",
    "loads_response",
    "response_pieces",
    "scrub",
]
