"""A task that scores a genome, and says in a ledger that it has run."""

import os


def clientFunction(args, files):
    fd = os.open(args["ledger"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, (os.environ["STUDIOML_EXPERIMENT"] + "\n").encode())
    os.close(fd)
    return sum(x * x for x in args["genome"])
