-- A journal as version 1 wrote it: one experiment, submitted.
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
PRAGMA user_version = 1;
INSERT INTO experiments (id, key, queue, state, received_at, digest, message, spec, batch, task,
    job_id, submitted_at)
VALUES ('0123456789ab', 'key-a', 'rmq_q', 'PENDING', 1.0, 'd1', CAST('{}' AS BLOB),
    '{"account": "", "cpus": 2, "directives": [], "gpu_type": "", "gpus": 0, "memory": 0, '
    || '"partition": "gpu", "qos": "", "requeue": false, "time_limit": 0, "tmp": 0}',
    'b1', 1, '77_1', 2.0);
INSERT INTO batches VALUES ('b1', 'SUBMITTED', '{"partition": "gpu"}', 1, 1.0, 2.0);
INSERT INTO transitions VALUES ('0123456789ab', 1.0, 'ACCEPTED', '');
INSERT INTO transitions VALUES ('0123456789ab', 2.0, 'PENDING', 'job 77_1');
