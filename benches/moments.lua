-- One transaction: a row that says when it was made. `benches/compare latency` paces it (sysbench's --rate).
--
-- `at` is the server's clock at the start of the statement, so what is measured from it includes the INSERT and its
-- commit at the source.

function thread_init()
  connection = sysbench.sql.driver():connect()
  insert = connection:prepare("INSERT INTO moment (at, pad) VALUES (UTC_TIMESTAMP(6), REPEAT('x', 100))")
end

function event()
  insert:execute()
end
