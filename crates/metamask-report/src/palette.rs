//! Colours and type of the figures, on light and on dark paper.

/// Type and lines, the same on any paper.
pub(crate) const STYLE: &str = "\
text{font:12px system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif}
.title{font-size:17px;font-weight:600}.panel{font-size:13px;font-weight:600}.panel tspan{font-weight:400}
.middle{text-anchor:middle}.end{text-anchor:end}
.grid,.axis,.line{fill:none}.start{stroke-dasharray:5 4}.line{stroke-width:2;stroke-linejoin:round}
.halo{stroke-width:4px;stroke-linejoin:round;paint-order:stroke}.band{opacity:.16}
.cells{shape-rendering:crispEdges}.frame{fill:none}.dots{opacity:.6}.end.halo,.key,.small{font-size:11px}
.fit{stroke-width:1.2;stroke-dasharray:2 3}.level,.alarm{stroke-dasharray:5 4}.faint{opacity:.35}.ring{fill:none;stroke-width:1.6}
.points{fill:none;stroke-linecap:round;stroke-width:4.5;opacity:.75}
.points.faint{opacity:.4}";

/// One set of colours. Spelled out and not as CSS variables, which not every
/// program that shows an SVG knows.
pub(crate) struct Palette {
    pub(crate) paper: &'static str,
    pub(crate) ink: &'static str,
    pub(crate) pale: &'static str,
    pub(crate) grid: &'static str,
    pub(crate) above: &'static str,
    pub(crate) below: &'static str,
    /// Of a line that is to be beaten.
    pub(crate) alarm: &'static str,
    /// Of a heat map: 0, the middle, 1.
    pub(crate) levels: [[u8; 3]; 3],
    /// Of things that only need telling apart.
    pub(crate) kinds: [&'static str; KINDS],
}

/// Colours of kinds; more kinds than these share them.
pub(crate) const KINDS: usize = 10;

// Blue and vermilion of Okabe and Ito, which everybody can tell apart, and on
// dark paper their lighter sisters, sky blue and orange.
pub(crate) const LIGHT: Palette = Palette {
    paper: "#ffffff",
    ink: "#24292f",
    pale: "#57606a",
    grid: "#d8dee4",
    above: "#0072b2",
    below: "#d55e00",
    alarm: "#c1121f",
    levels: [[0xf3, 0xf6, 0xf9], [0x00, 0x72, 0xb2], [0x00, 0x1e, 0x33]],
    // Okabe and Ito's, their yellow darker for white paper, and two greys.
    kinds: [
        "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#24292f", "#8c6d1f",
        "#9aa0a6", "#7b3fa0",
    ],
};
pub(crate) const DARK: Palette = Palette {
    paper: "#0d1117",
    ink: "#e6edf3",
    pale: "#9198a1",
    grid: "#30363d",
    above: "#56b4e9",
    below: "#e69f00",
    alarm: "#ff6b6b",
    levels: [[0x16, 0x1b, 0x22], [0x56, 0xb4, 0xe9], [0xf0, 0xf8, 0xff]],
    kinds: [
        "#56b4e9", "#e69f00", "#2fc89b", "#e59ac4", "#f0e442", "#3f8fd0", "#e6edf3", "#c9a24a",
        "#8b949e", "#b58ae0",
    ],
};

impl Palette {
    /// The colours of the classes that [`STYLE`] shapes.
    pub(crate) fn style(&self) -> String {
        let Self { paper, ink, pale, grid, above, below, alarm, .. } = self;
        let kinds: String = (0..)
            .zip(self.kinds)
            .map(|(i, colour)| {
                format!(
                    ".line.kind{i},.points.kind{i}{{stroke:{colour}}}text.kind{i},.mark.kind{i}{{fill:{colour}}}"
                )
            })
            .collect();
        format!(
            "text,.band{{fill:{pale}}}.title,.panel,.halo{{fill:{ink}}}.paper{{fill:{paper}}}.halo{{stroke:{paper}}}
.grid,.axis{{stroke:{grid}}}.start,.frame{{stroke:{ink}}}.level{{stroke:{pale}}}.ring{{stroke:{ink}}}.alarm{{stroke:{alarm}}}
.above{{fill:{above}}}.below{{fill:{below}}}.line.above{{fill:none;stroke:{above}}}.line.below{{fill:none;stroke:{below}}}
circle.hollow.line{{fill:{paper}}}
{kinds}"
        )
    }
}
