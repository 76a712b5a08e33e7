"""Run by the ordinary user: publish experiments into a directory queue, as data says.

Arguments: a folder. It holds ``work.json`` (a list of Work's fields, each with ``times``) and
``workspace/``; store and queue are made below it. Prints the keys, in order.
"""

import json
import sys
from pathlib import Path

from hpcrunner.client.build import Work
from hpcrunner.client.publish import publish, store_work

folder = Path(sys.argv[1])
for fields in json.loads((folder / "work.json").read_text()):
    for _ in range(fields.pop("times", 1)):
        work = Work(**{**fields, "args": tuple(fields.get("args", ()))})
        key, body = store_work(work, folder / "workspace", folder / "store")
        if fields.get("project") == "unfetchable":
            body = body.replace(b"blobstore/", b"blobstore/not-there-")
        publish(folder / "queue" / "local_tests", body)
        print(key)
