"""Never end by itself: what max_duration is for."""

import itertools
import time

for step in itertools.count(1):
    print(f"step {step}", flush=True)
    time.sleep(0.5)
