//! Random DDL and DML as a seed has it: what an application, its migrations and online-schema-change tools send to a server.
//!
//! It knows the tables it has made, so that each statement is one that the server carries out. Nothing here knows what of it
//! Crossfade follows.

/// A sequence of numbers that follows from a seed: SplitMix64.
#[derive(Debug, Clone)]
pub struct Dice(pub u64);

impl Dice {
    /// The next one.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.number() % end as u64) as usize
    }

    /// True once in so many times.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// Whose SQL it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    MySql,
    MariaDb,
    Postgres,
}

/// What columns may be, and what may be written into each. A later kind is wider than the one before where `wider` says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Small,
    Int,
    Big,
    Short,
    Long,
    Text,
    Money,
    Time,
}

const KINDS: [Kind; 8] =
    [Kind::Small, Kind::Int, Kind::Big, Kind::Short, Kind::Long, Kind::Text, Kind::Money, Kind::Time];

impl Kind {
    fn sql(self, sql: Dialect) -> &'static str {
        match self {
            Kind::Small => "smallint",
            Kind::Int => "int",
            Kind::Big => "bigint",
            Kind::Short => "varchar(20)",
            Kind::Long => "varchar(90)",
            Kind::Text => "text",
            Kind::Money => "decimal(12,2)",
            Kind::Time if sql == Dialect::Postgres => "timestamp(3)",
            Kind::Time => "datetime(3)",
        }
    }

    fn value(self, dice: &mut Dice) -> String {
        let null = dice.one_in(8);
        let value = self.filled(dice);
        if null { "null".to_owned() } else { value }
    }

    /// A value that is not NULL. Numbers fit into the narrowest kind.
    fn filled(self, dice: &mut Dice) -> String {
        let n = dice.below(20_000);
        match self {
            Kind::Small | Kind::Int | Kind::Big => n.to_string(),
            Kind::Short | Kind::Long | Kind::Text => format!("'v{n} é'"),
            Kind::Money => format!("{n}.{:02}", n % 100),
            Kind::Time => format!("'2024-02-29 12:{:02}:{:02}.{:03}'", n % 60, n % 59, n % 1000),
        }
    }

    /// A kind that holds all its values, the next wider one or quite another.
    fn wider(self, dice: &mut Dice) -> Kind {
        match self {
            Kind::Small => [Kind::Int, Kind::Big][dice.below(2)],
            Kind::Int => [Kind::Big, Kind::Text][dice.below(2)],
            Kind::Short => [Kind::Long, Kind::Text][dice.below(2)],
            Kind::Big | Kind::Long | Kind::Money | Kind::Time => Kind::Text,
            Kind::Text => Kind::Text,
        }
    }

    /// A kind that holds fewer values, but all that the columns here ever hold: what was text of times is longer than [`Kind::Short`].
    fn narrower(self, dice: &mut Dice) -> Kind {
        match self {
            Kind::Big => [Kind::Int, Kind::Small][dice.below(2)],
            Kind::Int => Kind::Small,
            Kind::Text => Kind::Long,
            Kind::Small | Kind::Short | Kind::Long | Kind::Money | Kind::Time => self,
        }
    }
}

#[derive(Debug, Clone)]
struct Table {
    name: String,
    columns: Vec<(String, Kind)>,
    indexes: Vec<(String, String)>,
    /// Columns that are NOT NULL.
    required: Vec<String>,
    next: usize,
}

impl Table {
    fn value(&self, which: usize, dice: &mut Dice) -> String {
        let (column, kind) = &self.columns[which];
        if self.required.contains(column) { kind.filled(dice) } else { kind.value(dice) }
    }
}

/// A database and what is done to it.
#[derive(Debug)]
pub struct Shapes {
    sql: Dialect,
    dice: Dice,
    tables: Vec<Table>,
    /// Numbers for names that were never used before.
    fresh: usize,
}

impl Shapes {
    /// A few tables, not made yet.
    pub fn new(sql: Dialect, seed: u64) -> Self {
        Shapes { sql, dice: Dice(seed), tables: Vec::new(), fresh: 0 }
    }

    /// Statements that make the first tables and fill them.
    pub fn begin(&mut self) -> Vec<String> {
        let mut out = Vec::new();
        for n in 0..4 {
            out.extend(self.create(&format!("t{n}")));
            out.extend((0..3).map(|_| self.insert(n)));
        }
        out
    }

    /// The tables there are.
    pub fn tables(&self) -> Vec<String> {
        self.tables.iter().map(|t| t.name.clone()).collect()
    }

    /// Makes a table that is not there.
    pub fn create(&mut self, name: &str) -> Vec<String> {
        let count = 1 + self.dice.below(4);
        let columns: Vec<(String, Kind)> = (0..count).map(|_| self.column()).collect();
        let list: String = columns.iter().map(|(c, kind)| format!(", {c} {}", kind.sql(self.sql))).collect();
        self.tables.push(Table { name: name.to_owned(), columns, indexes: Vec::new(), required: Vec::new(), next: 1 });
        vec![format!("create table {name} (id int primary key{list})")]
    }

    /// Rows for a table, by name: what a change of shape waits for.
    pub fn touch(&mut self, name: &str) -> Option<String> {
        let at = self.tables.iter().position(|t| t.name == name)?;
        Some(self.insert(at))
    }

    /// What is done next: one statement, or several that belong together.
    pub fn step(&mut self) -> Vec<String> {
        if self.tables.is_empty() {
            let name = self.name("t");
            return self.create(&name);
        }
        let at = self.dice.below(self.tables.len());
        match self.dice.below(100) {
            0..70 => self.rows(at),
            70..78 => self.add(at),
            78..82 => self.drop_column(at),
            82..86 => self.rename_column(at),
            86..89 => self.retype(at),
            89..91 => self.require(at),
            91..93 => self.index(at),
            93 => {
                self.tables[at].next += 1; // keys are not used again: what follows is told from what was
                vec![format!("truncate table {}", self.tables[at].name)]
            }
            94 => self.rename(at),
            95 if self.tables.len() > 2 => vec![format!("drop table {}", self.tables.remove(at).name)],
            96 => {
                let name = self.name("t");
                self.create(&name)
            }
            _ => self.online(at),
        }
    }

    fn name(&mut self, prefix: &str) -> String {
        self.fresh += 1;
        format!("{prefix}_{}", self.fresh)
    }

    fn column(&mut self) -> (String, Kind) {
        (self.name("c"), KINDS[self.dice.below(KINDS.len())])
    }

    fn insert(&mut self, at: usize) -> String {
        let table = &mut self.tables[at];
        let count = 1 + self.dice.below(4);
        let rows: Vec<String> = (0..count)
            .map(|_| {
                table.next += 1;
                let cells: String =
                    (0..table.columns.len()).map(|c| format!(", {}", table.value(c, &mut self.dice))).collect();
                format!("({}{cells})", table.next)
            })
            .collect();
        let columns: String = table.columns.iter().map(|(c, _)| format!(", {c}")).collect();
        format!("insert into {} (id{columns}) values {}", table.name, rows.join(", "))
    }

    /// A transaction of several tables.
    fn rows(&mut self, at: usize) -> Vec<String> {
        let mut out = vec!["begin".to_owned(), self.insert(at)];
        for _ in 0..self.dice.below(5) {
            let at = self.dice.below(self.tables.len());
            let (name, next) = (self.tables[at].name.clone(), self.tables[at].next.max(2));
            let id = 1 + self.dice.below(next);
            out.push(match self.dice.below(4) {
                0 => format!("delete from {name} where id = {id}"),
                1 => self.insert(at),
                _ if self.tables[at].columns.is_empty() => format!("delete from {name} where id = {id}"),
                _ => {
                    let which = self.dice.below(self.tables[at].columns.len());
                    let column = self.tables[at].columns[which].0.clone();
                    let value = self.tables[at].value(which, &mut self.dice);
                    format!("update {name} set {column} = {value} where id between {id} and {}", id + 3)
                }
            });
        }
        out.push("commit".to_owned());
        out
    }

    fn add(&mut self, at: usize) -> Vec<String> {
        let (column, kind) = self.column();
        let mut clause = format!("add column {column} {}", kind.sql(self.sql));
        if self.dice.one_in(3) && kind != Kind::Text {
            let value = kind.value(&mut self.dice);
            clause.push_str(&format!(" default {value}"));
        }
        let place = self.dice.below(self.tables[at].columns.len() + 1);
        let table = &mut self.tables[at];
        if self.sql != Dialect::Postgres && self.dice.one_in(3) && place < table.columns.len() {
            clause.push_str(&format!(" after {}", table.columns[place].0));
        }
        if self.sql != Dialect::Postgres && self.dice.one_in(2) {
            clause.push_str(", algorithm=instant");
        }
        table.columns.push((column, kind));
        vec![format!("alter table {} {clause}", table.name)]
    }

    fn drop_column(&mut self, at: usize) -> Vec<String> {
        let table = &mut self.tables[at];
        if table.columns.is_empty() {
            return self.rows(at);
        }
        let (column, _) = table.columns.remove(self.dice.below(table.columns.len()));
        table.indexes.retain(|(_, on)| *on != column);
        table.required.retain(|c| *c != column);
        vec![format!("alter table {} drop column {column}", table.name)]
    }

    fn rename_column(&mut self, at: usize) -> Vec<String> {
        let new = self.name("c");
        let table = &mut self.tables[at];
        if table.columns.is_empty() {
            return self.rows(at);
        }
        let which = self.dice.below(table.columns.len());
        let old = std::mem::replace(&mut table.columns[which].0, new.clone());
        table.indexes.iter_mut().filter(|(_, on)| *on == old).for_each(|(_, on)| new.clone_into(on));
        table.required.iter_mut().filter(|c| **c == old).for_each(|c| new.clone_into(c));
        vec![format!("alter table {} rename column {old} to {new}", table.name)]
    }

    fn retype(&mut self, at: usize) -> Vec<String> {
        let table = &mut self.tables[at];
        if table.columns.is_empty() {
            return self.rows(at);
        }
        let which = self.dice.below(table.columns.len());
        let was = table.columns[which].1;
        let narrow = self.dice.one_in(3);
        let other = if narrow { was.narrower(&mut self.dice) } else { was.wider(&mut self.dice) };
        let column = table.columns[which].0.clone();
        // MySQL has no index on a text without a length.
        if table.indexes.iter().any(|(_, on)| *on == column) || was == other {
            return self.rows(at);
        }
        table.columns[which].1 = other;
        if self.sql != Dialect::Postgres {
            table.required.retain(|c| *c != column); // MODIFY says all there is of a column
        }
        let (name, kind) = (&table.name, other.sql(self.sql));
        // A default of the old kind may not be one of the new.
        vec![match self.sql {
            Dialect::Postgres => {
                format!(
                    "alter table {name} alter {column} drop default, alter {column} type {kind} using {column}::{kind}"
                )
            }
            Dialect::MySql | Dialect::MariaDb => format!("alter table {name} modify {column} {kind}"),
        }]
    }

    /// SET NOT NULL, with values for rows that have none, or DROP NOT NULL.
    fn require(&mut self, at: usize) -> Vec<String> {
        if self.tables[at].columns.is_empty() {
            return self.rows(at);
        }
        let which = self.dice.below(self.tables[at].columns.len());
        let table = &mut self.tables[at];
        let ((column, kind), name) = (table.columns[which].clone(), table.name.clone());
        let drops = table.required.contains(&column);
        let alter = match (self.sql, drops) {
            (Dialect::Postgres, true) => format!("alter table {name} alter {column} drop not null"),
            (Dialect::Postgres, false) => format!("alter table {name} alter {column} set not null"),
            (_, true) => format!("alter table {name} modify {column} {} null", kind.sql(self.sql)),
            (_, false) => format!("alter table {name} modify {column} {} not null", kind.sql(self.sql)),
        };
        if drops {
            table.required.retain(|c| *c != column);
            return vec![alter];
        }
        table.required.push(column.clone());
        let value = kind.filled(&mut self.dice);
        vec![format!("update {name} set {column} = {value} where {column} is null"), alter]
    }

    fn index(&mut self, at: usize) -> Vec<String> {
        let new = self.name("i");
        let table = &mut self.tables[at];
        if !table.indexes.is_empty() && self.dice.one_in(2) {
            let (name, _) = table.indexes.remove(0);
            return vec![match self.sql {
                Dialect::Postgres => format!("drop index {name}"),
                Dialect::MySql | Dialect::MariaDb => format!("drop index {name} on {}", table.name),
            }];
        }
        match table.columns.iter().find(|(_, kind)| *kind != Kind::Text) {
            None => self.rows(at),
            Some((column, _)) => {
                table.indexes.push((new.clone(), column.clone()));
                vec![format!("create index {new} on {} ({column})", table.name)]
            }
        }
    }

    fn rename(&mut self, at: usize) -> Vec<String> {
        let new = self.name("t");
        let old = std::mem::replace(&mut self.tables[at].name, new.clone());
        vec![format!("alter table {old} rename to {new}")]
    }

    /// A table is copied beside itself in another shape, and takes its own place: gh-ost and pt-online-schema-change.
    fn online(&mut self, at: usize) -> Vec<String> {
        let (column, kind) = self.column();
        let table = &mut self.tables[at];
        let (name, kind_sql) = (table.name.clone(), kind.sql(self.sql));
        let (ghost, old) = (format!("_{name}_gho"), format!("_{name}_del"));
        let columns: String = table.columns.iter().map(|(c, _)| format!(", {c}")).collect();
        table.columns.push((column.clone(), kind));
        let fill = format!("insert into {ghost} (id{columns}) select id{columns} from {name}");
        let add = format!("alter table {ghost} add column {column} {kind_sql}");
        match self.sql {
            Dialect::Postgres => {
                table.indexes.clear(); // those of the copy have names of the server's making
                let like = format!("create table {ghost} (like {name} including all)");
                let swap = [
                    "begin".to_owned(),
                    format!("alter table {name} rename to {old}"),
                    format!("alter table {ghost} rename to {name}"),
                    "commit".to_owned(),
                ];
                [vec![like, add, fill], swap.to_vec(), vec![format!("drop table {old}")]].concat()
            }
            Dialect::MySql | Dialect::MariaDb => vec![
                format!("create table {ghost} like {name}"),
                add,
                fill,
                format!("rename table {name} to {old}, {ghost} to {name}"),
                format!("drop table {old}"),
            ],
        }
    }
}
