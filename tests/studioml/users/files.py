"""A user's program: files of many names travel with each task, and one from the web.

The client's own test of this, ``completion_service_test._run_test_myfiles``, with its own task
function: every file of its folder, and a URL; back come the MD5 sums of all the task was given.
Arguments: config file, queue, URL.
"""

import hashlib
import json
import sys
import urllib.request
from pathlib import Path

from common import Service
from studio import completion_service

config, queue, url = sys.argv[1:]
folder = Path(completion_service.__file__).parent
files = {path.name: str(path) for path in folder.iterdir() if path.is_file()}
sums = {name: hashlib.md5(Path(path).read_bytes()).hexdigest() for name, path in files.items()}
files["url"] = url
sums["url"] = hashlib.md5(urllib.request.urlopen(url).read()).hexdigest()

function = str(folder / "completion_service_testfunc_files.py")
with Service(config, queue) as cs:
    number = {cs.submit(function, i, files): i for i in range(2)}
    results = [cs.result() for _ in number]
told = {
    "results": sorted([number[key], value] for key, value in results),
    "expected": [[i, [i, sums]] for i in range(2)],
}
print("TOLD " + json.dumps(told))
