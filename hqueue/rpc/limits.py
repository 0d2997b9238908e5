"""What the transport lets a caller use up."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds that keep one caller from harming the others; each has a clear error."""

    max_request_bytes: int = 64 * 1024 * 1024
    """Body of a request, as sent and as unpacked."""
    max_head_bytes: int = 32 * 1024
    max_depth: int = 2016
    """Arrays and structs within each other: two for each of 1,000 levels of job specification, and some to spare."""
    max_connections: int = 10_000
    request_timeout_s: float = 60.0
    """From the first byte of a request to its last, and from a connection's start to its first byte."""
    idle_timeout_s: float = 300.0
    """Between requests."""
    write_timeout_s: float = 60.0
    """For each 64 KiB of an answer to be read."""
    shutdown_s: float = 10.0
    """For requests in hand to be answered when the server stops."""
    loop_body_bytes: int = 64 * 1024
    """Larger bodies are read by a worker."""
    gzip_min_bytes: int = 64 * 1024
    """Smaller answers are not worth packing."""
    max_unsent_bytes: int = 1024 * 1024 * 1024
    """Of all answers together that wait for their callers to read them; a large one beyond it becomes a fault."""
    workers: int = 8
    farm_workers: int = 4
    big_workers: int = 2
