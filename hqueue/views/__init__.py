"""What callers are shown: read from the store, written nowhere.

farmview          the farm as a plan sees it
attribute         what an attribute is: what makes its value, and what the value depends on
jobattributes     attributes of jobs
jobxml            the same for many jobs, column by column
rollups           what is told of everything below a job
clientattributes  attributes of clients, and which clients a name means
explaining        why jobs wait
"""
