"""Which job goes on which client, and why not. Pure: everything needed comes in as arguments.

facts        what clients are, and how their names compare
conditions   what a job may ask of its clients; a new kind is one entry of `KINDS`
requirement  everything that decides where a job may go, once per distinct value
rules        when a client is to be used
clients      a client as a plan sees it: what it holds
resources    resources that are counted
why          the checks, in order: the first that fails is the reason why a job does not go on a client
capacity     which clients have room for a requirement, the best ones first
planning     the queue's order, onto clients; clients held for those that need more than is free
explanation  reasons counted over the clients, and a sentence
"""

from hqueue.matching.clients import ClientView, Standing
from hqueue.matching.conditions import KINDS, OPS, Condition, conditions_as_dicts, conditions_from
from hqueue.matching.explanation import Explanation, explain
from hqueue.matching.facts import ClientFacts, FarmNames, os_of, same_host
from hqueue.matching.planning import Candidate, HeldFor, Hold, Placement, Plan, needs_more_than_a_gap, plan
from hqueue.matching.requirement import SINGLE, Requirement, singles_of
from hqueue.matching.resources import Units
from hqueue.matching.rules import Rule, RuleError, open_now, read_rules, rules_as_dicts
from hqueue.matching.why import FitTable, Obstacle, obstacle, would_do

__all__ = [
    "KINDS",
    "OPS",
    "SINGLE",
    "Candidate",
    "ClientFacts",
    "ClientView",
    "Condition",
    "Explanation",
    "FarmNames",
    "FitTable",
    "HeldFor",
    "Hold",
    "Obstacle",
    "Placement",
    "Plan",
    "Requirement",
    "Rule",
    "RuleError",
    "Standing",
    "Units",
    "conditions_as_dicts",
    "conditions_from",
    "explain",
    "needs_more_than_a_gap",
    "obstacle",
    "open_now",
    "os_of",
    "plan",
    "read_rules",
    "rules_as_dicts",
    "same_host",
    "singles_of",
    "would_do",
]
