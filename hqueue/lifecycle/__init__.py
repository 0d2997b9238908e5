"""The only writer of a job's status.

rows          jobs as the lifecycle sees them, how they are read, and what their changes are called
status        apply(): an event to rows, as `states` decides, upwards until nothing is left to change
runrows       runs as the lifecycle sees them, how they are read, asked for something and given up
links         the existing jobs that a submission names, and what must not be done with them
properties    where the properties of a specification are stored
submission    submit(): a graph of specifications becomes jobs
incoming      large submissions, stored in steps and there for everybody at once
repeats       submissions that are repeated because their answer was lost
runs          what is assigned to clients, and how it ends
clients       what a client says, and what there is to tell it
bulk          actions on jobs and their relatives, in small steps that survive a crash
turns         whose turn it is among unfinished actions
spreading     changes that go down a tree the same way: a priority, shared conditions
trees         sums over everything below a job
deletion      jobs that go for good, and what they leave behind
requirements  what jobs ask of clients, stored once per distinct value
refusals      whose fault it is that a client cannot run what it is given
blocklist     clients that failed jobs: tried last, or blocked for a root
reservations  the other clients of a job on several hosts
notes         what people and the server write to threads
troubles      errors of the server and of clients, counted
repair        what a start checks and mends

All take the open `Session` first and never commit. The package itself exports nothing: name the module.
"""
