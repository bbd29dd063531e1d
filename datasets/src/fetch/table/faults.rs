//! All that is wrong with a table, with line and column, in one message.

use std::fmt::Write as _;

use super::{Fault, Table};

/// Faults that are shown before the rest is only counted.
const FAULTS_SHOWN: usize = 20;

#[derive(Debug, Default)]
pub(in crate::fetch) struct Faults {
    shown: Vec<Fault>,
    count: usize,
    cures: Vec<&'static str>,
}

impl Faults {
    pub(in crate::fetch) fn add(&mut self, fault: Fault) {
        self.count += 1;
        if let Some(cure) = fault.cure.filter(|cure| !self.cures.contains(cure)) {
            self.cures.push(cure);
        }
        if self.shown.len() < FAULTS_SHOWN {
            self.shown.push(fault);
        }
    }

    /// The message, if there is any fault.
    pub(in crate::fetch) fn into_result(mut self, table: &Table) -> Result<(), String> {
        if self.count == 0 {
            return Ok(());
        }
        self.shown.sort_by_key(|fault| fault.number);
        let mut message = format!("{} cannot be used:", table.name);
        for fault in &self.shown {
            message.push_str("\n  ");
            if fault.number > 0 {
                let _ = write!(message, "{} {}", table.unit(), fault.number);
                if let Some(column) = &fault.column {
                    let _ = write!(message, ", column {column}");
                }
                message.push_str(": ");
            }
            message.push_str(&fault.problem);
        }
        if self.count > self.shown.len() {
            let _ = write!(message, "\n  and {} more", self.count - self.shown.len());
        }
        for cure in self.cures {
            let _ = write!(message, "\n{cure}");
        }
        Err(message)
    }
}
