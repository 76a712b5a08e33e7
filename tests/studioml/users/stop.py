"""Stop an experiment, as the client's own page does. Arguments: config file, the key."""

import sys

from studio import model

config, key = sys.argv[1:]
with model.get_db_provider(model.get_config(config)) as database:
    database.stop_experiment(key)
