-- What Crossfade installs beside sqlite-control.sql for one table, here with number 1 in _crossfade_table:
--
-- CREATE TABLE orders (
--     id INTEGER PRIMARY KEY,
--     number TEXT NOT NULL UNIQUE COLLATE NOCASE,
--     total DECIMAL(10, 2)
-- )
--
-- Entries of the log are observations of the table, not copies of NEW and OLD; connectors/sqlite/src/triggers.rs
-- says why, and what the touched tables are for.

CREATE TABLE _crossfade_touched_1_0 (k0 INTEGER, b0 INTEGER);

CREATE INDEX _crossfade_touched_1_0_u ON _crossfade_touched_1_0 (k0);

CREATE INDEX _crossfade_touched_1_0_b ON _crossfade_touched_1_0 (b0);

CREATE TABLE _crossfade_touched_1_1 (u0 TEXT COLLATE NOCASE, k0, b0);

CREATE INDEX _crossfade_touched_1_1_u ON _crossfade_touched_1_1 (u0);

CREATE INDEX _crossfade_touched_1_1_b ON _crossfade_touched_1_1 (b0);

CREATE TRIGGER _crossfade_1_bi BEFORE INSERT ON "orders" BEGIN
  INSERT INTO _crossfade_touched_1_0(k0, b0) SELECT _r."id", NULL FROM "orders" AS _r WHERE _r."id" = NEW."id" COLLATE BINARY AND NOT EXISTS (SELECT 1 FROM _crossfade_touched_1_0 AS _x WHERE _x.k0 = _r."id" AND _x.b0 IS NULL);
  INSERT INTO _crossfade_touched_1_1(u0, k0, b0) SELECT _r."number", _r."id", NULL FROM "orders" AS _r WHERE _r."number" = NEW."number" COLLATE NOCASE AND NOT EXISTS (SELECT 1 FROM _crossfade_touched_1_1 AS _x WHERE _x.u0 = NEW."number" COLLATE NOCASE AND _x.k0 IS _r."id" AND _x.b0 IS NULL);
END;

CREATE TRIGGER _crossfade_1_ai AFTER INSERT ON "orders" BEGIN
  INSERT INTO _crossfade_change(t, op, at, c0) SELECT 1, 3, julianday('now'), k0 FROM (SELECT k0 FROM _crossfade_touched_1_0 WHERE k0 = NEW."id" COLLATE BINARY AND ((_crossfade_touched_1_0.k0 IS NEW."id") OR NOT EXISTS (SELECT 1 FROM "orders" AS _e WHERE _e."id" = _crossfade_touched_1_0.k0)) UNION SELECT k0 FROM _crossfade_touched_1_1 WHERE u0 = NEW."number" COLLATE NOCASE AND ((_crossfade_touched_1_1.k0 IS NEW."id") OR NOT EXISTS (SELECT 1 FROM "orders" AS _e WHERE _e."id" = _crossfade_touched_1_1.k0)));
  DELETE FROM _crossfade_touched_1_0 WHERE k0 = NEW."id" COLLATE BINARY AND ((_crossfade_touched_1_0.k0 IS NEW."id") OR NOT EXISTS (SELECT 1 FROM "orders" AS _e WHERE _e."id" = _crossfade_touched_1_0.k0));
  DELETE FROM _crossfade_touched_1_1 WHERE u0 = NEW."number" COLLATE NOCASE AND ((_crossfade_touched_1_1.k0 IS NEW."id") OR NOT EXISTS (SELECT 1 FROM "orders" AS _e WHERE _e."id" = _crossfade_touched_1_1.k0));
  INSERT INTO _crossfade_change(t, op, at, c0, c1, c2) SELECT 1, 1, julianday('now'), _r."id", _r."number", _r."total" FROM "orders" AS _r WHERE _r."id" = NEW."id";
  INSERT INTO _crossfade_touched_1_0(k0) SELECT _r."id" FROM "orders" AS _r WHERE _r."id" = NEW."id" AND (EXISTS (SELECT 1 FROM _crossfade_touched_1_0) OR EXISTS (SELECT 1 FROM _crossfade_touched_1_1));
  INSERT INTO _crossfade_touched_1_1(u0, k0) SELECT _r."number", _r."id" FROM "orders" AS _r WHERE _r."id" = NEW."id" AND (EXISTS (SELECT 1 FROM _crossfade_touched_1_0) OR EXISTS (SELECT 1 FROM _crossfade_touched_1_1));
END;

CREATE TRIGGER _crossfade_1_bu BEFORE UPDATE ON "orders" WHEN NOT (NEW."id" IS OLD."id") OR NOT (NEW."number" IS OLD."number" COLLATE BINARY AND typeof(NEW."number") = typeof(OLD."number")) BEGIN
  INSERT INTO _crossfade_touched_1_0(k0, b0) SELECT _r."id", OLD."id" FROM "orders" AS _r WHERE _r."id" = NEW."id" COLLATE BINARY AND _r."id" <> OLD."id" AND NOT EXISTS (SELECT 1 FROM _crossfade_touched_1_0 AS _x WHERE _x.k0 = _r."id" AND _x.b0 IS OLD."id");
  INSERT INTO _crossfade_touched_1_1(u0, k0, b0) SELECT _r."number", _r."id", OLD."id" FROM "orders" AS _r WHERE _r."number" = NEW."number" COLLATE NOCASE AND _r."id" <> OLD."id" AND NOT EXISTS (SELECT 1 FROM _crossfade_touched_1_1 AS _x WHERE _x.u0 = NEW."number" COLLATE NOCASE AND _x.k0 IS _r."id" AND _x.b0 IS OLD."id");
END;

CREATE TRIGGER _crossfade_1_au AFTER UPDATE ON "orders" WHEN NOT (NEW."id" IS OLD."id") OR NOT (NEW."number" IS OLD."number" COLLATE BINARY AND typeof(NEW."number") = typeof(OLD."number")) BEGIN
  INSERT INTO _crossfade_change(t, op, at, c0) SELECT 1, 3, julianday('now'), k0 FROM (SELECT k0 FROM _crossfade_touched_1_0 WHERE k0 = NEW."id" COLLATE BINARY AND ((NOT (OLD."id" IS NEW."id") AND _crossfade_touched_1_0.k0 IS NEW."id") OR NOT EXISTS (SELECT 1 FROM "orders" AS _e WHERE _e."id" = _crossfade_touched_1_0.k0)) UNION SELECT k0 FROM _crossfade_touched_1_1 WHERE u0 = NEW."number" COLLATE NOCASE AND ((NOT (OLD."id" IS NEW."id") AND _crossfade_touched_1_1.k0 IS NEW."id") OR NOT EXISTS (SELECT 1 FROM "orders" AS _e WHERE _e."id" = _crossfade_touched_1_1.k0)));
  DELETE FROM _crossfade_touched_1_0 WHERE k0 = NEW."id" COLLATE BINARY AND ((NOT (OLD."id" IS NEW."id") AND _crossfade_touched_1_0.k0 IS NEW."id") OR NOT EXISTS (SELECT 1 FROM "orders" AS _e WHERE _e."id" = _crossfade_touched_1_0.k0));
  DELETE FROM _crossfade_touched_1_1 WHERE u0 = NEW."number" COLLATE NOCASE AND ((NOT (OLD."id" IS NEW."id") AND _crossfade_touched_1_1.k0 IS NEW."id") OR NOT EXISTS (SELECT 1 FROM "orders" AS _e WHERE _e."id" = _crossfade_touched_1_1.k0));
  INSERT INTO _crossfade_change(t, op, at, c0) SELECT 1, 3, julianday('now'), OLD."id" WHERE NOT (OLD."id" IS NEW."id") AND NOT EXISTS (SELECT 1 FROM "orders" AS _e WHERE _e."id" = OLD."id");
  INSERT INTO _crossfade_change(t, op, at, c0, c1, c2) SELECT 1, CASE WHEN OLD."id" IS NEW."id" THEN 2 ELSE 1 END, julianday('now'), _r."id", _r."number", _r."total" FROM "orders" AS _r WHERE _r."id" = NEW."id";
  INSERT INTO _crossfade_touched_1_0(k0) SELECT _r."id" FROM "orders" AS _r WHERE _r."id" = NEW."id" AND (EXISTS (SELECT 1 FROM _crossfade_touched_1_0) OR EXISTS (SELECT 1 FROM _crossfade_touched_1_1));
  INSERT INTO _crossfade_touched_1_1(u0, k0) SELECT _r."number", _r."id" FROM "orders" AS _r WHERE _r."id" = NEW."id" AND (EXISTS (SELECT 1 FROM _crossfade_touched_1_0) OR EXISTS (SELECT 1 FROM _crossfade_touched_1_1));
END;

CREATE TRIGGER _crossfade_1_av AFTER UPDATE ON "orders" WHEN NOT (NOT (NEW."id" IS OLD."id") OR NOT (NEW."number" IS OLD."number" COLLATE BINARY AND typeof(NEW."number") = typeof(OLD."number"))) BEGIN
  INSERT INTO _crossfade_change(t, op, at, c0, c1, c2) SELECT 1, 2, julianday('now'), _r."id", _r."number", _r."total" FROM "orders" AS _r WHERE _r."id" = NEW."id";
END;

CREATE TRIGGER _crossfade_1_ad AFTER DELETE ON "orders" BEGIN
  INSERT INTO _crossfade_change(t, op, at, c0) SELECT 1, 3, julianday('now'), k0 FROM (SELECT k0 FROM _crossfade_touched_1_0 WHERE _crossfade_touched_1_0.b0 IS OLD."id" AND NOT EXISTS (SELECT 1 FROM "orders" AS _e WHERE _e."id" = _crossfade_touched_1_0.k0) UNION SELECT k0 FROM _crossfade_touched_1_1 WHERE _crossfade_touched_1_1.b0 IS OLD."id" AND NOT EXISTS (SELECT 1 FROM "orders" AS _e WHERE _e."id" = _crossfade_touched_1_1.k0));
  DELETE FROM _crossfade_touched_1_0 WHERE _crossfade_touched_1_0.b0 IS OLD."id";
  DELETE FROM _crossfade_touched_1_1 WHERE _crossfade_touched_1_1.b0 IS OLD."id";
  INSERT INTO _crossfade_change(t, op, at, c0) SELECT 1, 3, julianday('now'), OLD."id" WHERE NOT EXISTS (SELECT 1 FROM "orders" AS _e WHERE _e."id" = OLD."id");
END;

