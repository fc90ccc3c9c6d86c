"""The HTTP service and its page: `hashnet serve INDEX`.

server         the process: sockets, slow clients, stopping
limits         what every request must keep to, and what every answer carries
app            the application, made of all below
settings       how a service behaves, and what its requests may hold at most
state          what all routes of one service share
search_routes  the routes of searches and of matches
image_routes   the routes of lists, pictures and changes
parameters     what requests are asked with
questions      what they ask of the engine
answers        JSON, and refusals with their status
counters       what Prometheus reads
served_index   the newest version of the index, and its engine
public_ids     ids as the outside sees them
work_queue     a bounded queue before a few threads
thumbnails     pictures of the index, encoded again, remembered for a while
"""
