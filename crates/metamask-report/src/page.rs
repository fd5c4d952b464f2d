//! A page: sections of text, tables and figures, in one file that needs nothing else.

use std::{collections::BTreeMap, fmt::Write as _};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha2::{Digest as _, Sha256};

use crate::{
    drawing::{Drawing, figure_style},
    svg::escape,
};

/// A page of a report. All text is text: nothing in it is taken for HTML.
#[derive(Clone, Debug)]
pub struct Page {
    /// Its heading, and the name of its window.
    pub title: String,
    /// A line below the heading.
    pub subtitle: String,
    /// What it says, from the top.
    pub sections: Vec<Section>,
    /// By what it was written, the last line.
    pub written_by: String,
}

/// A part of a page.
#[derive(Clone, Debug)]
pub struct Section {
    /// What the list of contents calls it, if it names it.
    pub in_contents: Option<String>,
    /// Its heading.
    pub title: String,
    /// Its contents, from the top.
    pub blocks: Vec<Block>,
}

/// A piece of a section.
#[derive(Clone, Debug)]
pub enum Block {
    /// A heading below the section's, and the name that links have for it: letters and digits.
    Heading(String, String),
    /// A paragraph.
    Text(String),
    /// Sentences that belong together.
    List(Vec<String>),
    /// Sentences that judge.
    Verdicts(Vec<Verdict>),
    /// A table.
    Table(Table),
    /// A figure with what it shows.
    Figure(Box<Drawing>, String),
    /// A picture with what it shows.
    Picture(Picture, String),
    /// Text that is folded away below its name.
    Folded(String, String),
}

/// A sentence that judges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it is good news; `None` if it is neither.
    pub good: Option<bool>,
    /// The sentence.
    pub text: String,
}

/// A table of text: the first column says what a row is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// The columns' names.
    pub head: Vec<String>,
    /// The cells.
    pub rows: Vec<Vec<String>>,
    /// To which heading of the page a cell leads, by its row and column.
    pub links: BTreeMap<(usize, usize), String>,
}

/// A picture of pixels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// The bytes of a PNG file.
    pub png: Vec<u8>,
    /// What it is, for those who cannot see it.
    pub label: String,
}

const PAGE_STYLE: &str = include_str!("page.css");

/// The text of an HTML file.
///
/// It loads nothing and runs nothing: its policy (CSP) allows one style sheet by its hash and
/// pictures that are inside. It follows the reader's choice of light or dark, and prints.
pub fn html_page(page: &Page) -> String {
    let style = format!("{PAGE_STYLE}\n{}", figure_style());
    let hash = STANDARD.encode(Sha256::digest(style.as_bytes()));
    let title = escape(&page.title);
    let mut html = format!(
        r##"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'sha256-{hash}'; img-src data:; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p>{}</p>
</header>
<nav aria-label="Contents"><ul>
"##,
        escape(&page.subtitle),
    );
    for (i, section) in page.sections.iter().enumerate() {
        if let Some(name) = &section.in_contents {
            let _ = writeln!(html, "<li><a href=\"#s{i}\">{}</a></li>", escape(name));
        }
    }
    html.push_str("</ul></nav>\n<main>\n");
    for (i, section) in page.sections.iter().enumerate() {
        let _ = writeln!(html, "<section id=\"s{i}\">\n<h2>{}</h2>", escape(&section.title));
        section.blocks.iter().for_each(|block| write_block(&mut html, block));
        html.push_str("</section>\n");
    }
    let _ = write!(
        html,
        "</main>\n<footer><p>{}</p></footer>\n</body>\n</html>\n",
        escape(&page.written_by)
    );
    html
}

fn write_block(html: &mut String, block: &Block) {
    let _ = match block {
        Block::Heading(text, id) => {
            writeln!(html, "<h3 id=\"{}\">{}</h3>", escape(id), escape(text))
        }
        Block::Text(text) => writeln!(html, "<p>{}</p>", escape(text)),
        Block::List(sentences) => {
            html.push_str("<ul>\n");
            for sentence in sentences {
                let _ = writeln!(html, "<li>{}</li>", escape(sentence));
            }
            writeln!(html, "</ul>")
        }
        Block::Verdicts(verdicts) => {
            html.push_str("<ul class=\"verdicts\">\n");
            for Verdict { good, text } in verdicts {
                // A sign beside the colour: not everybody sees the colour.
                let (class, sign) = match good {
                    Some(true) => ("good", "✓"),
                    Some(false) => ("bad", "!"),
                    None => ("plain", "·"),
                };
                let text = escape(text);
                let _ = writeln!(html, "<li class=\"{class}\"><span>{sign}</span> {text}</li>");
            }
            writeln!(html, "</ul>")
        }
        Block::Table(table) => {
            write_table(html, table);
            Ok(())
        }
        Block::Figure(drawing, caption) => writeln!(
            html,
            "<figure class=\"drawn\">\n{}<figcaption>{}</figcaption>\n</figure>",
            drawing.inline(),
            escape(caption)
        ),
        Block::Picture(Picture { png, label }, caption) => writeln!(
            html,
            "<figure>\n<img alt=\"{}\" src=\"data:image/png;base64,{}\">\n<figcaption>{}</figcaption>\n</figure>",
            escape(label),
            STANDARD.encode(png),
            escape(caption)
        ),
        Block::Folded(name, text) => writeln!(
            html,
            "<details><summary>{}</summary><pre>{}</pre></details>",
            escape(name),
            text.split('\n').map(escape).collect::<Vec<_>>().join("\n")
        ),
    };
}

/// Names of rows that are longer may break.
const LONG_NAME: usize = 16;

fn write_table(html: &mut String, table: &Table) {
    let names = table.rows.iter().filter_map(|row| row.first());
    let is_long = names.into_iter().any(|name| name.chars().count() > LONG_NAME);
    let class = if is_long { "table long" } else { "table" };
    let _ = write!(html, "<div class=\"{class}\"><table>\n<thead><tr>");
    for name in &table.head {
        let _ = write!(html, "<th scope=\"col\">{}</th>", escape(name));
    }
    html.push_str("</tr></thead>\n<tbody>\n");
    for (i, row) in table.rows.iter().enumerate() {
        html.push_str("<tr>");
        for (j, cell) in row.iter().enumerate() {
            let cell = match table.links.get(&(i, j)) {
                Some(id) => format!("<a href=\"#{}\">{}</a>", escape(id), escape(cell)),
                None => escape(cell),
            };
            let _ = match j {
                0 => write!(html, "<th scope=\"row\">{cell}</th>"),
                _ => write!(html, "<td>{cell}</td>"),
            };
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</tbody></table></div>\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = r#"</title></style><script>alert(1)</script><img src=x onerror="a">"#;

    #[test]
    fn whatever_a_text_says_it_stays_text() {
        let text = || HOSTILE.to_owned();
        let heading = (HOSTILE, HOSTILE);
        let drawing = Drawing::new("Figure", heading, 100.0, String::new());
        let picture = Picture { png: vec![0, 255, 62], label: text() };
        let verdict = Verdict { good: Some(true), text: text() };
        let links = BTreeMap::from([((0, 1), text())]);
        let table = Table { head: vec![text(); 2], rows: vec![vec![text(); 2]], links };
        let html = html_page(&Page {
            title: text(),
            subtitle: text(),
            sections: vec![Section {
                in_contents: Some(text()),
                title: text(),
                blocks: vec![
                    Block::Heading(text(), text()),
                    Block::Text(text()),
                    Block::List(vec![text()]),
                    Block::Verdicts(vec![verdict]),
                    Block::Table(table),
                    Block::Figure(Box::new(drawing), text()),
                    Block::Picture(picture, text()),
                    Block::Folded(text(), text() + "\n[a]\nb = 1"),
                ],
            }],
            written_by: text(),
        });
        assert!(!html.contains("<script"), "{html}");
        assert_eq!(html.matches("<img").count(), 1);
        assert!(html.contains("src=\"data:image/png;base64,AP8+\""));
        assert!(html.contains("\n[a]\nb = 1</pre>"), "lines stay lines: {html}");
        assert_eq!(html.matches("</title>").count(), 1);
    }

    #[test]
    fn a_cell_leads_to_its_heading() {
        let table = Table {
            head: vec!["row".into(), "kNN".into()],
            rows: vec![vec!["a".into(), "51.5".into()]],
            links: BTreeMap::from([((0, 1), "r1".to_owned())]),
        };
        let mut html = String::new();
        write_block(&mut html, &Block::Table(table));
        write_block(&mut html, &Block::Heading("Its runs".into(), "r1".into()));
        assert!(html.contains("<td><a href=\"#r1\">51.5</a></td>"), "{html}");
        assert!(html.contains("<h3 id=\"r1\">Its runs</h3>"), "{html}");
        assert!(html.contains("<th scope=\"row\">a</th>"), "{html}");
    }

    #[test]
    fn the_policy_names_the_only_style_sheet_there_is() {
        let page = Page {
            title: "a".into(),
            subtitle: String::new(),
            sections: Vec::new(),
            written_by: String::new(),
        };
        let html = html_page(&page);
        let style = html.split("<style>").nth(1).and_then(|rest| rest.split("</style>").next());
        let hash = STANDARD.encode(Sha256::digest(style.expect("a style sheet")));
        assert!(html.contains(&format!("style-src 'sha256-{hash}'")));
        assert_eq!(html.matches("<style").count(), 1);
        // Attributes of style would be blocked, and nothing outside may be named.
        assert!(!html.contains("style=\"") && !html.contains("http:") && !html.contains("https:"));
    }
}
