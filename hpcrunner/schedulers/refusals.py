"""What Slurm's own words say about a submission that failed: never, not now, or nobody knows.

sbatch prints ``slurm_strerror()`` texts, and slurm-drmaa hands the same texts on, so one table
serves both. A text that the table does not have is UNCERTAIN: the batch is then looked up by
its name, which costs a moment and can never run an experiment twice.
"""

from __future__ import annotations

import re

from hpcrunner.schedulers.answers import Answer

# First match wins, so the order is part of the meaning: whatever leaves a doubt comes first.
_TABLE: tuple[tuple[str, Answer], ...] = (
    # The request went out and no answer came back.
    (r"timed out on send/recv", Answer.UNCERTAIN),
    (r"\((send|receive|shutdown) failure\)", Answer.UNCERTAIN),
    (r"Zero Bytes were transmitted", Answer.UNCERTAIN),
    (r"Connection (reset|timed out|aborted)|Broken pipe", Answer.UNCERTAIN),
    (r"Unexpected (message|missing socket)", Answer.UNCERTAIN),
    # Nothing went out, or the controller has no room or no mind for it now.
    (r"\(connect failure\)", Answer.NOT_NOW),
    (r"Resource temporarily unavailable", Answer.NOT_NOW),
    (r"temporarily unable to accept job", Answer.NOT_NOW),
    (r"(Assoc|QOS)(Max|Grp)\w*Submit\w*", Answer.NOT_NOW),
    (r"Required partition not available|partition configuration not available", Answer.NOT_NOW),
    (r"in standby mode|Slurm backup controller", Answer.NOT_NOW),
    (r"Munge|Protocol authentication|Incompatible versions of client", Answer.NOT_NOW),
    (r"Unable to process configuration file", Answer.NOT_NOW),
    (r"Unable to open file|cannot stat file", Answer.NOT_NOW),
    # Limits of one job; a job that breaks them never fits. Before the general line below.
    (r"(Assoc|QOS)(Max|Min|Grp)\w+", Answer.NEVER),
    # Without such a word this text may be a full queue as well as a limit of one job.
    (r"Job violates accounting/QOS policy", Answer.DOUBTFUL),
    (r"too many jobs|Maximum (array|job) (count|size)|MaxJobCount", Answer.NOT_NOW),
    (r"Invalid (partition|account|qos|feature|license|node name)", Answer.NEVER),
    (r"Invalid (generic resource|Trackable RESource|job array|user id|group id)", Answer.NEVER),
    (r"Invalid (cluster|time|dependency|constraint|numeric|directive|wckey)", Answer.NEVER),
    (r"Invalid --?[a-z]|Invalid \S+ specification|invalid partition", Answer.NEVER),
    (r"Requested (node configuration|time limit|reservation)", Answer.NEVER),
    (r"Requested operation|Requested nodes are", Answer.NEVER),
    (r"(Memory|CPU count|Node count|Temporary disk) (specification|per node)", Answer.NEVER),
    (r"[Mm]ore (processors|nodes|cpus) requested", Answer.NEVER),
    (r"not permitted to use this (partition|reservation|QOS)", Answer.NEVER),
    (r"Access/permission denied|Access denied", Answer.NEVER),
    (r"does not look like a batch script|[Bb]atch script is empty", Answer.NEVER),
    (r"DOS line breaks", Answer.NEVER),
    (r"unrecognized option|invalid option|requires an argument", Answer.NEVER),
    (r"mutually exclusive", Answer.NEVER),
    (r"Pathname of a file, directory or other parameter too long", Answer.NEVER),
    (r"Job dependency problem|Immediate execution impossible", Answer.NEVER),
    # slurm.ERROR of a site's job_submit script, whose own words stand in the lines before.
    (r"Unspecified error", Answer.NEVER),
)
_COMPILED = tuple((re.compile(pattern), answer) for pattern, answer in _TABLE)


def answer_of(text: str) -> Answer:
    """What a failed submission's error text means."""
    for pattern, answer in _COMPILED:
        if pattern.search(text):
            return answer
    return Answer.UNCERTAIN


def in_words(stderr: str) -> str:
    """An error text as one line for people: programs' name tags and repeats taken out."""
    lines: list[str] = []
    for line in stderr.splitlines():
        plain = re.sub(r"^(sbatch: )?(error: |fatal: )?", "", line.strip())
        plain = re.sub(r"^Batch job submission failed: |^slurm_submit_batch_job error: ", "", plain)
        if plain and plain not in lines and not plain.startswith('Try "sbatch'):
            lines.append(plain)
    return "; ".join(lines)[:500]
