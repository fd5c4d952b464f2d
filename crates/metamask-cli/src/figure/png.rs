//! A figure as pixels, for programs that show no SVG.

use metamask_train::{Code, Failure};
use resvg::{
    render,
    tiny_skia::{Pixmap, Transform},
    usvg::{Options, Tree},
};

/// Pixels for each unit of the drawing: sharp in print at its natural size.
const SCALE: f32 = 3.0;

/// The bytes of a PNG of a figure of ours, on light paper.
///
/// # Errors
/// If no font is installed that its text could be set in.
pub(crate) fn png_of(svg: &str) -> Result<Vec<u8>, Failure> {
    let mut options = Options::default();
    let fonts = options.fontdb_mut();
    fonts.load_system_fonts();
    let Some(family) = family(fonts) else {
        let failure = Failure::new(Code::Missing, "no font is installed, expected one for the PNG");
        return Err(failure.help("install one (Debian: fonts-dejavu-core)"));
    };
    fonts.set_sans_serif_family(&family);
    options.font_family = family;
    let internal = |what: &str| Failure::new(Code::Internal, format!("figure as PNG: {what}"));
    let tree = Tree::from_str(svg, &options).map_err(|error| internal(&error.to_string()))?;
    let size = tree.size();
    let (width, height) = ((size.width() * SCALE) as u32, (size.height() * SCALE) as u32);
    let mut pixels = Pixmap::new(width, height).ok_or_else(|| internal("it has no size"))?;
    render(&tree, Transform::from_scale(SCALE, SCALE), &mut pixels.as_mut());
    pixels.encode_png().map_err(|error| internal(&error.to_string()))
}

/// A family without serifs that is installed; any if there is none of these.
fn family(fonts: &resvg::usvg::fontdb::Database) -> Option<String> {
    let names = || fonts.faces().flat_map(|face| &face.families).map(|(name, _)| name);
    let wanted = ["DejaVu Sans", "Noto Sans", "Liberation Sans", "Arial", "Helvetica"];
    let found = wanted.iter().find_map(|wanted| names().find(|name| name == wanted));
    found.or_else(|| names().min()).cloned()
}
