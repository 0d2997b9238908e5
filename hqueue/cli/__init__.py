"""The three programs: they parse, call and print, and decide nothing.

program     what the three have in common: complaints, exit codes, log lines
hqserver    runs the server
hqclient    runs a client
hq          the farm for people: its parser, and what each command calls
connection  which server hq talks to, and every way in which that can fail
submission  from the options of "hq submit" to a job specification
jobs        the commands about jobs
following   waiting for a job, and following its output
clients     the commands about clients
screen      lines, tables and JSON on the terminal or in a pipe
shown       the attributes of jobs and clients in the words people read
"""
