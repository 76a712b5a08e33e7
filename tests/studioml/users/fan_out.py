"""A user's program: many tasks at once, every value collected, whatever order they come in.

Arguments: config file, queue, number of tasks. The first task fails.
"""

import json
import sys

from common import Service, task

config, queue, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
told = {}
with Service(config, queue) as cs:
    failing = cs.submit(task("echo"), {"fail": True})
    expected = {cs.submit(task("echo"), {"n": i, "from": queue}): i for i in range(count)}
    early = cs.services[-1].getResults(blocking=False)
    results = [early] if early else []
    while len(results) < count:
        results.append(cs.result())
    told["values"] = [(expected.pop(key), value) for key, value in results]
    told["failing"] = cs.services[0].getResultsWithTimeout(2)
    told["failing key"], told["left"] = (
        failing,
        [key for one in cs.services for key in one.submitted] == [failing],
    )
print("TOLD " + json.dumps(told))
