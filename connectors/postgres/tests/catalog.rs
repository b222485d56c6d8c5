//! Tables, indexes, foreign keys, sequences and schema changes on real servers, under names of every kind; and every
//! finding of the preflight check.

use std::sync::Arc;

use crossfade_core::batch::SchemaStep;
use crossfade_core::{
    Class, Column, Endpoint, Error, Exit, Finding, ForeignKey, Index, Level, Logical, SchemaChange, TableName,
    TableSchema,
};
use crossfade_harness::{Database, Options, PASSWORD, PgVersion, Postgres};
use crossfade_postgres::connect::Server;
use crossfade_postgres::{check, classify, ddl, finish};
use tokio::runtime::Runtime;
use tokio_postgres::Client;

const BOTH: [PgVersion; 2] = [PgVersion::V15, PgVersion::V18];

fn column(name: &str, logical: Logical) -> Column {
    Column {
        name: name.into(),
        source_type: "x".into(),
        logical,
        nullable: true,
        auto_increment: false,
        number: 0,
        policies: Default::default(),
    }
}

fn numbered(name: &str, logical: Logical) -> Column {
    Column { nullable: false, auto_increment: true, ..column(name, logical) }
}

fn table(schema: &str, name: &str, columns: Vec<Column>) -> TableSchema {
    TableSchema {
        name: TableName::new(schema, name),
        version: 1,
        columns,
        key: vec![0],
        indexes: vec![],
        foreign_keys: vec![],
        origin: None,
        pending: vec![],
        number: 0,
    }
}

fn index(name: &str, columns: &[usize], unique: bool) -> Index {
    Index { name: name.into(), columns: columns.into(), unique }
}

fn reference(name: &str, column: usize, to: &TableName, to_column: &str) -> ForeignKey {
    ForeignKey {
        name: name.into(),
        columns: vec![column],
        to: to.clone(),
        to_columns: vec![to_column.into()],
        on_delete: "CASCADE".into(),
        on_update: "NO ACTION".into(),
    }
}

/// A session on a database.
struct Session {
    server: Server,
    client: Client,
    _runtime: Runtime,
}

impl Session {
    fn new(url: &str) -> Session {
        let runtime = Runtime::new().unwrap();
        let server = Server::new(&Endpoint::new(url, None), runtime.handle().clone()).unwrap();
        let client = server.block_on(server.client()).unwrap();
        Session { server, client, _runtime: runtime }
    }

    fn prepare(&self, table: &TableSchema) -> Result<(), Error> {
        self.server.block_on(ddl::prepare(&self.client, table, ddl::Key::ToCome))
    }

    fn finish(&self, tables: &[Arc<TableSchema>]) -> Result<(), Error> {
        self.server.block_on(finish::finish_copy(&self.client, tables))
    }

    fn check(&self, tables: &[&TableSchema]) -> Vec<Finding> {
        let tables: Vec<_> = tables.iter().map(|t| Arc::new((*t).clone())).collect();
        self.server.block_on(check::check(&self.client, "p", &tables)).unwrap()
    }
}

fn indexes(database: &Database) -> String {
    database.sql("select tablename || '.' || indexname from pg_indexes where schemaname not like 'pg%' and schemaname <> 'crossfade' order by 1")
}

#[test]
fn odd_names_and_running_everything_twice() {
    let long = "é".repeat(31);
    for version in BOTH {
        let database = Postgres::shared(version).fresh_database("ddl");
        let session = Session::new(&database.url());
        let mut tables = Vec::new();
        for (schema, name) in [("select", "order"), ("My \"shop\"", "it's\\🦀"), (long.as_str(), long.as_str())] {
            let mut t = table(
                schema,
                name,
                vec![
                    numbered("id", Logical::Int32),
                    column("group", Logical::Text),
                    column("a\"b'c\\d🦀", Logical::Int64),
                    column(&long, Logical::Int32),
                ],
            );
            t.indexes = vec![
                index("group", &[1], false),
                index(&long, &[1, 2], true),
                index(&"x".repeat(80), &[3], false),
                index("\"quoted\"", &[2, 1], false),
            ];
            t.foreign_keys = vec![reference(&"f".repeat(90), 3, &t.name, "id")];
            tables.push(Arc::new(t));
        }
        for t in &tables {
            session.prepare(t).unwrap();
            database.sql(&format!(
                "insert into {} values (41, 'a', 1, 41), (7, null, 2, 41)",
                crossfade_postgres::quote::table(&t.name)
            ));
        }
        session.finish(&tables).unwrap();
        let first = indexes(&database);
        assert_eq!(first.lines().count(), 3 * 5, "{first}");
        for t in &tables {
            session.prepare(t).unwrap();
        }
        session.finish(&tables).unwrap();
        assert_eq!(indexes(&database), first);
        let valid =
            database.sql("select count(*) from pg_constraint where contype = 'f' and convalidated and condeferrable");
        assert_eq!(valid, "3");
        for t in &tables {
            let name = crossfade_postgres::quote::table(&t.name);
            assert_eq!(database.sql(&format!("insert into {name} (\"group\") values ('n') returning id")), "42");
        }
    }
}

#[test]
fn index_names_do_not_depend_on_order() {
    let build = |reversed: bool| {
        let database = Postgres::shared(PgVersion::V15).fresh_database("names");
        let session = Session::new(&database.url());
        database.sql("create schema shop; create view shop.taken as select 1");
        let with = |name: &str, indexes: Vec<Index>| {
            let columns = vec![column("id", Logical::Int32), column("x", Logical::Int32), column("y", Logical::Int32)];
            Arc::new(TableSchema { indexes, ..table("shop", name, columns) })
        };
        let mut tables = vec![
            with("a", vec![index("idx", &[1], false), index("b_c", &[2], false), index("b", &[1, 2], false)]),
            with("b", vec![index("idx", &[1], true), index("taken", &[2], false)]),
            with("a_b", vec![index("c", &[1], false), index("a_b_c", &[2], false)]),
        ];
        if reversed {
            tables.reverse();
        }
        tables.iter().for_each(|t| session.prepare(t).unwrap());
        session.finish(&tables).unwrap();
        let names = indexes(&database);
        session.finish(&tables).unwrap();
        assert_eq!(indexes(&database), names);
        names
    };
    let names = build(false);
    assert_eq!(names, build(true));
    for wanted in ["a.a_idx", "b.b_idx", "b.b_taken", "a.b_c", "a_b.c", "a_b.a_b_c", "a.a_b_"] {
        assert!(
            names.lines().any(|l| l == wanted || (wanted == "a.a_b_" && l.starts_with(wanted))),
            "{wanted}: {names}"
        );
    }
    assert_eq!(names.lines().count(), 3 + 7);
}

#[test]
fn sequences_go_on_after_the_largest() {
    let database = Postgres::shared(PgVersion::V18).fresh_database("seq");
    let session = Session::new(&database.url());
    let tables: Vec<Arc<TableSchema>> = [
        ("empty", Logical::Int64),
        ("negative", Logical::Int16),
        ("unsigned", Logical::UInt64),
        ("some", Logical::Int32),
        ("float", Logical::Float64),
        ("spent", Logical::UInt64),
    ]
    .into_iter()
    .map(|(name, logical)| Arc::new(table("s", name, vec![numbered("id", logical), column("x", Logical::Text)])))
    .collect();
    tables.iter().for_each(|t| session.prepare(t).unwrap());
    database.sql(
        "insert into s.negative values (-5); insert into s.unsigned values (9000000000); \
         insert into s.some values (99), (3); insert into s.float values (7); \
         insert into s.spent values (18446744073709551615)",
    );
    session.finish(&tables).unwrap();
    session.finish(&tables).unwrap();
    for (name, next) in [("empty", "1"), ("negative", "1"), ("unsigned", "9000000001"), ("some", "100"), ("float", "8")]
    {
        assert_eq!(database.sql(&format!("insert into s.{name} (x) values ('n') returning id")), next, "{name}");
    }
    let spent = database.try_sql("insert into s.spent (x) values ('n')").unwrap_err();
    assert!(spent.contains("reached maximum value"), "{spent}");
    let refused = ddl::create(&table("s", "t", vec![numbered("id", Logical::Text)])).unwrap_err();
    assert_eq!(refused.exit(), Exit::Config);
}

#[test]
fn an_existing_table_of_another_shape_lists_every_difference() {
    let database = Postgres::shared(PgVersion::V15).fresh_database("shape");
    let session = Session::new(&database.url());
    database.sql(
        "create schema s; create domain s.email as varchar(50);
         create table s.bad (id int generated always as identity, n smallint, w varchar(10), g int generated always as (1) stored, \
             must int not null, extra int not null, fine int not null default 1, code int primary key);
         create table s.good (id bigint, x jsonb, e s.email, unique (id));
         create view s.view as select 1 as id",
    );
    let text = |name: &str, n: u32| Column { source_type: format!("varchar({n})"), ..column(name, Logical::Text) };
    let bad = table(
        "s",
        "bad",
        vec![
            column("id", Logical::Int32),
            column("n", Logical::Int32),
            text("w", 40),
            column("g", Logical::Int32),
            column("must", Logical::Int32),
            column("gone", Logical::Date),
        ],
    );
    let error = session.prepare(&bad).unwrap_err();
    assert_eq!(error.class(), &Class::Fatal(Exit::Config));
    for part in [
        "column id: expected GENERATED BY DEFAULT",
        "column n: expected integer, found smallint",
        "column w: expected text, found character varying(10)",
        "column g: expected a column that can be written",
        "column must: expected NULL admitted",
        "column gone: expected date, found no such column",
        "column extra: expected a default",
        "column code: expected a default",
        "key: expected a primary key or unique index on (id), found primary key (code)",
    ] {
        assert!(error.to_string().contains(part), "{part}: {error}");
    }
    assert!(!error.to_string().contains("fine"), "{error}");
    // The fixes are statements that work.
    database.sql(error.hint_text().unwrap());
    session.prepare(&bad).unwrap();

    let good = table("s", "good", vec![column("id", Logical::Int32), column("x", Logical::Json), text("e", 50)]);
    session.prepare(&good).unwrap();
    let view = session.prepare(&table("s", "view", vec![column("id", Logical::Int32)])).unwrap_err();
    assert!(view.to_string().contains("expected a table, found relkind v"), "{view}");
    let long = session.prepare(&table("s", &"n".repeat(64), vec![column("id", Logical::Int32)])).unwrap_err();
    assert!(long.to_string().contains("has 64 bytes"), "{long}");
    assert!(ddl::create(&table("s", "t", vec![column("xmin", Logical::Int32)])).is_err());
}

#[test]
fn foreign_keys_that_cannot_be_and_rows_that_refer_to_nothing() {
    let database = Postgres::shared(PgVersion::V18).fresh_database("fk");
    let session = Session::new(&database.url());
    let parent = table("s", "parent", vec![column("id", Logical::Int64), column("loose", Logical::Int32)]);
    let mut child = table("s", "child", vec![column("id", Logical::Int32), column("p", Logical::Int32)]);
    child.foreign_keys = vec![
        reference("good", 1, &parent.name, "id"),
        reference("loose", 1, &parent.name, "loose"),
        reference("elsewhere", 1, &TableName::new("s", "not_carried"), "id"),
    ];
    let findings = session.check(&[&child, &parent]);
    let warned: Vec<&str> =
        findings.iter().filter(|f| f.setting.contains("foreign key")).map(|f| f.setting.as_str()).collect();
    assert_eq!(warned, ["table s.child, foreign key loose", "table s.child, foreign key elsewhere"]);
    let tables = [Arc::new(child), Arc::new(parent)];
    tables.iter().for_each(|t| session.prepare(t).unwrap());
    database.sql("insert into s.child values (1, 5)");
    let error = session.finish(&tables).unwrap_err();
    let Class::Data(place) = error.class() else { panic!("{error:?}") };
    assert_eq!(place.table, "s.child");
    database.sql("insert into s.parent values (5)");
    session.finish(&tables).unwrap();
    let keys = "select conname, convalidated from pg_constraint where contype = 'f' and conrelid = 's.child'::regclass";
    assert_eq!(database.sql(keys), "good\tt");
    database.sql("delete from s.parent");
    assert_eq!(database.sql("select count(*) from s.child"), "0", "the action is the source's: CASCADE");
}

#[test]
fn schema_changes() {
    let database = Postgres::shared(PgVersion::V15).fresh_database("alter");
    let session = Session::new(&database.url());
    let from = Arc::new(table(
        "s",
        "t",
        vec![column("id", Logical::Int32), column("old", Logical::Text), column("n", Logical::Int16)],
    ));
    session.prepare(&from).unwrap();
    database.sql("insert into s.t values (1, 'x', 5)");
    let to = Arc::new(table(
        "s",
        "t",
        vec![
            column("key", Logical::Int32),
            column("n", Logical::Int64),
            Column { nullable: false, ..column("it's", Logical::Text) },
            column("raw", Logical::Bytes),
            column("none", Logical::Date),
        ],
    ));
    let add = |column: &str, fill: Option<&str>| SchemaStep::Add { column: column.into(), fill: fill.map(Into::into) };
    let steps = vec![
        SchemaStep::Rename { from: "id".into(), to: "key".into() },
        SchemaStep::Drop { column: "old".into() },
        add("it's", Some("o'clock\\")),
        add("raw", Some("é")),
        add("none", None),
    ];
    let change = SchemaChange { from: Arc::clone(&from), to: Arc::clone(&to), steps };
    session.server.block_on(ddl::alter(&session.client, &change)).unwrap();
    assert_eq!(database.sql("select key, n, \"it's\", raw, none from s.t"), "1\t5\to'clock\\\t\\xc3a9\tNULL");
    session.prepare(&to).unwrap();
    let refused = database.try_sql("insert into s.t (key) values (2)").unwrap_err();
    assert!(refused.contains("not-null"), "the fill is no default: {refused}");

    let refuse = |to: TableSchema, steps: Vec<SchemaStep>, why: &str| {
        let change = SchemaChange { from: Arc::clone(&from), to: Arc::new(to), steps };
        let error = ddl::alterations(&change, None).unwrap_err();
        assert!(matches!(error.class(), Class::Data(_)) && error.to_string().contains(why), "{error:?}");
    };
    let base =
        |logical: Logical| vec![column("id", Logical::Int32), column("old", Logical::Text), column("n", logical)];
    refuse(TableSchema { key: vec![1], ..table("s", "t", base(Logical::Int16)) }, vec![], "its key changed");
    refuse(table("s", "t", base(Logical::Date)), vec![], "its type changed");
    refuse(table("s", "u", base(Logical::Int16)), vec![], "renamed tables");
    refuse(table("s", "t", vec![column("id", Logical::Int32)]), vec![], "no step says so");
    let mut more = base(Logical::Int16);
    more.push(numbered("auto", Logical::Int32));
    refuse(table("s", "t", more), vec![add("auto", None)], "have been numbered");
}

fn found<'a>(findings: &'a [Finding], setting: &str) -> &'a Finding {
    findings.iter().find(|f| f.setting == setting).unwrap_or_else(|| panic!("no {setting} in {findings:#?}"))
}

#[test]
fn a_superuser_on_an_empty_database_has_nothing_to_mend() {
    for version in BOTH {
        let database = Postgres::shared(version).fresh_database("check");
        let session = Session::new(&database.url());
        let findings = session.check(&[&table("s", "t", vec![column("id", Logical::Int32)])]);
        assert!(findings.len() >= 6 && findings.iter().all(|f| f.level == Level::Ok), "{findings:#?}");
    }
}

#[test]
fn a_user_without_privileges_is_told_each_grant() {
    for version in BOTH {
        let pg = Postgres::shared(version);
        let database = pg.fresh_database("check");
        let user = format!("{}_user", database.name());
        database.sql(&format!(
            "create role {user} login password '{PASSWORD}'; create schema closed; create schema s; \
             revoke temporary on database {} from public; \
             grant usage on schema s to {user}; create table s.t (id int primary key); grant select, insert on s.t to {user}; \
             create table closed.t (id int primary key); create function s.f() returns trigger language plpgsql as 'begin return new; end'; \
             create trigger noisy before insert on s.t for each row execute function s.f()",
            database.name()
        ));
        let session = Session::new(&pg.url_as(&user, PASSWORD, database.name()));
        let id = || vec![column("id", Logical::Int32)];
        let (there, closed) = (table("s", "t", id()), table("closed", "t", id()));
        let (unmade, nowhere) = (table("s", "new", id()), table("nowhere", "t", id()));
        let all = [&there, &closed, &unmade, &nowhere];
        let findings = session.check(&all);
        for (setting, level, fix) in [
            ("schema crossfade", Level::Critical, "CREATE SCHEMA crossfade AUTHORIZATION"),
            ("table s.t", Level::Critical, "GRANT UPDATE, DELETE ON TABLE \"s\".\"t\""),
            ("schema closed", Level::Critical, "GRANT USAGE ON SCHEMA \"closed\""),
            ("table closed.t", Level::Critical, "GRANT SELECT, INSERT, UPDATE, DELETE"),
            ("schema s", Level::Critical, "GRANT USAGE, CREATE ON SCHEMA \"s\""),
            (&format!("database {}", database.name()), Level::Critical, "GRANT TEMPORARY ON DATABASE"),
            ("schema nowhere", Level::Critical, "GRANT CREATE ON DATABASE"),
            ("session_replication_role", Level::Warning, "GRANT SET ON PARAMETER session_replication_role"),
        ] {
            let finding = found(&findings, setting);
            assert_eq!(finding.level, level, "{finding:?}");
            assert!(finding.fix.starts_with(fix), "{finding:?}");
        }
        let owner =
            findings.iter().find(|f| f.fix.starts_with("ALTER TABLE \"s\".\"t\" OWNER")).expect("the owner is named");
        assert_eq!(owner.level, Level::Warning);
        let triggers = findings.iter().find(|f| f.actual.contains("noisy")).expect("the trigger is named");
        assert_eq!(triggers.level, Level::Warning);
        // Writing runs into the same wall, with the same way out.
        let refused = session.server.block_on(session.client.batch_execute("DELETE FROM s.t")).unwrap_err();
        let refused = classify(refused);
        assert_eq!(refused.exit(), Exit::Unavailable);
        assert!(refused.hint_text().unwrap().contains("DELETE"), "{refused:?}");

        for finding in findings.iter().filter(|f| f.level != Level::Ok) {
            database.sql(&finding.fix.replace(", until the cutover", ""));
        }
        let findings = session.check(&all);
        assert!(findings.iter().all(|f| f.level == Level::Ok), "{findings:#?}");
        drop(session);
        database.sql(&format!("drop owned by {user} cascade; revoke all on parameter session_replication_role from {user}; drop role {user}"));
    }
}

#[test]
fn rows_without_a_checkpoint_shapes_and_settings() {
    let database = Postgres::shared(PgVersion::V15).fresh_database("check");
    let session = Session::new(&database.url());
    database.sql("create schema s; create table s.t (id int primary key, x smallint); insert into s.t values (1)");
    let t = table("s", "t", vec![column("id", Logical::Int32), column("x", Logical::Int32)]);
    let own = table("s", "own", vec![numbered("id", Logical::Int32)]);
    database.sql("create table s.own (id int primary key)");
    let unnumbered = session.check(&[&own]);
    let finding = found(&unnumbered, "table s.own, column id");
    assert_eq!(finding.level, Level::Warning);
    database.sql(&finding.fix);
    assert!(session.check(&[&own]).iter().all(|f| f.level == Level::Ok));
    let findings = session.check(&[&t]);
    let shape = found(&findings, "table s.t, column x");
    assert_eq!(
        (shape.level, shape.fix.as_str()),
        (Level::Critical, "ALTER TABLE \"s\".\"t\" ALTER COLUMN \"x\" TYPE integer")
    );
    assert_eq!(found(&findings, "table s.t").actual, "it holds rows");
    database.sql(crossfade_postgres::CONTROL_SQL);
    assert_eq!(found(&session.check(&[&t]), "table s.t").level, Level::Critical);
    let shape = serde_json::to_string(&t).unwrap();
    database.sql(&format!(
        "insert into crossfade.checkpoint (pipeline, seq, phase, epoch, owner, tables) \
         values ('p', 0, 'copying', 1, '{{\"pipeline\": \"p\", \"host\": \"h\", \"pid\": 1}}', '[{shape}]')",
    ));
    assert!(!session.check(&[&t]).iter().any(|f| f.actual == "it holds rows"));
    let odd = table("s", &"n".repeat(70), vec![column("id", Logical::Int32)]);
    assert!(session.check(&[&odd]).iter().any(|f| f.level == Level::Critical && f.actual.contains("has 70 bytes")));

    let options = Options::new().set("max_wal_size", "64MB");
    let pg = Postgres::start(PgVersion::V18, options);
    pg.sql("postgres", "create database latin encoding 'LATIN1' locale 'C' template template0");
    let session = Session::new(&pg.url("latin"));
    let findings = session.check(&[]);
    assert_eq!(found(&findings, "server_encoding").level, Level::Critical);
    assert_eq!(found(&findings, "max_wal_size").level, Level::Warning);
}
