//! `sample`: random rows, value by value, from both sides.

use clap::Args;
use crossfade_core::Result;

use super::print::{Progressing, count, table};
use super::{Which, print_json, prove};
use crate::desk::{self, Job};
use crate::service::{self, Server};
use crate::verify::Verdict;
use crate::verify::difference::Named;
use crate::verify::sample::{Sample, Shown, TableSample, Wanted};

/// Show random rows of each table, value by value, from both sides at one position.
///
/// For eyes, beside `verify`, which compares all rows. Each table is read once on both sides. The seed, which is printed, picks the same
/// rows again. Exit code 0 if all rows shown are equal, 2 if one is not, 3 if a table could not be read.
#[derive(Debug, Args)]
pub struct SampleArgs {
    #[command(flatten)]
    which: Which,
    /// Only these tables, such as 'shop.orders' or 'order_*'; may be given several times
    #[arg(long, value_name = "GLOB")]
    table: Vec<String>,
    /// Rows of each table
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    rows: u16,
    /// Picks the same rows again [default: drawn]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Hide values; keys stay, but for tables without a key
    #[arg(long)]
    mask: bool,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

pub fn sample(args: &SampleArgs) -> Result<u8> {
    let name = args.which.name()?;
    // Of few digits, since people type it.
    let seed = args.seed.unwrap_or_else(|| crate::now_micros().unsigned_abs() % 1_000_000);
    let wanted = Wanted { rows: args.rows, seed };
    let progressing = Progressing::start();
    progressing.say("reading both sides");
    let mut sample = match service::ask_sample(&name, &args.table, wanted) {
        Some(answer) => answer?,
        None => {
            let (config, _runtime, pipeline) = args.which.open()?;
            let stop = service::stop_on_signals(config.drain, 75)?;
            prove::copied(&pipeline)?;
            let _server = Server::bind(&pipeline.name)?;
            desk::alone(&pipeline, stop, |reply| Job::sample(&args.table, wanted, reply))?
        }
    };
    drop(progressing);
    if args.mask {
        sample.mask();
    }
    if args.json {
        print_json(&sample)?;
    } else {
        show(&sample);
    }
    Ok(match sample.verdict {
        Verdict::Equal => 0,
        Verdict::Different => 2,
        Verdict::Unknown => 3,
    })
}

fn show(sample: &Sample) {
    for t in &sample.tables {
        one(t);
    }
    println!(
        "\n{}: both sides read at {}; --seed {} shows the same rows again.\n\
         A sample cannot say that no row differs. The fingerprint of all rows can: crossfade verify.",
        format!("{:?}", sample.verdict).to_uppercase(),
        sample.position,
        sample.seed
    );
}

fn one(sample: &TableSample) {
    let to = sample.target.as_ref().map_or_else(String::new, |t| format!(" -> {t}"));
    if let Some(error) = &sample.error {
        println!("\n{}{to}: not read: {error}", sample.table);
        return;
    }
    println!("\n{}{to}", sample.table);
    let mut t = table(&["key", "column", "source", "target", ""]);
    for row in &sample.rows {
        rows(&mut t, row);
    }
    if !sample.rows.is_empty() {
        println!("{t}");
    }
    println!("{}", says(sample));
}

/// A line for each column; the key stands at the first.
fn rows(t: &mut comfy_table::Table, row: &Shown) {
    let name = |n: &Named| format!("{} = {}", n.column, prove::value(&n.value));
    let key = row.key.iter().map(name).collect::<Vec<_>>().join("\n");
    let word = row.differs.map_or_else(|| "equal".to_owned(), |kind| format!("{kind:?}").to_uppercase());
    if row.columns.is_empty() {
        t.add_row([key, String::new(), String::new(), String::new(), word]);
        return;
    }
    for (i, c) in row.columns.iter().enumerate() {
        let mark = match i {
            0 => word.clone(),
            _ if c.source != c.target => "<>".to_owned(),
            _ => String::new(),
        };
        let key = if i == 0 { key.clone() } else { String::new() };
        t.add_row([key, c.column.clone(), prove::value(&c.source), prove::value(&c.target), mark]);
    }
}

/// What the rows that came up say of the others.
fn says(sample: &TableSample) -> String {
    let (shown, all) = (sample.rows.len() as u64, sample.source_rows.max(sample.target_rows));
    let of = format!("{} of {} rows", count(shown), count(all));
    let different = sample.rows.iter().filter(|r| r.differs.is_some()).count() as u64;
    match sample.differing_share_below {
        _ if different > 0 => format!(
            "{of}, {} of them not the same on both sides: crossfade verify --table {} finds all that are not.",
            count(different),
            sample.table
        ),
        // Rounded up: the share is below it all the same.
        Some(share) => format!(
            "{of}, all equal: with 95 % confidence fewer than {:.1} % of this table's rows differ.",
            (share * 1000.0).ceil() / 10.0
        ),
        None => format!("{of}, all equal: these are all there are."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampled(rows: usize, all: u64, below: Option<f64>) -> TableSample {
        let row = Shown { key: vec![], differs: None, columns: vec![] };
        TableSample {
            table: "shop.orders".into(),
            target: None,
            verdict: Verdict::Equal,
            source_rows: all,
            target_rows: all,
            whole_rows: false,
            rows: vec![row; rows],
            differing_share_below: below,
            error: None,
        }
    }

    #[test]
    fn a_sample_says_no_more_than_it_can() {
        let said = says(&sampled(100, 12_345, Some(0.029_51)));
        assert_eq!(
            said,
            "100 of 12,345 rows, all equal: with 95 % confidence fewer than 3.0 % of this table's rows differ."
        );
        assert_eq!(says(&sampled(2, 2, None)), "2 of 2 rows, all equal: these are all there are.");
        let mut wrong = sampled(3, 9, None);
        wrong.rows[0].differs = Some(crate::verify::difference::Kind::Missing);
        assert!(says(&wrong).contains("1 of them not the same on both sides: crossfade verify --table shop.orders"));
    }
}
