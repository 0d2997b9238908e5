"""The server's half of the clients' protocol: it reads messages, parks and answers.

calls       what clients call
heartbeats  a heartbeat that brings news, on its way
openruns    what output and reports need to know of runs
"""

from hqueue.farm.calls import FarmMethods

__all__ = ["FarmMethods"]
