"""The argument of `newjob` as a checked graph of specifications.

Pure: a dict, a JSON text or a list of either goes in, frozen JobSpecs come out, and every complaint names the place
(`children[2].cpus`), what was found there and what was expected.

jsontext    JSON of any size and depth, read without recursion and without holding other threads up
values      what the value of a property may be, and what it becomes
conditions  the same for conditions, `host` and `hostgroup`
nesting     which specification stands inside which
graph       the table of properties; stubs and cycles
"""

from hqueue.jobspec.graph import COMMANDS_HOOKS, JobSpec, SpecGraph, children_first, never_run, parse
from hqueue.jobspec.nesting import Places

__all__ = ["COMMANDS_HOOKS", "JobSpec", "Places", "SpecGraph", "children_first", "never_run", "parse"]
