create table every (id int primary key, a tinyint, b smallint unsigned, c mediumint, d bigint unsigned, e float, f double,
  g decimal(20,6), h decimal(65,30), i date, j datetime(3), k timestamp(6) null, l time(2), m year, n char(10), o varchar(300),
  p text, q binary(16), r varbinary(20), s blob, t enum('x','y','z'), u set('p','q','r'), v bit(11), w json, x geometry)
  character set utf8mb4;
insert into every values (1, -128, 65535, -8388608, 18446744073709551615, -1.5e-30, 1.7976931348623157e308,
  99999999999999.999999, -99999999999999999999999999999999999.999999999999999999999999999999, '9999-12-31',
  '9999-12-31 23:59:59.999', '2038-01-19 03:14:07.999999', '-838:59:59', 2155, 'grün', repeat('long', 70), 'text', 'ab', 'cd',
  x'00ff', 'z', 'p,r', b'10101010101', null, st_geomfromtext('point(1 -2)'));
insert into every (id, w) values (2, '{"a": [1, -2, 3.5, "x", true, null, {"b": []}], "k": "grün", "n": 18446744073709551615}'),
  (3, json_object('dec', cast(1.25 as decimal(10,4)), 'dt', cast('2024-02-03 04:05:06.7' as datetime(1)),
    't', cast('-10:11:12' as time), 'd', cast('2024-02-03' as date), 'big', repeat('y', 300))),
  (4, '[]'), (5, '"text"'), (6, '-1'), (7, 'null'),
  (8, concat('[', repeat('["deep", 70000, {"k": 1e300}], ', 60), '0]'));
insert into every (id, i, j, l) values (9, '1000-01-01', '1000-01-01 00:00:00', '00:00:00.01');
update every set a = 7, w = json_array(1, 2) where id in (2, 3);
update every set id = 20 where id = 4;
start transaction;
insert into every (id, n) values (30, 'a'), (31, 'b');
delete from every where id > 20;
commit;
delete from every where id = 1;
alter table every add column y int not null default 5 comment 'it''s';
truncate table every;
set session binlog_transaction_compression = on;
insert into every (id, p) values (1, repeat('compressed', 500)), (2, 'x');
update every set p = repeat('again', 800) where id = 1;
set session binlog_transaction_compression = off;
set session binlog_row_image = minimal;
insert into every (id, a) values (40, 1);
update every set a = 2 where id = 40;
delete from every where id = 40;
