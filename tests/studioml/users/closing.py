"""A user's program: it closes its service, which deletes the queue, while its tasks run.

Arguments: config file, queue, a file that lets the tasks end. Prints CLOSED and its keys when the
queue is gone, and what came of the tasks at its end.
"""

import json
import sys
import time

from common import service, task
from studio import model

config, queue, go = sys.argv[1:]
cs = service(config, queue)
cs.__enter__()
keys = {cs.submitTask(task("wait"), {"n": i, "go": go}) for i in range(2)}
waiting = set(keys)
while waiting:
    with model.get_db_provider(cs.config) as database:
        waiting -= {key for key in waiting if database.get_experiment(key).status == "running"}
    time.sleep(0.5)
cs.close()
print("CLOSED " + json.dumps(sorted(keys)), flush=True)
results = dict(cs.getResults() for _ in keys)
print("TOLD " + json.dumps({"keys": results.keys() == keys, "values": sorted(results.values())}))
