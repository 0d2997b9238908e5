"""What callers may call: the chapters of the API, a module each. The wire's names (camelCase) live here.

queue        the server itself, submission, versions, folders
jobs         what jobs are: attributes, lists of ids, output
jobchanges   what changes jobs
listing      pages of jobs, and the change feed
clients groups resources notes troubles   chapters of their own
explaining   why a job waits
deprecated   the oldest calls
statusnames  names of statuses that callers give
pages        what a GET is answered with
"""
