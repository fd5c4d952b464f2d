//! A table in words, for pages of any kind.

/// Rows of words below their columns' names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextTable {
    /// What it shows; empty if that is said elsewhere.
    pub title: String,
    /// The columns' names.
    pub head: Vec<String>,
    /// The rows, the first cell is a row's name.
    pub rows: Vec<Vec<Words>>,
    /// What its numbers are.
    pub note: String,
}

/// A cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words {
    /// What it says.
    pub text: String,
    /// Whether it stands out.
    pub is_strong: bool,
}

impl From<String> for Words {
    fn from(text: String) -> Self {
        Self { text, is_strong: false }
    }
}

impl TextTable {
    /// Head and rows in Markdown.
    pub(super) fn markdown(&self) -> String {
        let head = self.head.join(" | ");
        let mut text = format!("| {head} |\n|{}\n", "---|".repeat(self.head.len()));
        for row in &self.rows {
            let cell = |Words { text, is_strong }: &Words| match is_strong {
                true => format!("**{text}**"),
                false => text.clone(),
            };
            let cells: Vec<String> = row.iter().map(cell).collect();
            text += &format!("| {} |\n", cells.join(" | "));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_out_is_bold() {
        let strong = Words { text: "+1.0".to_owned(), is_strong: true };
        let table = TextTable {
            title: String::new(),
            head: vec!["row".to_owned(), "gain".to_owned()],
            rows: vec![vec!["a".to_owned().into(), strong]],
            note: String::new(),
        };
        assert_eq!(table.markdown(), "| row | gain |\n|---|---|\n| a | **+1.0** |\n");
    }
}
