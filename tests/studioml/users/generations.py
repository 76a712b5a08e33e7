"""A user's program: evolution. Each generation waits for all its results, then breeds the next.

Arguments: config file, queue, generations, tasks in each, and a ledger that each task writes its
name into. Minimises the sum of squares; a child is a parent's genome with one gene moved.
"""

import json
import random
import sys
import time

from common import Service, task

config, queue, generations, size, ledger = sys.argv[1:]
chance = random.Random(1)
told = {"generations": [], "keys": []}
population = [[chance.uniform(-5, 5) for _ in range(4)] for _ in range(int(size))]
with Service(config, queue) as cs:
    for _ in range(int(generations)):
        began = time.time()
        genomes = {
            cs.submit(task("evaluate"), {"genome": genome, "ledger": ledger}): genome
            for genome in population
        }
        submitted = time.time()
        scored = []
        while genomes:
            key, fitness = cs.result()
            scored.append((fitness, genomes.pop(key)))
            told["keys"].append(key)
        scored.sort()
        wrong = [genome for fitness, genome in scored if fitness != sum(x * x for x in genome)]
        told["generations"].append(
            {
                "results": len(scored),
                "wrong": wrong,
                "best": scored[0][0],
                "submitting": round(submitted - began, 1),
                "waiting": round(time.time() - submitted, 1),
            }
        )
        told["sent again"] = len(cs.services) - 1
        parents = [genome for _, genome in scored[: max(1, len(scored) // 4)]]
        population = [parents[0]]  # so that the best never gets worse
        while len(population) < int(size):
            child = list(chance.choice(parents))
            child[chance.randrange(len(child))] += chance.gauss(0, 0.5)
            population.append(child)
print("TOLD " + json.dumps(told))
