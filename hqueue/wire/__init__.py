"""Python values and what XML-RPC can carry, both ways.

text     scrubbing and escaping
writing  values to documents
source   the bytes of a document to text an XML reader takes
reading  documents to values, any well-formed one
quick    documents to values, the usual shape, four times as fast
scalars  the text of one value to the value
"""

from hqueue.wire.reading import loads_request, loads_response
from hqueue.wire.text import PIECE_BYTES, escape, find_unencodable, scrub
from hqueue.wire.writing import Raw, dumps_fault, dumps_request, dumps_response, dumps_value, response_pieces

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
