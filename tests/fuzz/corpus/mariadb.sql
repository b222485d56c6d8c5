create table every (id int primary key, a tinyint, b smallint unsigned, c mediumint, d bigint unsigned, e float, f double,
  g decimal(20,6), i date, j datetime(3), k timestamp(6) null, l time(2), m year, n char(10), o varchar(300),
  p text, q binary(16), r varbinary(20), s blob, t enum('x','y','z'), u set('p','q','r'), v bit(11), w json, x geometry,
  y inet6, z uuid) character set utf8mb4;
insert into every values (1, -128, 65535, -8388608, 18446744073709551615, -1.5e-30, 1.7976931348623157e308,
  99999999999999.999999, '9999-12-31', '9999-12-31 23:59:59.999', '2038-01-19 03:14:07.999999', '-838:59:59', 2155, 'grün',
  repeat('long', 70), 'text', 'ab', 'cd', x'00ff', 'z', 'p,r', b'10101010101', '{"a": [1, 2.5]}',
  st_geomfromtext('point(1 -2)'), '::ffff:1.2.3.4', '123e4567-e89b-12d3-a456-426655440000');
insert into every (id, p) values (2, repeat('compressed', 500)), (3, null);
update every set a = 7, p = repeat('again', 800) where id in (2, 3);
update every set id = 20 where id = 3;
start transaction;
insert into every (id, n) values (30, 'a'), (31, 'b');
delete from every where id > 20;
commit;
delete from every where id = 1;
alter table every add column yy int not null default 5 comment 'it''s';
truncate table every;
set session binlog_row_image = minimal;
insert into every (id, a) values (40, 1);
update every set a = 2 where id = 40;
delete from every where id = 40;
