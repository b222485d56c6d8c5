# The verifier beside its peers: the same mutations, and who finds them. Sourced by benches/compare.
#
# A shop of three tables in MariaDB 10.11 is at a Postgres 15, carried by Crossfade, and at a second MariaDB, its replica. A mutation
# is done to a copy, then programs compare, then it is taken back from a copy of the table. Nobody writes meanwhile. All of them are
# done to Postgres first, then to the replica: pt-table-checksum writes statements into the log, which Crossfade refuses from there on.
#
#   Crossfade          MariaDB with Postgres: verify
#   reladiff           MariaDB with Postgres: all columns that it can compare (-c), else it looks at the key alone. Which those are is found
#                      out first: a column in which it sees differences while there are none is left out, and named
#   pt-table-checksum  MariaDB with its replica, the only thing that it can compare: with its defaults (CRC32), and with --function=MD5,
#                      which its manual names where CRC32 collides too often. --no-check-binlog-format, since the log has rows

shop_in_mariadb() {
  my >&2 <<'SQL'
create database shop; use shop;
create table customer (id int primary key, name varchar(40) not null, note varchar(40)) charset utf8mb4;
create table purchase (
  id int primary key, customer_id int not null references customer (id) on delete cascade, amount decimal(12,2) not null,
  weight double, placed datetime not null, seen timestamp null, payload blob) charset utf8mb4;
create table event (what varchar(20) not null, n int) charset utf8mb4;
insert into customer select seq, concat('Name ', seq), if(seq % 3 = 0, '', null) from seq_1_to_300;
insert into purchase select seq, seq % 300 + 1, seq * 1.37, sqrt(seq), '2024-02-29 10:00:00' + interval seq minute,
  '2024-06-01 00:00:00' + interval seq second, unhex(md5(seq)) from seq_1_to_3000;
insert into event select concat('kind ', seq % 5), seq % 7 from seq_1_to_500;
SQL
}

replica() { mariadb --no-defaults -S "$dir/replica.sock" -u root "$@"; }
replica_is_level() { [ "$(replica -Ne 'select @@gtid_slave_pos')" = "$(my -Ne 'select @@gtid_binlog_pos')" ]; }

# A second MariaDB with the primary's settings, which follows it from its first transaction on.
start_replica() {
  local root=()
  replica_port=$(free_port)
  [ "$(id -u)" != 0 ] || root=(--user=root)
  mkdir "$dir/replica"
  mariadb-install-db --no-defaults --auth-root-authentication-method=normal --skip-test-db --datadir="$dir/replica" "${root[@]}" >"$dir/replica.log" 2>&1
  setpriv --pdeathsig KILL /usr/sbin/mariadbd --no-defaults "${root[@]}" --datadir="$dir/replica" --socket="$dir/replica.sock" --pid-file="$dir/replica.pid" \
    --port="$replica_port" --server-id="$replica_port" "${mysql_settings[@]}" "${mariadbd_settings[@]}" >>"$dir/replica.log" 2>&1 &
  children+=($!)
  ready replica replica -e 'select 1'
  replica -e "change master to master_host = '127.0.0.1', master_port = $my_port, master_user = 'bench', master_use_gtid = slave_pos; start slave"
  ready replica replica_is_level
  my -e "create database percona; create table percona.dsns (id int primary key, parent_id int, dsn varchar(255) not null);
    insert into percona.dsns values (1, 1, 'h=127.0.0.1,P=$replica_port,u=bench')"
}

# ---- what each program says: one cell of the table ---------------------------------------------------------------------

ask_crossfade() {
  local code=0
  "$crossfade" verify --json "${both[@]}" >"$dir/verify.json" 2>"$dir/verify.log" || code=$?
  [ $code = 0 ] || [ $code = 2 ] || { cat "$dir/verify.log" >&2; die "verify ended with $code"; }
  python3 - "$dir/verify.json" <<'PYTHON'
import json, sys
proof = json.load(open(sys.argv[1]))
found = [(t["table"].split(".")[-1], t["differences"]) for t in proof["tables"] if t["verdict"] != "equal"]
def told(table, d):
    kinds = sorted({row["kind"] for row in d["listed"]})
    columns = sorted({c["column"] for row in d["listed"] for c in row.get("columns", [])})
    return f"{d['rows']:,} {' and '.join(kinds)}" + (f": {', '.join(columns)}" if columns else "")
print("; ".join(told(*f) for f in found) or "**not found**")
PYTHON
}

# reladiff_of TABLE COLUMN…: what it prints, a line for each row of either side that has no equal at the other. Where it fails it may end
# with 0 all the same; its log says so. It fails where it has to sort NULL among texts, and is then asked not to sort.
reladiff_of() {
  local table=$1 key=(-k id) said options
  shift
  [ "$table" != event ] || key=(-k n) # there is no key, and it takes no text for one
  for options in -j4 --skip-sort-results; do
    said=$(timeout 60 "$reladiff/bin/reladiff" $options "${key[@]}" "${@/#/-c}" "mysql://bench@127.0.0.1:$my_port/shop" "$table" "postgresql://bench@127.0.0.1:$pg_port/copy" "shop.$table" 2>&1 | tr -d '\0') || said+=" ERROR - no end within 60 s"
    [[ $said == *\ ERROR\ * ]] || break
  done
  printf '%s\n' "$said"
  [[ $said != *\ ERROR\ * ]]
}

# Sets `compared[TABLE]` to the columns in which reladiff sees equal tables as equal, and `left_out[COLUMN]` to what it says of the others.
declare -A compared left_out
reladiff_columns_that_work() {
  local table column said
  while read -r table columns; do
    compared[$table]=
    for column in $columns; do
      if said=$(reladiff_of "$table" "$column") && ! grep -q '^[-+] ' <<<"$said"; then
        compared[$table]+=" $column"
      elif grep -q '^[-+] ' <<<"$said"; then
        left_out[$column]="sees $(grep -c '^+ ' <<<"$said") differences where there are none"
      else
        left_out[$column]=$(tail -n 1 <<<"$said")
      fi
    done
    note "reladiff compares $table:${compared[$table]}"
  done <<'LIST'
customer name note
purchase customer_id amount weight placed seen payload
event what
LIST
}

# ask_reladiff TABLE COLUMN: COLUMN is what the mutation changes, if it is one.
ask_reladiff() {
  local said minus plus
  if [ -n "$2" ] && [ -n "${left_out[$2]-}" ]; then
    echo "cannot compare \`$2\`"
    return
  fi
  # shellcheck disable=SC2086
  said=$(reladiff_of "$1" ${compared[$1]}) || { echo "fails: $(tail -n 1 <<<"$said")"; return; }
  minus=$(grep -c '^- ' <<<"$said" || true) plus=$(grep -c '^+ ' <<<"$said" || true)
  if [ $((minus + plus)) = 0 ]; then echo '**not found**'; else echo "$minus rows at the source, $plus at the target"; fi
}

# ask_percona TABLE OPTION…
ask_percona() {
  local table=$1 code=0 diffs
  shift
  pt-table-checksum --no-version-check --no-check-binlog-format --databases shop --recursion-method="dsn=h=127.0.0.1,P=$my_port,u=bench,D=percona,t=dsns" "$@" \
    "h=127.0.0.1,P=$my_port,u=bench" >"$dir/percona.log" 2>&1 || code=$?
  # 16: a table differs. Any other bit: it could not do its work.
  [ $((code & ~16)) = 0 ] || { cat "$dir/percona.log" >&2; die "pt-table-checksum ended with $code"; }
  diffs=$(awk -v table="shop.$table" '$NF == table { print $3 " of " $6 " chunks" }' "$dir/percona.log")
  [ -n "$diffs" ] || { cat "$dir/percona.log" >&2; die "pt-table-checksum says nothing of $table"; }
  if [[ $diffs == 0\ * ]]; then echo '**not found**'; else echo "$diffs"; fi
}

# ---- mutations -------------------------------------------------------------------------------------------------------

# mutation NAME TABLE COLUMN POSTGRES-SQL MARIADB-SQL: at the copy that `copy` names. The row is printed when both have been seen.
declare -A at_postgres
mutation() {
  local name=$1 table=$2 column=$3 ours theirs
  note "$copy: $name"
  if [ "$copy" = postgres ]; then
    sql -d copy -c "create table kept as table $table" -c "$4" >/dev/null
    ours=$(ask_crossfade)
    theirs=$(ask_reladiff "$table" "$column")
    at_postgres[$name]="$ours | $theirs"
    sql -d copy -c "delete from $table" -c "insert into $table table kept" -c 'drop table kept' >/dev/null
  else
    replica -e "set sql_log_bin = 0, foreign_key_checks = 0; use shop; create table kept as select * from $table; $5"
    ours=$(ask_percona "$table")
    theirs=$(ask_percona "$table" --function=MD5)
    say "| $name | ${at_postgres[$name]} | $ours | $theirs |"
    replica -e "set sql_log_bin = 0, foreign_key_checks = 0; use shop; delete from $table; insert into $table select * from kept; drop table kept"
  fi
}

# All tables equal, first and last: whoever sees something sees what is not there.
nothing() {
  local name=$1 table one='' other=''
  note "$copy: $name"
  [ "$copy" = replica ] || one=$(ask_crossfade)
  for table in customer purchase event; do
    if [ "$copy" = postgres ]; then
      other+=$(ask_reladiff "$table" '')
    else
      one+=$(ask_percona "$table")
      other+=$(ask_percona "$table" --function=MD5)
    fi
  done
  if [ "$copy" = postgres ]; then
    at_postgres[$name]="$(equal "$one") | $(equal "$other")"
  else
    say "| $name | ${at_postgres[$name]} | $(equal "$one") | $(equal "$other") |"
  fi
}

equal() { if [ -z "${1//'**not found**'/}" ]; then echo equal; else echo "a false alarm: $1"; fi; }

all_mutations() {
  nothing "nothing"
  mutation "one value + 0.01" purchase amount 'update purchase set amount = amount + 0.01 where id = 1700' 'update purchase set amount = amount + 0.01 where id = 1700'
  mutation "+ 0.05 over a column" purchase amount 'update purchase set amount = amount + 0.05' 'update purchase set amount = amount + 0.05'
  mutation "+ 1 year over a column" purchase placed "update purchase set placed = placed + interval '1 year'" 'update purchase set placed = placed + interval 1 year'
  mutation "two columns swapped" customer name 'update customer set name = note, note = name where note is not null' \
    "set sql_mode = concat(@@sql_mode, ',SIMULTANEOUS_ASSIGNMENT'); update customer set name = note, note = name where note is not null"
  mutation "NULL for ''" customer note 'update customer set note = null where id = 33' 'update customer set note = null where id = 33'
  mutation "'' for NULL" customer note "update customer set note = '' where id = 34" "update customer set note = '' where id = 34"
  mutation "changed case" customer name 'update customer set name = upper(name)' 'update customer set name = upper(name)'
  mutation "trailing blanks" customer name "update customer set name = name || '  ' where id in (8, 9)" "update customer set name = concat(name, '  ') where id in (8, 9)"
  mutation "a lost row" purchase '' 'delete from purchase where id = 2999' 'delete from purchase where id = 2999'
  mutation "an extra row" customer '' "insert into customer values (9000, 'nobody', null)" "insert into customer values (9000, 'nobody', null)"
  mutation "a repeated row, no key" event '' "insert into event select * from event where what = 'kind 3' and n = 2 limit 1" "insert into event select * from event where what = 'kind 3' and n = 2 limit 1"
  mutation "two of one row for two of another, no key" event '' \
    "delete from event where ctid in (select ctid from event where what = 'kind 0' and n = 0 limit 2); insert into event values ('kind 1', 1), ('kind 1', 1)" \
    "delete from event where what = 'kind 0' and n = 0 limit 2; insert into event values ('kind 1', 1), ('kind 1', 1)"
  local flip='update purchase set payload = set_bit(payload, 8, 1 - get_bit(payload, 8)) where id'
  local flip_my='update purchase set payload = concat(left(payload, 1), char(ord(substring(payload, 2, 1)) ^ 1), substring(payload, 3)) where id'
  mutation "one flipped bit of a blob" purchase payload "$flip = 41" "$flip_my = 41"
  mutation "the same bit in two blobs" purchase payload "$flip in (42, 43)" "$flip_my in (42, 43)"
  local orphans='insert into purchase select 5000 + id, 9999, amount, weight, placed, seen, payload from purchase where customer_id = 300'
  mutation "a lost cascade" purchase '' "$orphans" "$orphans"
  mutation "local time taken for UTC, no zone" purchase placed "update purchase set placed = placed + interval '1 hour'" 'update purchase set placed = placed + interval 1 hour'
  mutation "local time taken for UTC, with a zone" purchase seen "update purchase set seen = seen - interval '1 hour'" 'update purchase set seen = seen - interval 1 hour'
  mutation "floats rounded to four bytes" purchase weight 'update purchase set weight = weight::real' \
    'create temporary table narrow (id int primary key, weight float); insert into narrow select id, weight from purchase; update purchase p join narrow n using (id) set p.weight = n.weight'
  mutation "a float rounded to 15 digits" purchase weight 'update purchase set weight = round(weight::numeric, 14) where id = 10' 'update purchase set weight = round(weight, 14) where id = 10'
  mutation "1 more in one row, 1 less in another" purchase amount 'update purchase set amount = amount + case id when 1 then 1 else -1 end where id in (1, 2)' \
    'update purchase set amount = amount + if(id = 1, 1, -1) where id in (1, 2)'
  mutation "a value exchanged between two rows" purchase amount 'update purchase p set amount = q.amount from purchase q where (p.id, q.id) in ((5, 6), (6, 5))' \
    'set @a = (select amount from purchase where id = 5), @b = (select amount from purchase where id = 6); update purchase set amount = if(id = 5, @b, @a) where id in (5, 6)'
  local exchange='update purchase set id = -id where id in (3, 4); update purchase set id = 7 + id where id in (-3, -4)'
  mutation "two keys exchanged" purchase '' "$exchange" "$exchange"
  nothing "all taken back"
}

mutations() {
  local column copy
  install_reladiff
  start_mysql mariadbd
  start_postgres
  start_replica
  shop_in_mariadb
  fresh copy
  both=(--name mutations --from "mysql://bench@127.0.0.1:$my_port/shop" --to "postgres://bench@127.0.0.1:$pg_port/copy")
  "$crossfade" run --until-caught-up "${both[@]}" >"$dir/first.log" 2>&1 || { cat "$dir/first.log" >&2; die "the initial copy failed"; }
  ready replica replica_is_level
  sql -d postgres -c 'alter database copy set search_path = shop' -c 'alter database copy set session_replication_role = replica'
  reladiff_columns_that_work
  say "## Mutations: who finds them, MariaDB 10.11 with Postgres 15 and with a replica"
  say
  say "$(date -u '+%Y-%m-%d %H:%M UTC'). Crossfade $("$crossfade" --version | cut -d' ' -f2) and reladiff $("$reladiff/bin/pip" show reladiff | sed -n 's/^Version: //p') compare MariaDB with Postgres, $(pt-table-checksum --version) MariaDB with its replica."
  say
  say "| done to the copy | Crossfade | reladiff | pt-table-checksum | with MD5 |"
  say "|---|---|---|---|---|"
  for copy in postgres replica; do all_mutations; done
  say
  for column in "${!left_out[@]}"; do say "reladiff cannot compare \`$column\`: ${left_out[$column]}."; done
  say
}
