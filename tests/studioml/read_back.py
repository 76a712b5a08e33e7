"""Run by the released client's own Python: read an experiment back as a user of it would.

Arguments: the client's config file, the experiment's key, a folder, and the artifacts' tags.
"""

import json
import os
import sys

from studio import model

config_file, key, folder, *tags = sys.argv[1:]
told = {}
with model.get_db_provider(model.get_config(config_file)) as database:
    experiment = database.get_experiment(key, getinfo=False)
    told["status"] = experiment.status
    told["time_started"] = experiment.time_started
    told["time_finished"] = experiment.time_finished
    for tag in tags:
        target = os.path.join(folder, key, tag)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        database.get_artifact(experiment.artifacts[tag], local_path=target)
        if os.path.isfile(target):
            with open(target) as file:
                told[tag] = {"file": file.read()}
        elif os.path.isdir(target):
            told[tag] = {"folder": sorted(os.listdir(target))}
        else:
            told[tag] = None
print("READ " + json.dumps(told))
