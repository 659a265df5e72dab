//! Figures: what was measured, in rounds that are interleaved, their medians and ranges, as a table and as JSON.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

/// Whom all of this is about, in the column `subject`.
pub const OURSELVES: &str = "astrfleet";

/// The figures of one subject, one for each round.
#[derive(Clone, Debug)]
pub struct Series {
    /// `astrfleet`, or a peer's name.
    pub subject: String,
    /// In the order of the rounds.
    pub values: Vec<f64>,
}

/// Measures every subject once in each round, each round beginning with another one, so that what disturbs the machine
/// disturbs them all.
pub fn interleaved(
    subjects: &[&str],
    rounds: usize,
    mut measure: impl FnMut(&str) -> Result<f64>,
) -> Result<Vec<Series>> {
    let [series] = interleaved_figures(subjects, rounds, |subject| Ok([measure(subject)?]))?;
    Ok(series)
}

/// The same where one measurement gives several figures.
pub fn interleaved_figures<const FIGURES: usize>(
    subjects: &[&str],
    rounds: usize,
    mut measure: impl FnMut(&str) -> Result<[f64; FIGURES]>,
) -> Result<[Vec<Series>; FIGURES]> {
    ensure!(rounds >= 3, "fewer than 3 rounds say nothing");
    let empty: Vec<Series> =
        subjects.iter().map(|subject| Series { subject: (*subject).to_owned(), values: Vec::new() }).collect();
    let mut all = std::array::from_fn(|_| empty.clone());
    for round in 0..rounds {
        for turn in 0..subjects.len() {
            let place = (round + turn) % subjects.len();
            let subject = subjects[place];
            let figures = measure(subject).with_context(|| format!("measuring {subject}"))?;
            for (series, figure) in all.iter_mut().zip(figures) {
                series[place].values.push(figure);
            }
        }
        eprint!("\r  round {} of {rounds}", round + 1);
    }
    eprint!("\r                        \r");
    Ok(all)
}

/// One line of the table, and one object of the file.
#[derive(Clone, Debug, Serialize, PartialEq)]
pub struct Row {
    #[serde(rename = "row")]
    name: String,
    subject: String,
    metric: &'static str,
    unit: &'static str,
    median: f64,
    min: f64,
    max: f64,
    n: usize,
    beside: Option<String>,
    ratio: Option<f64>,
}

/// One row for each peer, and for us one beside each of them.
pub fn rows(row: &str, metric: &'static str, unit: &'static str, all: &[Series]) -> Vec<Row> {
    let plain = |series: &Series| Row {
        name: row.to_owned(),
        subject: series.subject.clone(),
        metric,
        unit,
        median: median(&series.values),
        min: series.values.iter().copied().fold(f64::INFINITY, f64::min),
        max: series.values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        n: series.values.len(),
        beside: None,
        ratio: None,
    };
    let (ours, peers): (Vec<_>, Vec<_>) = all.iter().partition(|series| series.subject == OURSELVES);
    let mut rows: Vec<Row> = peers.iter().map(|peer| plain(peer)).collect();
    for own in ours {
        if peers.is_empty() {
            rows.push(plain(own));
        }
        for peer in &peers {
            let ratio = median(&own.values) / median(&peer.values);
            rows.push(Row { beside: Some(peer.subject.clone()), ratio: Some(ratio), ..plain(own) });
        }
    }
    rows
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// What is seen on a terminal.
pub fn print(what: &str, rows: &[Row]) {
    let width = rows.iter().map(|row| row.name.len()).chain([what.len()]).max().unwrap_or_default();
    println!(
        "{what:<width$} {:<16} {:<14} {:>10} {:>10} {:>10} {:>3}  ratio",
        "subject", "metric", "median", "min", "max", "n"
    );
    for row in rows {
        let ratio = match (&row.beside, row.ratio) {
            (Some(beside), Some(ratio)) => format!("{ratio:.2} x {beside}"),
            _ => String::new(),
        };
        println!(
            "{:<width$} {:<16} {:<14} {:>10.3} {:>10.3} {:>10.3} {:>3}  {ratio}",
            row.name, row.subject, row.metric, row.median, row.min, row.max, row.n
        );
    }
}

/// Writes `<target>/bench/<what>.json`, by way of another name so that a reader never sees half of it.
pub fn write(target: &Path, what: &str, machine: &serde_json::Value, rows: &[Row]) -> Result<()> {
    let folder = target.join("bench");
    fs::create_dir_all(&folder)?;
    let file = folder.join(format!("{what}.json"));
    let draft = folder.join(format!("{what}.json.new"));
    let text = serde_json::to_string_pretty(&serde_json::json!({ "machine": machine, "rows": rows }))?;
    fs::write(&draft, text + "\n").with_context(|| format!("cannot write {}", draft.display()))?;
    fs::rename(&draft, &file)?;
    println!("written: {}", file.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_subject_is_measured_in_every_round_and_begins_one_of_them() {
        let mut order = Vec::new();
        let all = interleaved(&["a", "b", "c"], 3, |subject| {
            order.push(subject.to_owned());
            Ok(1.0)
        })
        .unwrap();
        assert_eq!(order.concat(), "abcbcacab");
        assert!(all.iter().all(|series| series.values.len() == 3));
        assert!(interleaved(&["a"], 2, |_| Ok(1.0)).is_err());
    }

    #[test]
    fn figures_of_one_measurement_stay_with_their_subject() {
        let [first, second] =
            interleaved_figures(&["a", "b"], 3, |subject| Ok(if subject == "a" { [1.0, 2.0] } else { [3.0, 4.0] }))
                .unwrap();
        let seen: Vec<_> = first.iter().chain(&second).map(|series| (&*series.subject, series.values[2])).collect();
        assert_eq!(seen, [("a", 1.0), ("b", 3.0), ("a", 2.0), ("b", 4.0)]);
    }

    #[test]
    fn we_stand_beside_each_peer() {
        let series = |subject: &str, values: &[f64]| Series { subject: subject.to_owned(), values: values.to_vec() };
        let all =
            [series(OURSELVES, &[3.0, 1.0, 2.0]), series("nginx", &[4.0, 4.0, 5.0]), series("haproxy", &[1.0, 3.0])];
        let rows = rows("plain", "cpu_s_per_100k", "s", &all);
        let seen: Vec<_> = rows.iter().map(|row| (&*row.subject, row.beside.as_deref(), row.ratio)).collect();
        assert_eq!(
            seen,
            [
                ("nginx", None, None),
                ("haproxy", None, None),
                (OURSELVES, Some("nginx"), Some(0.5)),
                (OURSELVES, Some("haproxy"), Some(1.0)),
            ]
        );
        assert_eq!((rows[2].median, rows[2].min, rows[2].max, rows[2].n), (2.0, 1.0, 3.0, 3));
    }
}
