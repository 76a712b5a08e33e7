"""A user's program: it closes its service, which deletes the queue, while its tasks run.

Arguments: config file, queue, a file that lets the tasks end. Prints CLOSED and its keys when the
queue is gone, and what came of the tasks at its end.
"""

import json
import sys
import time

from common import Service, task
from studio import model

config, queue, go = sys.argv[1:]
cs = Service(config, queue)
keys = {cs.submit(task("wait"), {"n": i, "go": go}) for i in range(2)}
waiting = set(keys)
while waiting:
    with model.get_db_provider(cs.services[0].config) as database:
        waiting -= {key for key in waiting if database.get_experiment(key).status == "running"}
    time.sleep(0.5)
cs.services[-1].close()
print("CLOSED " + json.dumps(sorted(keys)), flush=True)
results = dict(cs.result() for _ in keys)
print("TOLD " + json.dumps({"keys": results.keys() == keys, "values": sorted(results.values())}))
