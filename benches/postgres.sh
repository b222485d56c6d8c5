# Postgres to Postgres: the comparisons of benches/compare that need no other server. Sourced by it.
#
# Two servers of one version, without autovacuum, whose work would fall into one run and not into the next. What a server spends
# is that of all its processes: those that have ended (the postmaster's reaped children) and those that live.

pg_settings="
wal_level = logical
autovacuum = off
"

start_pair() {
  start_postgres postgres-source "$pg_settings"
  src_port=$pg_port
  start_postgres postgres-target "$pg_settings"
  dst_port=$pg_port
}

src() { sql -p "$src_port" "$@"; }
dst() { sql -p "$dst_port" "$@"; }

# between NAME SOURCE TARGET: sets `ends`.
between() { ends=(--name "$1" --from "postgres://bench@127.0.0.1:$src_port/$2" --to "postgres://bench@127.0.0.1:$dst_port/$3"); }

# server_cpu source|target: CPU seconds of all processes of a server.
server_cpu() {
  local main
  main=$(head -n 1 "$dir/postgres-$1/postmaster.pid")
  # A process may end between the two looks; its seconds are then its parent's.
  { cat "/proc/$main/stat" $(ps -o pid= --ppid "$main" | sed 's,^ *\(.*\)$,/proc/\1/stat,') 2>/dev/null || true; } |
    awk -v hz="$(getconf CLK_TCK)" '{ main = NR == 1; sub(/.*\) /, ""); n += $12 + $13 + (main ? $14 + $15 : 0) } END { printf "%.2f", n / hz }'
}

# spent NAME COMMAND…: runs it, and appends the CPU seconds of source and target to NAME.servers.
spent() {
  local name=$1 source target
  shift
  source=$(server_cpu source) target=$(server_cpu target)
  "$@"
  sleep 0.2 # what has ended is reaped
  calc '%.2f %.2f\n' "$(server_cpu source) - $source, $(server_cpu target) - $target" >>"$dir/$name.servers"
  note "$name: $(tail -n 1 "$dir/$name.servers") (CPU seconds of source and target)"
}

now() { date +%s.%N; }

# drop_slot NAME: its walsender may need a moment to see that its client is gone.
drop_slot() {
  ready postgres src -d postgres -c "do \$\$ begin
    if exists (select from pg_replication_slots where slot_name = '$1') then perform pg_drop_replication_slot('$1'); end if;
  end \$\$"
}

# again_from KEPT NAME DATABASE: a slot that begins where KEPT does.
again_from() {
  drop_slot "$2"
  src -d "$3" -c "select pg_copy_logical_replication_slot('$1', '$2')" >/dev/null
}

# confirmed SLOT LSN: waits until the subscriber says that it holds everything up to there.
confirmed() {
  src -d postgres <<SQL
do \$\$
declare
  until timestamptz := clock_timestamp() + interval '10 minutes';
begin
  while (select confirmed_flush_lsn < '$2' from pg_replication_slots where slot_name = '$1') loop
    if clock_timestamp() > until then raise exception 'slot $1 does not reach $2'; end if;
    perform pg_sleep(0.005);
  end loop;
end \$\$;
SQL
}

# ---- backlog-pg -----------------------------------------------------------------------------------------------------

history='select (select count(*) from pgbench_history), (select sum(abalance) from pgbench_accounts), (select sum(bbalance) from pgbench_branches), (select sum(tbalance) from pgbench_tellers)'

# level NAME: stops unless counts and balances at the target are those of the source.
level() {
  [ "$(dst -d again -c "$history")" = "$sums" ] || die "$1 left $(dst -d again -c "$history") instead of $sums"
}

backlog_pg() {
  local before run program lsn
  before=$(load)
  transactions=$((transactions / 4 * 4)) # four clients make them
  start_pair
  src -d postgres -c 'create database bank'
  $pg_bin/pgbench -p "$src_port" -q -i -s 10 bank >"$dir/pgbench.log" 2>&1 || { cat "$dir/pgbench.log" >&2; die "pgbench -i failed"; }
  # A key of its own, so that both sides have the same table and the same work.
  src -d bank -c 'alter table pgbench_history add column id bigserial primary key'
  dst -d postgres -c 'create database base'
  between backlog bank base
  "$crossfade" run --until-caught-up "${ends[@]}" >"$dir/first.log" 2>&1 || { cat "$dir/first.log" >&2; die "the initial copy failed"; }
  # Every run begins at this slot's position, with the target as it is now.
  ready first again_from crossfade_backlog kept bank
  note "making a backlog of $transactions transactions"
  $pg_bin/pgbench -p "$src_port" -n -c 4 -j 1 -t $((transactions / 4)) bank >"$dir/pgbench.log" 2>&1 || { cat "$dir/pgbench.log" >&2; die "pgbench failed"; }
  src -d postgres -c checkpoint
  lsn=$(src -d postgres -c 'select pg_current_wal_flush_lsn()')
  sums=$(src -d bank -c "$history")
  [ "${sums%%|*}" = "$transactions" ] || die "pgbench made ${sums%%|*} transactions instead of $transactions"
  between backlog bank again
  for run in $(seq "$runs"); do
    for program in $([ $((run % 2)) = 1 ] && echo crossfade builtin || echo builtin crossfade) ceiling; do
      PGPORT=$dst_port fresh again 'template base'
      "backlog_$program" "$lsn"
      [ "$program" = ceiling ] || level "$program"
      if [ "$run-$program" = 1-crossfade ]; then
        "$crossfade" verify "${ends[@]}" >&2 || die "what was caught up is not equal"
      fi
    done
  done
  backlog_pg_table_of_figures "$before" "$(calc %.0f "$(src -d bank -c "select pg_wal_lsn_diff('$lsn', confirmed_flush_lsn) from pg_replication_slots where slot_name = 'kept'") / 1048576")"
}

backlog_crossfade() {
  again_from kept crossfade_backlog bank
  spent backlog measured backlog "$crossfade" catch-up "${ends[@]}"
}

backlog_builtin() {
  again_from kept builtin bank
  # The rows are here: as Crossfade has copied them.
  dst -d again -c "create subscription builtin connection 'host=127.0.0.1 port=$src_port user=bench dbname=bank'
    publication crossfade_backlog with (enabled = false, create_slot = false, slot_name = 'builtin', copy_data = false)"
  spent builtin builtin_until "$1"
  dst -d again -c 'alter subscription builtin disable' -c 'alter subscription builtin set (slot_name = none)' -c 'drop subscription builtin'
  drop_slot builtin
}

builtin_until() {
  local began
  began=$(now)
  dst -d again -c 'alter subscription builtin enable'
  confirmed builtin "$1"
  calc '%.2f\n' "$(now) - $began" >>"$dir/builtin.times"
  note "builtin: $(tail -n 1 "$dir/builtin.times") (seconds)"
}

# The log decoded and thrown away: what the source's walsender can do at most.
backlog_ceiling() {
  again_from kept ceiling bank
  spent ceiling measured ceiling $pg_bin/pg_recvlogical -p "$src_port" -d bank --slot=ceiling --start --no-loop -f /dev/null \
    --endpos="$1" -o proto_version=1 -o publication_names=crossfade_backlog
  drop_slot ceiling
}

backlog_pg_table_of_figures() {
  local ours=$dir/backlog.times theirs=$dir/builtin.times log=$dir/ceiling.times changes=$((transactions * 4)) a b c
  a=$(median "$ours" '$1') b=$(median "$theirs" '$1') c=$(median "$log" '$1')
  head_of "Backlog: $transactions transactions of pgbench (scale 10), $changes row changes, $2 MiB of log, Postgres $postgres to Postgres $postgres" "$1"
  say "| | Crossfade | built-in logical replication | pg_recvlogical into /dev/null |"
  say "|---|--:|--:|--:|"
  say "| seconds | $a | $b | $c |"
  say "| changes a second | $(calc %.0f "$changes / $a") | $(calc %.0f "$changes / $b") | $(calc %.0f "$changes / $c") |"
  say "| Crossfade's rate beside it | | $(calc %.2f "$b / $a") | $(calc %.2f "$c / $a") |"
  say "| CPU seconds of the source server (walsender) | $(median "$dir/backlog.servers" '$1') | $(median "$dir/builtin.servers" '$1') | $(median "$dir/ceiling.servers" '$1') |"
  say "| CPU seconds of the target server | $(median "$dir/backlog.servers" '$2') | $(median "$dir/builtin.servers" '$2') | |"
  say "| CPU seconds of the program | $(median "$ours" '$2 + $3') | (in the target's) | $(median "$log" '$2 + $3') |"
  say "| peak memory of the program, MiB | $(calc %.0f "$(median "$ours" '$4') / 1024") | | |"
  say
  say "Each run, seconds: Crossfade $(each "$ours"); built-in $(each "$theirs"); pg_recvlogical $(each "$log")."
  say
}

# ---- copy-pg --------------------------------------------------------------------------------------------------------

copy_pg_columns='id bigint not null, customer int not null, quantity smallint not null, open boolean not null, warehouse int, amount numeric(12,2) not null,
  tax numeric(10,4), discount numeric(20,6), weight double precision, score real not null, sku varchar(40) not null, name varchar(80) not null,
  email text, note text, reference uuid not null, created timestamp not null, changed timestamptz not null, shipped timestamp, due date not null, birthday date'

copy_pg_table() {
  src -d shop >&2 <<SQL
create table orders ($copy_pg_columns);
insert into orders select
  i, i * 7919 % 200003, i % 997, i % 5 = 0, nullif(i % 30011, i % 11), i * 37 % 100000000 / 100.0, case when i % 13 > 0 then i % 999983 / 10000.0 end,
  i * 104729 % 1000000007 / 1000000.0, case when i % 17 > 0 then i / 7.0 end, sqrt(i), 'SKU-' || lpad((i * 31 % 20011)::text, 5, '0') || '-' || to_hex(i % 65521),
  'customer ' || md5(i::text), case when i % 12 > 0 then left(md5((i + 7)::text), 16) || '@example.org' end,
  case when i % 14 > 0 then repeat(md5((i + 1)::text) || ' für № ', (i % 5)::int) end, md5(i::text)::uuid,
  timestamp '2020-01-01' + i * 61 % 150000000 * interval '1 second', timestamptz '2021-01-01' + i * 1009 * interval '1 microsecond',
  case when i % 16 > 0 then timestamp '2022-01-01' + i % 9000000 * interval '1 second' end, date '2023-01-01' + (i % 700)::int,
  case when i % 12 > 0 then date '1960-01-01' + (i % 18000)::int end
from generate_series(1, $rows::bigint) i;
alter table orders add primary key (id);
vacuum (freeze, analyze) orders;
checkpoint;
SQL
}

copied_pg() {
  local found
  found=$(dst -d copy -c "select (select count(*) from orders), (select count(*) from pg_index where indrelid = 'orders'::regclass and indisprimary)")
  [ "$found" = "$rows|1" ] || die "$1 left $found instead of $rows rows and a primary key"
}

# The pipe alone into a table without any index, and with the primary key made afterwards, as Crossfade's target has it.
psql_copy() {
  local began piped
  dst -d copy -c "create table orders ($copy_pg_columns)"
  began=$(now)
  psql -XqAt -p "$src_port" -d shop -c 'copy orders to stdout (format binary)' | psql -XqAt -v ON_ERROR_STOP=1 -p "$dst_port" -d copy -c 'copy orders from stdin (format binary)'
  piped=$(now)
  dst -d copy -c 'alter table orders add primary key (id)'
  calc '%.2f %.2f\n' "$(now) - $began, $piped - $began" >>"$dir/psql.times"
  note "psql: $(tail -n 1 "$dir/psql.times") (seconds with the key, without)"
}

copy_pg() {
  local before run program
  before=$(load)
  start_pair
  src -d postgres -c 'create database shop'
  note "filling $rows rows"
  copy_pg_table
  between copy shop copy
  for run in $(seq "$runs"); do
    for program in $([ $((run % 2)) = 1 ] && echo crossfade psql || echo psql crossfade); do
      PGPORT=$dst_port fresh copy
      case $program in
        crossfade) drop_slot crossfade_copy; spent copy measured copy "$crossfade" run --until-caught-up "${ends[@]}" ;;
        psql) spent psql psql_copy ;;
      esac
      copied_pg "$program"
      if [ "$run-$program" = 1-crossfade ]; then
        "$crossfade" verify "${ends[@]}" >&2 || die "the copy is not equal"
      fi
    done
  done
  copy_pg_table_of_figures "$before"
}

copy_pg_table_of_figures() {
  local ours=$dir/copy.times theirs=$dir/psql.times a b c
  a=$(median "$ours" '$1') b=$(median "$theirs" '$1') c=$(median "$theirs" '$2')
  head_of "Initial copy: $rows rows of 20 columns and the primary key, Postgres $postgres to Postgres $postgres" "$1"
  say "| | Crossfade | COPY (binary), psql to psql, then the primary key | the pipe alone, no key |"
  say "|---|--:|--:|--:|"
  say "| seconds | $a | $b | $c |"
  say "| Crossfade's seconds beside it | | $(calc %.2f "$a / $b") | $(calc %.2f "$a / $c") |"
  say "| CPU seconds of the source server | $(median "$dir/copy.servers" '$1') | $(median "$dir/psql.servers" '$1') | |"
  say "| CPU seconds of the target server | $(median "$dir/copy.servers" '$2') | $(median "$dir/psql.servers" '$2') | |"
  say "| CPU seconds of the program | $(median "$ours" '$2 + $3') | | |"
  say "| peak memory of the program, MiB | $(calc %.0f "$(median "$ours" '$4') / 1024") | | |"
  say
  say "Each run, seconds: Crossfade $(each "$ours"); psql $(each "$theirs")."
  say
}

# ---- latency-pg -----------------------------------------------------------------------------------------------------

# probe NAME DATABASE: commits a row at the source every few milliseconds, from inside the target, and looks for it there without
# a pause. The clock starts when the source has answered the commit; all of it is one clock.
probe() {
  dst -d "$2" <<SQL >>"$dir/$1.times"
set client_min_messages = error;
create extension if not exists dblink;
create temporary table seen (ms float8);
set enable_seqscan = off;
do \$\$
declare
  until timestamptz := clock_timestamp() + interval '$seconds seconds';
  at timestamptz;
  key bigint;
begin
  perform dblink_connect('src', 'host=127.0.0.1 port=$src_port user=bench dbname=lat');
  while clock_timestamp() < until loop
    select k into key from dblink('src', 'insert into moment (pad) values (''probe'') returning id') as t(k bigint);
    at := clock_timestamp();
    while not exists (select from moment where id = key) loop
      if clock_timestamp() > at + interval '60 seconds' then raise exception 'row % does not come', key; end if;
    end loop;
    insert into seen values (extract(epoch from clock_timestamp() - at) * 1000);
    perform pg_sleep(0.002 + 0.006 * random());
  end loop;
end \$\$;
select string_agg(round(v::numeric, 2)::text, ' ' order by n) || ' ' || (select count(*) from seen)
from unnest((select percentile_cont('{0.5, 0.9, 0.99, 1}'::float8[]) within group (order by ms) from seen)) with ordinality u(v, n);
SQL
  note "$1: $(tail -n 1 "$dir/$1.times") (p50, p90, p99, longest in ms, probes)"
}

# under_load NAME DATABASE: the probe, beside 1,000 transactions a second.
under_load() {
  local load_pid
  $pg_bin/pgbench -p "$src_port" -n -c 4 -j 1 -R 1000 -T $((seconds + 3)) -f "$dir/insert.sql" lat >"$dir/pgbench.log" 2>&1 &
  load_pid=$!
  sleep 1.5
  probe "$1" "$2"
  wait "$load_pid" || { cat "$dir/pgbench.log" >&2; die "pgbench failed"; }
  awk '/^tps/ { printf "%.0f\n", $3 }' "$dir/pgbench.log" >>"$dir/$1.rates"
}

# same_rows DATABASE: waits until the target holds every row of the source.
same_rows() {
  ready latency eval '[ "$(dst -d '"$1"' -c "select count(*), sum(id) from moment")" = "$(src -d lat -c "select count(*), sum(id) from moment")" ]'
}

latency_crossfade() {
  local pid
  setpriv --pdeathsig KILL "$crossfade" run "${ends[@]}" >"$dir/latency.log" 2>&1 &
  pid=$!
  children+=("$pid")
  src -d lat -c "insert into moment (pad) values ('first')"
  same_rows moments
  spent crossfade under_load crossfade moments
  same_rows moments
  awk -v hz="$(getconf CLK_TCK)" '{ sub(/.*\) /, ""); printf "%.2f ", ($12 + $13) / hz }' "/proc/$pid/stat" >>"$dir/latency.process"
  awk '/VmHWM/ { print $2 }' "/proc/$pid/status" >>"$dir/latency.process"
  kill -TERM "$pid"
  wait "$pid" || die "Crossfade did not end well: $(tail -n 5 "$dir/latency.log")"
}

latency_builtin() {
  dst -d builtin -c 'alter subscription builtin enable'
  same_rows builtin
  spent subscription under_load subscription builtin
  same_rows builtin
  dst -d builtin -c 'alter subscription builtin disable'
}

latency_pg() {
  local before run program
  before=$(load)
  start_pair
  src -d postgres -c 'create database lat'
  src -d lat -c "create table moment (id bigserial primary key, at timestamptz not null default clock_timestamp(), pad varchar(200) not null)"
  echo "insert into moment (pad) values (repeat('x', 100));" >"$dir/insert.sql"
  chmod 644 "$dir/insert.sql"
  dst -d postgres -c 'create database moments' -c 'create database builtin'
  dst -d builtin -c "create table moment (id bigint primary key, at timestamptz not null, pad varchar(200) not null)"
  src -d lat -c 'create publication builtin for table moment'
  dst -d builtin -c "create subscription builtin connection 'host=127.0.0.1 port=$src_port user=bench dbname=lat' publication builtin" >/dev/null 2>&1
  between latency lat moments
  "$crossfade" run --until-caught-up "${ends[@]}" >"$dir/first.log" 2>&1 || { cat "$dir/first.log" >&2; die "the initial copy failed"; }
  same_rows builtin
  dst -d builtin -c 'alter subscription builtin disable'
  for run in $(seq "$runs"); do
    for program in $([ $((run % 2)) = 1 ] && echo crossfade builtin || echo builtin crossfade); do "latency_$program"; done
  done
  "$crossfade" catch-up "${ends[@]}" >&2 || die "Crossfade did not catch up"
  "$crossfade" verify "${ends[@]}" >&2 || die "what was streamed is not equal"
  latency_pg_table_of_figures "$before"
}

latency_pg_table_of_figures() {
  local name label
  head_of "Latency: $seconds s a run, 1,000 transactions a second asked for, Postgres $postgres to Postgres $postgres, from the commit to visible" "$1"
  say "| | transactions a second | p50, ms | p90, ms | p99, ms | longest, ms | CPU seconds of source server, target server, program |"
  say "|---|--:|--:|--:|--:|--:|--:|"
  for name in crossfade subscription; do
    label="built-in logical replication"
    [ "$name" != crossfade ] || label=Crossfade
    say "| $label | $(median "$dir/$name.rates" '$1') | $(median "$dir/$name.times" '$1') | $(median "$dir/$name.times" '$2') | $(median "$dir/$name.times" '$3') | $(median "$dir/$name.times" '$4') | $(median "$dir/$name.servers" '$1'), $(median "$dir/$name.servers" '$2')$([ "$name" != crossfade ] || echo ", $(median "$dir/latency.process" '$1')") |"
  done
  say
  say "Peak memory of Crossfade: $(calc %.0f "$(median "$dir/latency.process" '$2') / 1024") MiB. The probe's looks are among the target server's CPU seconds."
  say
}
