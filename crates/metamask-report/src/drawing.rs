//! A figure: a picture of its own, or part of a page.

use crate::{
    heat_map::level_style,
    palette::{DARK, LIGHT, Palette, STYLE},
    svg::{escape, shortened},
};

/// A figure with its heading.
#[derive(Clone, Debug)]
pub struct Drawing {
    /// Pixels.
    pub(crate) width: f64,
    /// Pixels, the heading among them.
    pub(crate) height: f64,
    /// What it is, for those who cannot see it.
    pub(crate) label: String,
    pub(crate) title: String,
    pub(crate) subtitle: String,
    /// Elements of SVG, everything but the heading.
    pub(crate) body: String,
}

/// Height of the heading: what stands on a page begins below it.
const HEADING: f64 = 72.0;

impl Drawing {
    /// The text of an SVG file that needs nothing else, for light and dark paper.
    pub fn standalone(&self) -> String {
        let Self { width, height, body, .. } = self;
        let label = escape(&shortened(&self.label, 110));
        let title = escape(&shortened(&self.title, 80));
        let subtitle = escape(&shortened(&self.subtitle, 130));
        let style = figure_style();
        format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" aria-label="{label}">
<style>
{style}
</style>
<rect class="paper" width="{width}" height="{height}" rx="8"/>
<text x="24" y="36" class="title">{title}</text>
<text x="24" y="58">{subtitle}</text>
{body}</svg>
"#
        )
    }

    /// The element of a page that has [`figure_style`] and headings of its own.
    pub(crate) fn inline(&self) -> String {
        let Self { width, height, body, .. } = self;
        let (label, height) = (escape(&shortened(&self.label, 110)), height - HEADING);
        format!(
            "<svg viewBox=\"0 {HEADING} {width} {height}\" role=\"img\" aria-label=\"{label}\">\n{body}</svg>\n"
        )
    }
}

/// How every figure looks on light paper and on dark.
pub(crate) fn figure_style() -> String {
    let of = |palette: &Palette| palette.style() + &level_style(palette.levels);
    format!("{STYLE}\n{}\n@media (prefers-color-scheme: dark) {{\n{}\n}}", of(&LIGHT), of(&DARK))
}
