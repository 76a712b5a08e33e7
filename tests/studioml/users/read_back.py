"""Read experiments back as a user of the client would, once they all have a status.

Arguments: the client's config file, a folder, the status ("" for any), the experiments' keys with
commas between, and the artifacts' tags.
"""

import json
import sys
import time
from pathlib import Path

from studio import model

PATIENCE = 240.0

config_file, folder, wanted, keys, *tags = sys.argv[1:]


def read(database, key):
    experiment = database.get_experiment(key, getinfo=False)
    told = {
        "status": experiment.status,
        "time_started": experiment.time_started,
        "time_finished": experiment.time_finished,
    }
    if wanted and told["status"] != wanted:
        return told
    for tag in tags:
        target = Path(folder, key, tag)
        target.parent.mkdir(parents=True, exist_ok=True)
        database.get_artifact(experiment.artifacts[tag], local_path=str(target))
        if target.is_file():
            told[tag] = {"file": target.read_text()}
        elif target.is_dir():
            files = [path for path in target.rglob("*") if path.is_file()]
            told[tag] = {"folder": {str(f.relative_to(target)): f.read_text() for f in files}}
        else:
            told[tag] = None
    return told


end = time.monotonic() + PATIENCE
with model.get_db_provider(model.get_config(config_file)) as database:
    told = {}
    for key in keys.split(","):
        told[key] = read(database, key)
        while wanted and told[key]["status"] != wanted and time.monotonic() < end:
            time.sleep(0.5)
            told[key] = read(database, key)
print("READ " + json.dumps(told))
