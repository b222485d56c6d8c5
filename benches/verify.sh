# The proof beside reladiff: MariaDB 10.11 against Postgres 15, one table, equal on both sides. Sourced by benches/compare.
#
# reladiff is asked for all columns but the doubles; by default it looks at the key alone. It rounds doubles to six digits inside each
# server, and the two servers round some of them differently: at 2,000,000 rows it reports differences where there are none.
# Timestamps it compares to the second here, as it warns; Crossfade compares every bit of every column. Floors: how long each
# server takes to hand over the table's rows to a client that throws them away.

reladiff=$tools/reladiff
# Of `copy_table` in benches/compare: all but the key, which is compared anyway, and the doubles `weight` and `score`.
reladiff_columns=(customer quantity state warehouse amount tax discount sku name email note comment created changed shipped due birthday)

install_reladiff() {
  [ -x "$reladiff/bin/reladiff" ] && return
  note "installing reladiff in $reladiff"
  python3 -m venv "$reladiff" >&2
  "$reladiff/bin/pip" -q install 'reladiff[mysql,postgresql]==0.6.*' >&2
}

verify_once() {
  case $1 in
    crossfade) measured "$1" "$crossfade" verify "${both[@]}" ;;
    reladiff) measured "$1" "$reladiff/bin/reladiff" -k id "${reladiff_columns[@]/#/-c}" -j 4 "mysql://bench@127.0.0.1:$my_port/shop" orders "postgresql://bench@127.0.0.1:$pg_port/copy" shop.orders
      ! grep -m 5 '^[-+] ' "$dir/$1.log" >&2 || die "$1 sees differences" ;;
    mariadb) measured "$1" sh -c "mariadb --no-defaults -S '$dir/mysql.sock' -u root --quick -Ne 'select * from shop.orders' >/dev/null" ;;
    postgres) measured "$1" sh -c "psql -Xqd copy -c 'copy shop.orders to stdout (format binary)' >/dev/null" ;;
  esac
}

verify() {
  local before run program
  before=$(load)
  install_reladiff
  start_mysql mariadbd
  start_postgres
  note "filling $rows rows"
  copy_table
  fresh copy
  both=(--name copy --from "mysql://bench@127.0.0.1:$my_port/shop" --to "postgres://bench@127.0.0.1:$pg_port/copy")
  measured copy "$crossfade" run --until-caught-up "${both[@]}"
  sql -d copy -c 'vacuum (freeze, analyze) shop.orders'
  for run in $(seq "$runs"); do
    for program in mariadb postgres $([ $((run % 2)) = 1 ] && echo crossfade reladiff || echo reladiff crossfade); do
      verify_once "$program"
    done
  done
  verify_table_of_figures "$before"
}

verify_table_of_figures() {
  local ours=$dir/crossfade.times theirs=$dir/reladiff.times a b
  a=$(median "$ours" '$1') b=$(median "$theirs" '$1')
  head_of "Proof: $rows rows of 20 columns, equal, MariaDB 10.11 against Postgres 15" "$1"
  say "| | Crossfade | $("$reladiff/bin/pip" show reladiff | sed -n 's/^Version: /reladiff /p') | |"
  say "|---|--:|--:|--:|"
  say "| seconds | $a | $b | $(calc %.2f "$b / $a") times as fast |"
  say "| peak memory, MiB | $(calc %.0f "$(median "$ours" '$4') / 1024") | $(calc %.0f "$(median "$theirs" '$4') / 1024") | |"
  say "| CPU seconds of the program | $(median "$ours" '$2 + $3') | $(median "$theirs" '$2 + $3') | |"
  say
  say "MariaDB hands over the rows in $(median "$dir/mariadb.times" '$1') s, Postgres in $(median "$dir/postgres.times" '$1') s."
  say "Each run, seconds: Crossfade $(each "$ours"); reladiff $(each "$theirs")."
  say
}
