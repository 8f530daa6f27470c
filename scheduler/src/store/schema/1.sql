-- One row: what the farm as a whole has to know.
CREATE TABLE farm (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    -- How often its scheduler has been started.
    life INTEGER NOT NULL,
    -- The highest id that a job had when one was last deleted.
    last_job INTEGER NOT NULL,
    seal INTEGER NOT NULL
) STRICT;

-- One row for each commit, those without batches only while they are the last: how many there were, and when what is
-- in them was on the disk.
CREATE TABLE commits (
    number INTEGER PRIMARY KEY,
    -- Whether a batch names it.
    batches INTEGER NOT NULL,
    -- Nanoseconds since the Unix epoch. Written with the next commit, or never.
    stored_ns INTEGER
) STRICT;
INSERT INTO commits VALUES (0, 0, NULL);

-- Jobs as they were accepted.
CREATE TABLE jobs (
    job INTEGER PRIMARY KEY,
    key BLOB NOT NULL,
    owner TEXT NOT NULL,
    -- For people; the rest of the program reads `spec`.
    name TEXT,
    tasks INTEGER NOT NULL,
    stamp INTEGER NOT NULL,
    submitted_ms INTEGER NOT NULL,
    arg_bytes INTEGER NOT NULL,
    task_ns INTEGER,
    -- The commit that it was accepted with.
    accepted INTEGER NOT NULL,
    -- It is to be forgotten, if this is not NULL: what is its own goes bit by bit, and this row at last. The value is
    -- a checksum, so that no flipped bit says so.
    deleted INTEGER,
    sum BLOB NOT NULL,
    -- A postcard of farm_proto::job::JobSpec.
    spec BLOB NOT NULL,
    inline BLOB NOT NULL
) STRICT;

-- How jobs ended.
CREATE TABLE ends (
    job INTEGER PRIMARY KEY,
    -- done, cancelled or failed
    state TEXT NOT NULL,
    reason TEXT,
    ended_ms INTEGER NOT NULL,
    retried INTEGER NOT NULL,
    task_ns INTEGER,
    batches INTEGER NOT NULL,
    -- About how many bytes these take.
    bytes INTEGER NOT NULL,
    sum BLOB NOT NULL,
    -- Postcards of ranges of tasks, ascending: which failed, and which have no outcome.
    failed BLOB NOT NULL,
    missing BLOB NOT NULL
) STRICT;

-- Outcomes of tasks `first` to `first + count - 1`.
CREATE TABLE batches (
    -- The job times 2^31, plus the number: the batches of a job lie together, in order.
    id INTEGER PRIMARY KEY,
    job INTEGER NOT NULL,
    number INTEGER NOT NULL,
    first INTEGER NOT NULL,
    count INTEGER NOT NULL,
    -- How many are failures, and which: a postcard of ranges of offsets from `first`; none if there are none.
    failed INTEGER NOT NULL,
    offsets BLOB,
    -- About how many bytes storing it takes.
    bytes INTEGER NOT NULL,
    -- Checksum of the columns above, which are what the index has.
    seal INTEGER NOT NULL,
    -- The row in `commits`.
    stored INTEGER NOT NULL,
    queued_ns INTEGER NOT NULL,
    leased_ns INTEGER NOT NULL,
    arrived_ns INTEGER NOT NULL,
    -- Checksum of all columns but the last, for which `digest` stands.
    sum BLOB NOT NULL,
    digest BLOB NOT NULL,
    -- A postcard of farm_proto::message::Batch.
    head BLOB NOT NULL,
    -- farm_proto::columns; none if they are the blob `digest`.
    columns BLOB
) STRICT;
CREATE INDEX batches_by_task ON batches (job, first, count, number, failed, offsets, bytes, seal);

-- What tasks without an outcome have kept for their next attempts.
CREATE TABLE checkpoints (
    job INTEGER NOT NULL,
    task INTEGER NOT NULL,
    -- By which lease: later ones have higher numbers.
    lease INTEGER NOT NULL,
    kept_ms INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    -- Checksum of all columns but the last, for which `digest` stands.
    sum BLOB NOT NULL,
    digest BLOB NOT NULL,
    state BLOB NOT NULL,
    PRIMARY KEY (job, task)
) STRICT;

-- Clusters, also those that are gone: jobs may name them.
CREATE TABLE clusters (
    name TEXT PRIMARY KEY,
    cluster INTEGER NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    -- A postcard of what is wanted of it; NULL if it is gone.
    wanted BLOB,
    sum BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- Blobs that jobs need: modules, inputs, arguments, large columns, files that tasks left.
CREATE TABLE pins (
    job INTEGER NOT NULL,
    digest BLOB NOT NULL,
    seal INTEGER NOT NULL,
    PRIMARY KEY (job, digest)
) STRICT, WITHOUT ROWID;

-- Tickets, but for their secrets, which are nowhere.
CREATE TABLE tickets (
    ticket INTEGER PRIMARY KEY,
    -- admin, user or worker
    role TEXT NOT NULL,
    name TEXT NOT NULL,
    -- Of workers.
    cluster TEXT,
    created_by TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    -- Seconds since the Unix epoch: until when it buys certificates.
    expires_s INTEGER NOT NULL,
    -- How many it still buys; NULL for any number.
    uses_left INTEGER,
    -- Seconds since the Unix epoch: after that, no certificate that it has bought is valid.
    certified_s INTEGER NOT NULL,
    revoked_ms INTEGER,
    sum BLOB NOT NULL
) STRICT;
