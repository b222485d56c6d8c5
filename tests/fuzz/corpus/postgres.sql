create type mood as enum ('ok', 'not ok');
create table every (id int primary key, a smallint, b bigint, c boolean, d real, e double precision, f numeric, g numeric(12,3),
  h numeric(60,20), i bytea, j uuid, k date, l time, m timestamp, n timestamptz, o bit(5), p json, q text, r char(5),
  s interval, t int[], u text[], v inet, w int4range, x tsvector, y point, z mood);
create table keyed (a text, b int, c text, primary key (a, b));
alter table keyed replica identity full;
alter table every alter column q set storage external;
create publication p for table every, keyed;
-- The slot is made here.
set timezone = 'UTC';
insert into every values (1, 32767, 9223372036854775807, true, 3.4028235e38, 1.7976931348623157e308, 'NaN', 999999999.999,
  9999999999999999999999999999999999999999.99999999999999999999, '\x00ff10', '01234567-89ab-cdef-0123-456789abcdef',
  '5874897-12-31', '24:00:00', '294246-12-31 23:59:59.999999', '294246-12-31 23:59:59.999999+00', '10101', '{"a" : 1.0}',
  E'a\tb\n''\\', 'ab', '1 year 2 mons 3 days -04:05:06.789', '{1,NULL,3}', '{"a,b","NULL",NULL,""}', '10.0.0.1/8', '[1,5)',
  'a:1 b', '(1.5,-2)', 'ok');
insert into every values (2, -32768, -9223372036854775808, false, '-Infinity', '-0', 'Infinity', -0.001,
  -0.00000000000000000001, '', null, '4714-11-24 BC', '00:00:00', '4714-11-24 00:00:00 BC', '-infinity', '00000', '[]',
  repeat('long', 1000), '', '00:00:00', '{}', '{{a,b},{c,d}}', '::1', 'empty', '', '(0,0)', 'not ok');
insert into every values (3, 0, 0, null, 'NaN', 1e-300, 12345678901234567890.12345678901234567890, 0, 1e39, null, null,
  '0001-01-01', '12:34:56.000001', '0001-12-31 23:59:59.5 BC', 'infinity');
begin;
update every set a = 5 where id = 2;
update every set id = 4 where id = 3;
delete from every where id = 1;
insert into keyed values ('x', 1, null), ('y', -1, 'grün');
update keyed set a = 'z' where b = 1;
delete from keyed where b = -1;
commit;
select 1 from pg_logical_emit_message(true, 'crossfade', 'a message');
alter table keyed add column d int default 7;
insert into keyed values ('n', 2, 'c', 8);
truncate every, keyed;
