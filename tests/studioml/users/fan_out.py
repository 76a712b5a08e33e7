"""A user's program: many tasks at once, every value collected, whatever order they come in.

Arguments: config file, queue, number of tasks. The first task fails.
"""

import json
import sys

from common import service, task

config, queue, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
told = {}
with service(config, queue) as cs:
    failing = cs.submitTask(task("echo"), {"fail": True})
    expected = {cs.submitTask(task("echo"), {"n": i, "from": queue}): i for i in range(count)}
    told["at once"] = cs.getResults(blocking=False)
    told["values"] = []
    for _ in range(count):
        key, value = cs.getResults()
        told["values"].append((expected.pop(key), value))
    told["failing"] = cs.getResultsWithTimeout(2)
    told["failing key"], told["left"] = failing, list(cs.submitted) == [failing]
print("TOLD " + json.dumps(told))
