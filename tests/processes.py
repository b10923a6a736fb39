"""Other processes of a test: forks, which start in milliseconds since they import nothing anew."""

from __future__ import annotations

import multiprocessing


class Other:
    """A process that calls ``work(pipe, *given)``; ``pipe`` is the other end of this object's.

    Parameters
    ----------
    work : callable
        Sends to the test by ``pipe.send``, and waits for it by ``pipe.recv``.
    how : str
        "spawn" for a fresh interpreter, which finds ``work`` by its name in its module.
    """

    def __init__(self, work, *given, how="fork"):
        context = multiprocessing.get_context(how)
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, *given), daemon=True)
        self.process.start()
        theirs.close()

    def hear(self):
        """The next object that it sends."""
        assert self.pipe.poll(60), "it says nothing"
        return self.pipe.recv()

    def go(self):
        """Let it continue."""
        self.pipe.send(None)

    def end(self):
        """The objects that it still sends, once it has ended."""
        rest = []
        try:
            while True:
                rest.append(self.hear())
        except (EOFError, OSError):  # also in the middle of an object, if it was killed
            self.process.join()
            return rest
