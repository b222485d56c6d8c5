//! `demo`: the main job on an embedded default, no server needed.
//!
//! A small shop lives in SQLite and goes on selling all the while, through a stock SQLite connection that knows nothing
//! of Crossfade. The pipeline copies it into Parquet, follows it, and proves that both hold the same rows.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use crossfade_core::{Endpoint, Error, Phase, Result};
use rusqlite::Connection;

use super::{print, prove, runtime};
use crate::config;
use crate::pipeline::session::{Goal, Shared};
use crate::pipeline::{self, Conduct, Pipeline};
use crate::registry;
use crate::verify::{Proof, Verdict, fence};

/// See it work, without any server.
#[derive(Debug, Args)]
pub struct Demo {
    /// Where the shop and the lake go; must not exist yet [default: a new folder in the temporary folder]
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
    /// How long the shop goes on selling
    #[arg(long, value_name = "DURATION", default_value = "6s", value_parser = super::parse_duration)]
    sell: Duration,
}

const SHOP: &str = "
    PRAGMA journal_mode = WAL;
    CREATE TABLE customer (id INTEGER PRIMARY KEY, name TEXT NOT NULL, city TEXT);
    CREATE TABLE product (sku TEXT PRIMARY KEY, title TEXT NOT NULL, price DECIMAL(10,2) NOT NULL) WITHOUT ROWID;
    CREATE TABLE purchase (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        customer_id INTEGER NOT NULL REFERENCES customer (id),
        placed DATETIME NOT NULL,
        state TEXT NOT NULL);
    CREATE TABLE purchase_line (
        purchase_id INTEGER NOT NULL REFERENCES purchase (id),
        sku TEXT NOT NULL REFERENCES product (sku),
        quantity INTEGER NOT NULL,
        amount DECIMAL(10,2) NOT NULL,
        PRIMARY KEY (purchase_id, sku)) WITHOUT ROWID;
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
        INSERT INTO customer SELECT i, 'Customer ' || i, CASE WHEN i % 7 THEN 'City ' || (i % 50) END FROM n;
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300)
        INSERT INTO product SELECT printf('SKU-%04d', i), 'Product ' || i, (i * 37 % 9000 + 99) / 100.0 FROM n;
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
        INSERT INTO purchase SELECT i, i % 2000 + 1, datetime('2026-01-01', '+' || i || ' minutes'), 'paid' FROM n;
    INSERT INTO purchase_line
        SELECT p.id, s.sku, p.id % 5 + 1, round(s.price * (p.id % 5 + 1), 2)
        FROM purchase p JOIN product s ON s.sku IN
            (printf('SKU-%04d', p.id % 300 + 1), printf('SKU-%04d', (p.id * 7 + 13) % 300 + 1));
";

pub fn demo(args: &Demo) -> Result<u8> {
    let began = Instant::now();
    let folder = match &args.folder {
        Some(folder) => folder.clone(),
        None => std::env::temp_dir().join(format!("crossfade-demo-{}", std::process::id())),
    };
    std::fs::create_dir(&folder).map_err(|e| {
        Error::usage(format!("cannot create {}", folder.display()))
            .caused_by(e)
            .hint("give another place with --folder")
    })?;
    let folder = folder.canonicalize().map_err(|e| Error::unavailable("the demo's folder vanished").caused_by(e))?;
    let shop = folder.join("shop.db");
    let lake = folder.join("lake");

    open(&shop)?.execute_batch(SHOP).map_err(sql)?;
    println!("1. A shop in SQLite: {}", shop.display());
    println!("   2,000 customers, 300 products, 20,000 purchases; it goes on selling while we work.\n");

    let (from, to) = (format!("sqlite://{}", shop.display()), format!("file://{}", lake.display()));
    let mut config = config::from_urls(Some("demo"), &from, std::slice::from_ref(&to), &[])?;
    config.targets[0].policy.interval = Duration::from_secs(1);
    let runtime = runtime()?;
    let pipeline = registry::pipeline(&config, runtime.handle())?;
    println!("2. The same as: crossfade run --name demo \\\n       --from {from} \\\n       --to {to}\n");

    let (proof, sales) = replicate(&pipeline, &shop, args.sell)?;
    println!("\n4. Both sides, read at the same position while the shop was selling:\n");
    prove::show(&proof);
    let sold = sales.load(Ordering::SeqCst);
    println!("\n   {} transactions were made while the pipeline ran; none was stopped for it.", print::count(sold));
    how_to_query(&config.targets[0].endpoint, &lake);
    println!(
        "\nDone in {}: {}",
        print::seconds(began.elapsed().as_secs_f64()),
        match proof.verdict {
            Verdict::Equal => "both sides are equal.",
            Verdict::Different => "the sides DIFFER.",
            Verdict::Unknown => "it could not be proved.",
        }
    );
    Ok(if proof.verdict == Verdict::Equal { 0 } else { 2 })
}

/// Runs the pipeline while the shop sells, and proves near the end.
fn replicate(pipeline: &Pipeline, shop: &Path, sell: Duration) -> Result<(Proof, AtomicU64)> {
    let (stop, closed) = (AtomicBool::new(false), AtomicBool::new(false));
    let sales = AtomicU64::new(0);
    let began = Instant::now();
    let proof = std::thread::scope(|scope| {
        let seller = scope.spawn(|| sell_until(shop, &closed, &sales));
        let mut proof = None;
        let mut told = Instant::now();
        println!("3. Copy and stream:");
        let mut serve = |shared: &Shared<'_>| -> Result<()> {
            let view = pipeline.progress.view();
            if told.elapsed() >= Duration::from_secs(1) {
                told = Instant::now();
                let sold = print::count(sales.load(Ordering::SeqCst));
                println!(
                    "   {:>4.1} s  {}; {sold} transactions sold",
                    began.elapsed().as_secs_f64(),
                    print::line(&view)
                );
            }
            if began.elapsed() >= sell && view.phase() == Some(Phase::Streaming) {
                proof = Some(fence(shared, pipeline, &[])?.compare().proof);
                stop.store(true, Ordering::SeqCst);
            }
            Ok(())
        };
        let ran = pipeline::run(pipeline, &Goal::Forever, &mut Conduct { stop: &stop, serve: &mut serve });
        closed.store(true, Ordering::SeqCst);
        let sold = seller.join().unwrap_or_else(|_| Err(Error::corrupt("the shop panicked")));
        ran.and(sold)?;
        proof.ok_or_else(|| Error::transient("the demo was interrupted"))
    })?;
    Ok((proof, sales))
}

/// The application: it knows nothing of Crossfade.
fn sell_until(shop: &Path, closed: &AtomicBool, sales: &AtomicU64) -> Result<()> {
    let mut db = open(shop)?;
    let mut n = 0i64;
    while !closed.load(Ordering::SeqCst) {
        n += 1;
        let tx = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(sql)?;
        tx.execute(
            "INSERT INTO purchase (customer_id, placed, state) VALUES (?1 % 2000 + 1, datetime('now'), 'new')",
            [n],
        )
        .map_err(sql)?;
        let id = tx.last_insert_rowid();
        tx.execute(
            "INSERT INTO purchase_line SELECT ?1, sku, 1, price FROM product WHERE sku = printf('SKU-%04d', ?1 % 300 + 1)",
            [id],
        )
        .map_err(sql)?;
        tx.execute("UPDATE purchase SET state = 'shipped' WHERE id = ?1 - 100", [id]).map_err(sql)?;
        if n % 50 == 0 {
            tx.execute("DELETE FROM purchase_line WHERE purchase_id = ?1", [n]).map_err(sql)?;
            tx.execute("DELETE FROM purchase WHERE id = ?1", [n]).map_err(sql)?;
        }
        tx.commit().map_err(sql)?;
        sales.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn open(shop: &Path) -> Result<Connection> {
    let db = Connection::open(shop).map_err(sql)?;
    db.busy_timeout(Duration::from_secs(10)).map_err(sql)?;
    Ok(db)
}

fn sql(e: rusqlite::Error) -> Error {
    Error::unavailable("the demo's shop").caused_by(e)
}

fn how_to_query(_lake_endpoint: &Endpoint, lake: &Path) {
    println!("\n5. Query the lake with anything that reads Parquet, for example DuckDB (pip install duckdb):\n");
    println!("   SELECT state, count(*), sum(amount) FROM (");
    println!("       SELECT * FROM read_parquet('{}/main/purchase/*.parquet')", lake.display());
    println!("       QUALIFY row_number() OVER (PARTITION BY id ORDER BY _seq DESC, _ordinal DESC) = 1) p");
    println!("     JOIN read_parquet('{}/main/purchase_line/*.parquet') l ON l.purchase_id = p.id", lake.display());
    println!("    WHERE p._op <> 'd' GROUP BY 1;");
}
