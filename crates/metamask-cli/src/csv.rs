//! Rows of text as CSV (RFC 4180).

/// A table that is being written.
pub(crate) struct Csv(String);

impl Csv {
    pub fn new(head: &[&str]) -> Self {
        let mut csv = Self(String::new());
        csv.row(head);
        csv
    }

    pub fn row(&mut self, cells: &[&str]) {
        let cells: Vec<String> = cells.iter().map(|cell| quoted(cell)).collect();
        self.0 += &cells.join(",");
        self.0.push('\n');
    }

    pub fn text(&self) -> &str {
        &self.0
    }
}

fn quoted(text: &str) -> String {
    match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_stay_apart_whatever_they_hold() {
        let mut csv = Csv::new(&["a", "b"]);
        csv.row(&["1,5", "say \"x\""]);
        assert_eq!(csv.text(), "a,b\n\"1,5\",\"say \"\"x\"\"\"\n");
    }
}
