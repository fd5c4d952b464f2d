//! Colours and type of the figures, on light and on dark paper.

/// Type and lines, the same on any paper.
pub(crate) const STYLE: &str = "\
text{font:12px system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif}
.title{font-size:17px;font-weight:600}.panel{font-size:13px;font-weight:600}.panel tspan{font-weight:400}
.middle{text-anchor:middle}.end{text-anchor:end}
.grid,.axis,.line{fill:none}.start{stroke-dasharray:5 4}.line{stroke-width:2;stroke-linejoin:round}
.halo{stroke-width:4px;stroke-linejoin:round;paint-order:stroke}.band{opacity:.16}";

/// One set of colours. Spelled out and not as CSS variables, which not every
/// program that shows an SVG knows.
pub(crate) struct Palette {
    pub(crate) paper: &'static str,
    pub(crate) ink: &'static str,
    pub(crate) pale: &'static str,
    pub(crate) grid: &'static str,
    pub(crate) above: &'static str,
    pub(crate) below: &'static str,
}

// Blue and vermilion of Okabe and Ito, which everybody can tell apart, and on
// dark paper their lighter sisters, sky blue and orange.
pub(crate) const LIGHT: Palette = Palette {
    paper: "#ffffff",
    ink: "#24292f",
    pale: "#57606a",
    grid: "#d8dee4",
    above: "#0072b2",
    below: "#d55e00",
};
pub(crate) const DARK: Palette = Palette {
    paper: "#0d1117",
    ink: "#e6edf3",
    pale: "#9198a1",
    grid: "#30363d",
    above: "#56b4e9",
    below: "#e69f00",
};

impl Palette {
    /// The colours of the classes that [`STYLE`] shapes.
    pub(crate) fn style(&self) -> String {
        let Self { paper, ink, pale, grid, above, below } = self;
        format!(
            "text,.band{{fill:{pale}}}.title,.panel,.halo{{fill:{ink}}}.paper{{fill:{paper}}}.halo{{stroke:{paper}}}
.grid,.axis{{stroke:{grid}}}.start{{stroke:{ink}}}
.above{{fill:{above}}}.below{{fill:{below}}}.line.above{{fill:none;stroke:{above}}}.line.below{{fill:none;stroke:{below}}}"
        )
    }
}
