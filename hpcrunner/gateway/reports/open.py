"""A teller of a gateway's options, with connections and files of its own."""

from __future__ import annotations

import socket
from contextlib import ExitStack

from hpcrunner.gateway.reader import Reader
from hpcrunner.gateway.reports.positions import Positions
from hpcrunner.gateway.reports.teller import Teller
from hpcrunner.gateway.spool import Spool
from hpcrunner.keys.keyring import keyring_from
from hpcrunner.keys.options import KeyOptions
from hpcrunner.queues.responders import responders_from
from hpcrunner.queues.sources import QueueOptions


def open_teller(spool: Spool, queues: QueueOptions, keys: str) -> Teller:
    """A teller to be used on this thread; ``keys`` is the folder of report keys as given.

    Raises JournalError, OptionInvalid, OSError or sqlite3.Error.
    """
    folder = keyring_from(KeyOptions(response_signatures_dir=keys)).reports
    if folder is None:
        raise AssertionError("no folder of report keys")
    with ExitStack() as undone:
        journal = Reader(spool.journal)
        undone.callback(journal.close)
        positions = Positions(spool.positions)
        undone.callback(positions.close)
        teller = Teller(
            journal,
            spool,
            positions,
            responders_from(queues),
            folder,
            host=socket.gethostname(),
        )
        undone.pop_all()
    return teller
