//! Events as rows of a CSV file.

use std::io::BufRead;

use crate::event::{FourMomentum, Muon, Pair};

/// The columns, and the end of their line.
pub(crate) const HEADER: &str = "Run,Event,E1,px1,py1,pz1,Q1,E2,px2,py2,pz2,Q2,M\n";

/// The columns that are read, in the order in which [`Columns`] has them.
const READ: [&str; 10] = ["E1", "px1", "py1", "pz1", "Q1", "E2", "px2", "py2", "pz2", "Q2"];

/// The run of all simulated events.
const RUN: u32 = 1;

/// Adds the row of one event.
pub(crate) fn write_row(text: &mut String, number: u64, pair: &Pair) {
    let mut row = format!("{RUN},{number}");
    for Muon { momentum: FourMomentum { e, p: [px, py, pz] }, charge } in [pair.0, pair.1] {
        row += &format!(",{e:.10},{px:.10},{py:.10},{pz:.10},{charge}");
    }
    row += &format!(",{:.10}\n", pair.mass());
    text.push_str(&row);
}

/// What a row says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Row {
    pub(crate) pair: Pair,
    /// The mass that the file itself gives, if it has a column `M`.
    pub(crate) mass: Option<f64>,
}

/// Which column of the file holds what.
struct Columns {
    read: [usize; READ.len()],
    mass: Option<usize>,
}

impl Columns {
    fn of(header: &str) -> Result<Self, String> {
        let names: Vec<&str> = header.trim_start_matches('\u{feff}').trim_end().split(',').map(str::trim).collect();
        let find = |name: &str| names.iter().position(|other| *other == name);
        let mut read = [0; READ.len()];
        for (column, name) in read.iter_mut().zip(READ) {
            *column = find(name).ok_or_else(|| format!("line 1: there is no column {name}"))?;
        }
        Ok(Self { read, mass: find("M") })
    }

    fn row(&self, line: &str) -> Result<Row, String> {
        // One pass over the line; which columns it has is known by their numbers.
        let mut read = [None; READ.len()];
        let mut mass = None;
        for (number, cell) in line.split(',').enumerate() {
            if let Some(index) = self.read.iter().position(|column| *column == number) {
                read[index] = Some(cell);
            } else if self.mass == Some(number) {
                mass = Some(cell);
            }
        }
        let number = |cell: Option<&str>, name: &str| {
            let cell = cell.ok_or_else(|| format!("{name} is missing"))?.trim();
            cell.parse::<f64>().map_err(|_| format!("{name} is not a number: {cell}"))
        };
        let muon = |first: usize| {
            let number = |offset: usize| number(read[first + offset], READ[first + offset]);
            let charge = number(4)?;
            if charge.abs() != 1.0 {
                return Err(format!("{} is {charge}, not 1 or -1", READ[first + 4]));
            }
            let momentum = FourMomentum { e: number(0)?, p: [number(1)?, number(2)?, number(3)?] };
            Ok(Muon { momentum, charge: charge as i8 })
        };
        let mass = self.mass.map(|_| number(mass, "M")).transpose()?;
        Ok(Row { pair: Pair(muon(0)?, muon(5)?), mass })
    }
}

/// The rows of a table, read as they are asked for. Empty lines are passed over.
///
/// # Errors
///
/// The first line cannot be read, or lacks a column; later ones are told with their line's number.
pub(crate) fn read(text: impl BufRead) -> Result<impl Iterator<Item = Result<Row, String>>, String> {
    let mut lines = text.lines().zip(1_usize..);
    let header = match lines.next() {
        Some((line, _)) => line.map_err(|error| format!("line 1: {error}"))?,
        None => return Err("the file is empty".to_owned()),
    };
    let columns = Columns::of(&header)?;
    Ok(lines.filter_map(move |(line, number)| match line {
        Ok(line) if line.trim().is_empty() => None,
        Ok(line) => Some(columns.row(&line).map_err(|error| format!("line {number}: {error}"))),
        Err(error) => Some(Err(format!("line {number}: {error}"))),
    }))
}
