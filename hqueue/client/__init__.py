"""The daemon on a farm machine: takes assignments, runs commands, reports what became of them.

A map of it, from the bottom up. The runner is a process of its own and imports the first four alone.

platforms     what differs between Linux, macOS and Windows
journal       facts about runs that survive crashes
channel       messages between daemon and runner
runner        the process that starts commands, waits for them, and outlives the daemon
output        a command's output, handed over by offset, and the progress in it
processes     all processes of a run: found, signalled, proved dead
environment   what a command finds in its environment
workspace     what a run has on the disk
run           the facts about one run
reports       what the server is told of the runs
runs          what the daemon does with its runs
conversation  what is said to the server, and when
link          the connection to the server
runnerlink    the connection to the runner
listener      the client's own methods: wakeup, terminate, ping
statefolder   who this client is
machine       what the machine is, and how busy
daemon        puts the client together and runs its loop
"""
