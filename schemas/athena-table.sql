-- The log of changes of one table, for Athena (engine version 3). Filled in by `crossfade` for each table:
--   {database}  the Athena database      {table}     its name there
--   {columns}   `name` type, ...         {location}  the folder of the table's files
--
-- _op           c copied, i inserted, u updated, d deleted (key columns only), t the table was truncated (no values)
-- _commit_time  when the source committed it, in UTC; NULL for copied rows
-- _seq          the commit of the pipeline that brought it
-- _ordinal      its place within that commit; -1 for copied rows, which come before it
--
-- A file belongs to one commit and never changes. Columns are matched by name, so a column that came later is NULL in
-- older files; add it here when it comes: ALTER TABLE {database}.{table} ADD COLUMNS (name type).
CREATE EXTERNAL TABLE {database}.{table} (
  `_op` string,
  `_commit_time` timestamp,
  `_seq` bigint,
  `_ordinal` bigint,
{columns}
)
STORED AS PARQUET
LOCATION '{location}'
TBLPROPERTIES ('parquet.compression' = 'ZSTD')
