"""The journal's tables, and how a journal of an older version is brought up to date."""

from __future__ import annotations

import sqlite3

SCHEMA_VERSION = 1

_TABLES = """
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


def version_of(connection: sqlite3.Connection) -> int:
    """The journal's schema version; 0 for a new, empty file."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def create(connection: sqlite3.Connection) -> None:
    """Make the tables in an empty file, all or nothing."""
    connection.executescript(
        f"BEGIN IMMEDIATE; {_TABLES} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
    )
