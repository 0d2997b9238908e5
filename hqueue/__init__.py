"""An open, drop-in server and client for HQueue render farms.

A map of the package, from the bottom up; a module imports only what stands above it in this list:

errors        every error a caller can see, with its fault code
clock         the only module that reads time or waits
deadline      reads from a peer that may send a byte at a time
failures      the kind of an operating system's or a database's failure, told by number
folders       a folder's names survive a power cut
config        hqserver.ini and hqnode.ini as frozen dataclasses
errorlog      the server's own errors, kept until they are stored
wire          Python values and what XML-RPC can carry
service       a thread that ticks, wakes and stops
durability    what was committed reaches the disk
deadline      a whole call over the network has an end
protocol      what server and client say to each other: one struct per message
rpc           carries calls: connections, HTTP, the closed method table
states        job statuses, events and the table of transitions
matching      which job goes on which client, and why not
jobspec       the argument of newjob as a checked graph of specifications
live          what changes at every heartbeat, in memory
schema        the tables
remote        databases over the network: nothing waits for ever
database      what differs between SQLite, PostgreSQL and MySQL
groupcommit   small writes that share a transaction
session       one open write transaction
store         transactions
joblogs       the output of jobs, on disk
lifecycle     the only writer of a job's status
views         what callers are shown
context       what the parts of one server share
waiting       how long abandoned jobs and first jobs of the queue have waited
api           what callers may call, a module per chapter
farm          the server's half of the clients' protocol
scheduler     assigns runnable jobs to clients
maintenance   what is done every few seconds
wakeups       tells idle clients that there is something to fetch
local_client  the client that hqserver --with-client runs
client        the daemon on a farm machine
server        puts the server together, starts and stops it
cli           hqserver, hqclient and hq
"""

__version__ = "0.1.0"
