//! The table for ARCHITECTURE.md: both shapes in turn, round by round, so that a busy neighbour slows both alike.
//!
//! Criterion measures one function after the other, and minutes lie between two that are to be compared. Here each round
//! runs A then B, the next B then A; the ratio is the median of the rounds' own ratios, not the ratio of two medians.

use std::time::Instant;

use crate::reader::Discard;
use crate::rows;
use crate::shapes::{Case, ENDS, Shape, run};

/// Rounds for each pair.
const ROUNDS: usize = 15;

/// Measures every pair and prints the table, rates in thousand rows a second.
pub fn print(cases: &[Case], count: usize) {
    println!("| input | to | A, columns: krows/s | B, rows: krows/s | A/B (quartiles) |");
    println!("|---|---|--:|--:|--:|");
    let rate = |times: Vec<f64>| count as f64 / sorted(times)[ROUNDS / 2] / 1e3;
    let mut copy = Vec::new();
    for case in cases {
        let (name, input) = (case.name, &case.whole);
        for (to, end) in ENDS {
            let mut times = [Vec::new(), Vec::new()];
            let mut time = |which: usize, shape| {
                let start = Instant::now();
                run(case, shape, end, &mut copy).expect("checked before");
                times[which].push(start.elapsed().as_secs_f64());
            };
            for round in 0..ROUNDS {
                if round % 2 == 0 {
                    time(0, Shape::Columns);
                    time(1, Shape::Rows);
                } else {
                    time(1, Shape::Rows);
                    time(0, Shape::Columns);
                }
            }
            let [a, b] = times;
            let ratios = sorted(a.iter().zip(&b).map(|(a, b)| b / a).collect());
            let [low, middle, high] = [ROUNDS / 4, ROUNDS / 2, ROUNDS - 1 - ROUNDS / 4].map(|at| ratios[at]);
            println!("| {name} | {to} | {:.0} | {:.0} | {middle:.2} ({low:.2}-{high:.2}) |", rate(a), rate(b));
        }
        let parse = (0..ROUNDS).map(|_| {
            let start = Instant::now();
            input.decode(&mut Discard).expect("checked before");
            start.elapsed().as_secs_f64()
        });
        println!("| {name} | nowhere: parsing alone | {0:.0} | {0:.0} | |", rate(parse.collect()));
        let batch = input.columns().expect("checked before");
        let rows = input.rows().expect("checked before");
        let (a, b) = (batch.get_array_memory_size() / count, rows::held(&rows) / count);
        println!("| {name} | bytes held a row | {a} | {b} | {:.2} |", a as f64 / b as f64);
    }
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}
