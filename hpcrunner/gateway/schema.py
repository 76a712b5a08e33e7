"""The journal's tables, and how a journal of an older version is brought up to date."""

from __future__ import annotations

import sqlite3

SCHEMA_VERSION = 5

_TABLES_1 = """
CREATE TABLE experiments (
    id TEXT PRIMARY KEY,
    key TEXT NOT NULL,
    queue TEXT NOT NULL,
    state TEXT NOT NULL,
    received_at REAL NOT NULL,
    digest TEXT NOT NULL,
    message BLOB NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 1,
    spec TEXT,
    batch TEXT NOT NULL DEFAULT '',
    task INTEGER NOT NULL DEFAULT 0,
    job_id TEXT NOT NULL DEFAULT '',
    reason TEXT,
    text TEXT NOT NULL DEFAULT '',
    exit_code INTEGER,
    node TEXT NOT NULL DEFAULT '',
    pending TEXT NOT NULL DEFAULT '',
    submitted_at REAL,
    started_at REAL,
    ended_at REAL,
    owner TEXT NOT NULL DEFAULT '',
    project TEXT NOT NULL DEFAULT '',
    cancel_wished INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX experiments_state ON experiments (state);
CREATE INDEX experiments_digest ON experiments (digest);
CREATE INDEX experiments_batch ON experiments (batch);
CREATE INDEX experiments_key ON experiments (key);
CREATE TABLE batches (
    id TEXT PRIMARY KEY,
    state TEXT NOT NULL,
    spec TEXT NOT NULL,
    size INTEGER NOT NULL,
    created_at REAL NOT NULL,
    submitted_at REAL
);
CREATE INDEX batches_state ON batches (state);
CREATE TABLE transitions (
    experiment TEXT NOT NULL,
    at REAL NOT NULL,
    state TEXT NOT NULL,
    text TEXT NOT NULL
);
CREATE INDEX transitions_experiment ON transitions (experiment);
"""

# settled: the queue has been told that the message is taken over.
# aside: ended otherwise than wished, and nobody has retried or dropped it yet.
# attempts: how each attempt before the present one ended.
# gateways: who has written here; only the newest generation may.
_STEP_2 = """
ALTER TABLE experiments ADD COLUMN settled INTEGER NOT NULL DEFAULT 1;
ALTER TABLE experiments ADD COLUMN not_before REAL NOT NULL DEFAULT 0;
ALTER TABLE experiments ADD COLUMN infrastructure_failures INTEGER NOT NULL DEFAULT 0;
ALTER TABLE experiments ADD COLUMN payload_failures INTEGER NOT NULL DEFAULT 0;
ALTER TABLE experiments ADD COLUMN aside INTEGER NOT NULL DEFAULT 0;
ALTER TABLE experiments ADD COLUMN retried_as TEXT NOT NULL DEFAULT '';
CREATE INDEX experiments_aside ON experiments (aside) WHERE aside = 1;
CREATE INDEX experiments_wished ON experiments (cancel_wished) WHERE cancel_wished = 1;
CREATE TABLE attempts (
    experiment TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    batch TEXT NOT NULL,
    task INTEGER NOT NULL,
    job_id TEXT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT NOT NULL,
    text TEXT NOT NULL,
    exit_code INTEGER,
    node TEXT NOT NULL,
    submitted_at REAL,
    started_at REAL,
    ended_at REAL,
    PRIMARY KEY (experiment, attempt)
);
CREATE INDEX attempts_batch ON attempts (batch);
CREATE TABLE gateways (
    generation INTEGER PRIMARY KEY AUTOINCREMENT,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    since REAL NOT NULL
);
"""

# server: the queue server that the message came from, by its Source's name.
# reports: whether the response queue is still to be told of it; see experiment.Reports.
_STEP_3 = """
ALTER TABLE experiments ADD COLUMN server TEXT NOT NULL DEFAULT '';
ALTER TABLE experiments ADD COLUMN reports TEXT NOT NULL DEFAULT '';
CREATE INDEX experiments_reports ON experiments (reports) WHERE reports = 'due';
"""

# client_told: nothing is left to be told to the client's database; what had ended was not.
_STEP_4 = """
ALTER TABLE experiments ADD COLUMN client_told INTEGER NOT NULL DEFAULT 0;
UPDATE experiments SET client_told = 1
    WHERE state IN ('SUCCEEDED', 'FAILED', 'CANCELLED', 'LOST', 'REJECTED');
CREATE INDEX experiments_untold ON experiments (state) WHERE client_told = 0;
"""

# rule: the name of the site's rule that it was taken by; empty without.
_STEP_5 = """
ALTER TABLE experiments ADD COLUMN rule TEXT NOT NULL DEFAULT '';
"""

# What brings a journal from the version before to this one.
STEPS = {1: _TABLES_1, 2: _STEP_2, 3: _STEP_3, 4: _STEP_4, 5: _STEP_5}


def version_of(connection: sqlite3.Connection) -> int:
    """The journal's schema version; 0 for a new, empty file."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def bring_up_to_date(connection: sqlite3.Connection) -> None:
    """Make or add what is missing, all of it or nothing.

    A journal of a newer version is left as it is. Raises sqlite3.Error.
    """
    steps = [STEPS[v] for v in range(version_of(connection) + 1, SCHEMA_VERSION + 1)]
    if steps:
        connection.executescript(
            f"BEGIN IMMEDIATE; {' '.join(steps)} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
        )
