//! A figure: a picture of its own, or part of a page.

use crate::{
    heat_map::level_style,
    palette::{DARK, LIGHT, Palette, STYLE},
    svg::{escape, shortened},
};

/// A figure with its heading.
#[derive(Clone, Debug)]
pub struct Drawing {
    /// What it shows of what the title names.
    kind: &'static str,
    title: String,
    subtitle: String,
    /// Pixels, the heading among them.
    height: f64,
    /// Elements of SVG, everything but the heading.
    body: String,
}

/// Pixels: figures are as wide as a page.
const WIDTH: f64 = 880.0;

/// Height of the heading: what stands on a page begins below it.
const HEADING: f64 = 72.0;

impl Drawing {
    /// `kind` is what it shows of what the title names, as in `The mask of RUN`.
    pub(crate) fn new(
        kind: &'static str,
        (title, subtitle): (&str, &str),
        height: f64,
        body: String,
    ) -> Self {
        Self { kind, title: title.to_owned(), subtitle: subtitle.to_owned(), height, body }
    }

    /// What it is, for those who cannot see it.
    fn label(&self) -> String {
        escape(&shortened(&format!("{} of {}", self.kind, self.title), 110))
    }

    /// The text of an SVG file that needs nothing else, for light and dark paper.
    pub fn standalone(&self) -> String {
        let (Self { height, body, .. }, label) = (self, self.label());
        let title = escape(&shortened(&self.title, 80));
        let subtitle = escape(&shortened(&self.subtitle, 130));
        let style = figure_style();
        format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img" aria-label="{label}">
<style>
{style}
</style>
<rect class="paper" width="{WIDTH}" height="{height}" rx="8"/>
<text x="24" y="36" class="title">{title}</text>
<text x="24" y="58">{subtitle}</text>
{body}</svg>
"#
        )
    }

    /// The element of a page that has [`figure_style`] and headings of its own.
    pub(crate) fn inline(&self) -> String {
        let (label, height) = (self.label(), self.height - HEADING);
        format!(
            "<svg viewBox=\"0 {HEADING} {WIDTH} {height}\" role=\"img\" aria-label=\"{label}\">\n{}</svg>\n",
            self.body
        )
    }
}

/// How every figure looks on light paper and on dark.
pub(crate) fn figure_style() -> String {
    let of = |palette: &Palette| palette.style() + &level_style(palette.levels);
    format!("{STYLE}\n{}\n@media (prefers-color-scheme: dark) {{\n{}\n}}", of(&LIGHT), of(&DARK))
}
