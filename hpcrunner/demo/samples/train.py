"""Train a small classifier by gradient descent, in plain Python, and print StudioML metadata."""

import json
import math
import random
import sys
import time
from pathlib import Path

epochs = int(sys.argv[1])
random.seed(7)

points = []
for _ in range(400):
    x, y = random.uniform(-1, 1), random.uniform(-1, 1)
    points.append((x, y, 1.0 if x + 2 * y > 0.3 else 0.0))

w = [0.0, 0.0, 0.0]
accuracy = 0.0
for epoch in range(1, epochs + 1):
    gradient, hits, loss = [0.0, 0.0, 0.0], 0, 0.0
    for x, y, label in points:
        guess = 1 / (1 + math.exp(-(w[0] * x + w[1] * y + w[2])))
        hits += (guess > 0.5) == (label > 0.5)
        loss -= math.log(max(1e-9, guess if label else 1 - guess))
        for i, feature in enumerate((x, y, 1.0)):
            gradient[i] += (guess - label) * feature
    w = [v - 0.02 * g for v, g in zip(w, gradient)]
    accuracy = hits / len(points)
    print(f"epoch {epoch}: loss {loss / len(points):.4f} accuracy {accuracy:.3f}")
    print(json.dumps({"experiment": {"epoch": epoch, "accuracy": accuracy}}))
    time.sleep(0.2)

model = Path("../modeldir/model.json")
model.parent.mkdir(exist_ok=True)
model.write_text(json.dumps({"weights": w, "accuracy": accuracy}))
print(f"saved {model.name}: accuracy {accuracy:.3f}")
