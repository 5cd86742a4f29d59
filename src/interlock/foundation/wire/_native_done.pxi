"""What both compiled forms of the wire return where there is nothing to wait for."""

cdef class Done:
    """What a call returns that is over when it returns: awaiting it takes no turn of the loop."""

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        raise StopIteration


cdef Done DONE = Done()
