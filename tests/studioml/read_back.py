"""Run by the released client's own Python: read an experiment back as a user of it would.

Arguments: the client's config file, the experiment's key, a folder, and the artifacts' tags.
"""

import json
import sys
from pathlib import Path

from studio import model

config_file, key, folder, *tags = sys.argv[1:]
told = {}
with model.get_db_provider(model.get_config(config_file)) as database:
    experiment = database.get_experiment(key, getinfo=False)
    told["status"] = experiment.status
    told["time_started"] = experiment.time_started
    told["time_finished"] = experiment.time_finished
    for tag in tags:
        target = Path(folder, key, tag)
        target.parent.mkdir(parents=True, exist_ok=True)
        database.get_artifact(experiment.artifacts[tag], local_path=str(target))
        if target.is_file():
            told[tag] = {"file": target.read_text()}
        elif target.is_dir():
            told[tag] = {"folder": sorted(entry.name for entry in target.iterdir())}
        else:
            told[tag] = None
print("READ " + json.dumps(told))
