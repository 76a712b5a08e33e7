"""Run by the ordinary user: publish experiments into a directory queue, as data says.

Arguments: a folder. It holds ``work.json`` (a list of Work's fields, each with ``times`` and the
tags of ``more_artifacts``, mutable ones, and ``queue`` if it is another one) and ``workspace/``;
store and queue are made below it.
Prints the keys, in order.
"""

import json
import sys
from pathlib import Path

from hpcrunner.client.build import Work
from hpcrunner.client.publish import publish, store_work

folder = Path(sys.argv[1])
for fields in json.loads((folder / "work.json").read_text()):
    queue = fields.pop("queue", "local_tests")
    for _ in range(fields.pop("times", 1)):
        tags = fields.get("more_artifacts", ())
        known = {k: v for k, v in fields.items() if k != "more_artifacts"}
        work = Work(**{**known, "args": tuple(fields.get("args", ()))})
        key, body = store_work(work, folder / "workspace", folder / "store")
        if fields.get("project") == "unfetchable":
            body = body.replace(b"blobstore/", b"blobstore/not-there-")
        for tag in tags:
            message = json.loads(body)
            artifacts = message["experiment"]["artifacts"]
            artifacts[tag] = {
                name: value.replace("/output.tar", f"/{tag}.tar") if name != "mutable" else value
                for name, value in artifacts["output"].items()
                if name in ("key", "qualified", "mutable")
            }
            artifacts[tag]["unpack"] = True
            body = json.dumps(message).encode()
        publish(folder / "queue" / queue, body)
        print(key)
