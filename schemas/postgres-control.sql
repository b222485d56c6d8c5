-- What Crossfade keeps in a Postgres target: how far each pipeline has come, and its initial copy.
-- Every row here is written in the same transaction as the data it speaks of. Safe to run again.

CREATE SCHEMA IF NOT EXISTS crossfade;
COMMENT ON SCHEMA crossfade IS 'Crossfade: how far each pipeline has come. Written together with the data; do not edit';

CREATE TABLE IF NOT EXISTS crossfade.checkpoint (
    pipeline      text PRIMARY KEY,
    seq           bigint NOT NULL,
    position      text,
    phase         text NOT NULL CHECK (phase IN ('copying', 'streaming')),
    epoch         bigint NOT NULL,
    commit_micros bigint,
    owner         jsonb NOT NULL,
    tables        jsonb NOT NULL DEFAULT '[]',
    updated_at    timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    CHECK ((seq = 0) = (position IS NULL))
);
COMMENT ON TABLE crossfade.checkpoint IS 'One row per pipeline: what its commits have brought, but for those in crossfade.commit';
COMMENT ON COLUMN crossfade.checkpoint.pipeline IS 'Name of the pipeline';
COMMENT ON COLUMN crossfade.checkpoint.seq IS 'Commits so far; 0 before the first';
COMMENT ON COLUMN crossfade.checkpoint.position IS 'Position in the source''s log up to which everything is here; NULL before the first commit';
COMMENT ON COLUMN crossfade.checkpoint.phase IS 'copying: the initial copy runs, tables are not consistent yet; streaming: the tables equal the source at position';
COMMENT ON COLUMN crossfade.checkpoint.epoch IS 'Fencing token: one more each time that a process takes the pipeline; commits of older epochs are refused';
COMMENT ON COLUMN crossfade.checkpoint.commit_micros IS 'Commit time, at the source, of the last transaction: microseconds since 1970 UTC';
COMMENT ON COLUMN crossfade.checkpoint.owner IS 'The process that took the pipeline last: {"pipeline", "host", "pid"}';
COMMENT ON COLUMN crossfade.checkpoint.tables IS 'The tables in the shape that they have at position';
COMMENT ON COLUMN crossfade.checkpoint.updated_at IS 'When this row was last written, by this server''s clock';

-- A row that is updated with each commit would leave a version behind each time, through all of which the next update has to go for
-- as long as some reader of any table might still want them. So commits that nobody waits for are added here, and twice a second
-- the checkpoint's row tells of them.
CREATE TABLE IF NOT EXISTS crossfade.commit (
    pipeline      text NOT NULL,
    seq           bigint NOT NULL,
    position      text NOT NULL,
    commit_micros bigint,
    PRIMARY KEY (pipeline, seq)
);
COMMENT ON TABLE crossfade.commit IS 'The commits that the checkpoint of their pipeline does not tell of yet: half a second of them, the last one counts';
COMMENT ON COLUMN crossfade.commit.pipeline IS 'Name of the pipeline';
COMMENT ON COLUMN crossfade.commit.seq IS 'As in crossfade.checkpoint';
COMMENT ON COLUMN crossfade.commit.position IS 'As in crossfade.checkpoint';
COMMENT ON COLUMN crossfade.commit.commit_micros IS 'As in crossfade.checkpoint';

CREATE TABLE IF NOT EXISTS crossfade.chunk (
    pipeline     text NOT NULL,
    table_schema text NOT NULL,
    table_name   text NOT NULL,
    index        integer NOT NULL CHECK (index >= 0),
    range        jsonb NOT NULL,
    done         text,
    PRIMARY KEY (pipeline, table_schema, table_name, index)
);
COMMENT ON TABLE crossfade.chunk IS 'The initial copy, cut into ranges of keys';
COMMENT ON COLUMN crossfade.chunk.pipeline IS 'Name of the pipeline';
COMMENT ON COLUMN crossfade.chunk.table_schema IS 'Schema of the table';
COMMENT ON COLUMN crossfade.chunk.table_name IS 'Name of the table';
COMMENT ON COLUMN crossfade.chunk.index IS 'Place of the range in the table''s plan, from 0';
COMMENT ON COLUMN crossfade.chunk.range IS 'Keys it covers: {"after", "to"} in the order of the source';
COMMENT ON COLUMN crossfade.chunk.done IS 'NULL: still to be copied; otherwise the source''s position after it was read';

CREATE TABLE IF NOT EXISTS crossfade.original (
    pipeline       text NOT NULL,
    table_schema   text NOT NULL,
    table_name     text NOT NULL,
    column_name    text NOT NULL,
    key_hash       bytea NOT NULL,
    key            jsonb NOT NULL,
    policy         text NOT NULL,
    original       text,
    original_bytes bytea,
    position       text,
    PRIMARY KEY (pipeline, table_schema, table_name, column_name, key_hash),
    CHECK ((original IS NULL) <> (original_bytes IS NULL))
);
COMMENT ON TABLE crossfade.original IS 'Values that a policy has changed on their way, as they are at the source: one row for each that is there now';
COMMENT ON COLUMN crossfade.original.pipeline IS 'Name of the pipeline';
COMMENT ON COLUMN crossfade.original.table_schema IS 'Schema of the table, here';
COMMENT ON COLUMN crossfade.original.table_name IS 'Name of the table, here';
COMMENT ON COLUMN crossfade.original.column_name IS 'Name of the column, here';
COMMENT ON COLUMN crossfade.original.key_hash IS 'SHA-256 of the key, which may be longer than an index takes';
COMMENT ON COLUMN crossfade.original.key IS 'The row: {"column": value} of its key; integers as numbers, everything else as text';
COMMENT ON COLUMN crossfade.original.policy IS 'The policy that changed the value, as the configuration names it';
COMMENT ON COLUMN crossfade.original.original IS 'The value as the source writes it; NULL if it is in original_bytes';
COMMENT ON COLUMN crossfade.original.original_bytes IS 'The value''s bytes in the column''s own character set, where they are no text that Postgres holds';
COMMENT ON COLUMN crossfade.original.position IS 'Position in the source''s log after which the value came';
