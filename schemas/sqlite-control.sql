-- What Crossfade keeps in a SQLite database that it moves away from, beside the helper tables and triggers of each table
-- (sqlite-triggers.sql shows those of an example). `crossfade uninstall` removes all of it.

-- One row. The id is drawn at random at installation and is part of every position, so that a position of one
-- installation is never continued in another.
CREATE TABLE IF NOT EXISTS _crossfade_install (
    id TEXT NOT NULL,
    format INTEGER NOT NULL
);

-- One row per table: its shape as TableSchema in JSON, decided once and kept; the row of the change table behind which
-- its log is complete; and its unique constraints, to notice new ones.
CREATE TABLE IF NOT EXISTS _crossfade_table (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    since INTEGER NOT NULL,
    shape TEXT NOT NULL,
    uniques TEXT NOT NULL
);

-- The log. Rows are numbered without gaps in commit order: SQLite serialises writers, a new row gets the highest number
-- plus one, and pruning never takes the last row. That is why no AUTOINCREMENT is needed, which would write a second
-- page in every transaction of the application, and why a reader can prove that it missed nothing.
--
-- t: _crossfade_table.id; 0 for marks. op: 0 mark, 1 insert, 2 update, 3 delete (key columns only), 4 schema.
-- at: the Julian day of the statement. c0, c1, ...: the columns of the widest table in order. They have no type and so
-- no affinity: every value stays as it is, to the last bit of a real and the last byte of a text.
CREATE TABLE IF NOT EXISTS _crossfade_change (
    seq INTEGER PRIMARY KEY,
    t INTEGER,
    op INTEGER,
    at REAL,
    c0,
    c1
);
