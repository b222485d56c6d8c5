-- The latest state of one table, out of its log of changes; the same text serves Athena, Trino and DuckDB.
--   {view}     the view's name           {source}  the log of changes
--   {columns}  the table's own columns   {key}     its key columns
-- Per key the row with the greatest (_seq, _ordinal) counts, unless it is a delete or came before the last truncation.
CREATE OR REPLACE VIEW {view} AS
WITH truncated AS (
  SELECT _seq, _ordinal FROM {source} WHERE _op = 't' ORDER BY _seq DESC, _ordinal DESC LIMIT 1
),
ranked AS (
  SELECT log.*, row_number() OVER (PARTITION BY {key} ORDER BY log._seq DESC, log._ordinal DESC) AS _rank
  FROM {source} AS log LEFT JOIN truncated ON TRUE
  WHERE log._op <> 't'
    AND (truncated._seq IS NULL OR log._seq > truncated._seq
      OR (log._seq = truncated._seq AND log._ordinal > truncated._ordinal))
)
SELECT {columns}
FROM ranked
WHERE _rank = 1 AND _op <> 'd'
