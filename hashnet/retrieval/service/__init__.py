"""The HTTP service and its page: `hashnet serve INDEX`.

server     the process: sockets, slow clients, stopping
limits     what every request must keep to, and what every answer carries
app        the routes
live       the engine of the newest version of the index
names      ids as the outside sees them
desk       a bounded queue before a few threads
pictures   pictures of the index, encoded again, remembered for a while
"""
