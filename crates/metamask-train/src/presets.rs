//! Presets: configurations with a name. One stands for itself (`quickstart`); a
//! cell of the paper's table is put together from small files, of which later ones
//! win: the recipe, the method in it, the mask, the data set.
//!
//! ```text
//! DATA-METHOD[-metamask]-RECIPE        cifar10-byol-metamask-authors, garments-dcl-tuned
//! ```

use std::borrow::Cow;

use toml::{Table, Value};

use crate::{
    config::Config,
    failure::{Code, Failure},
};

/// A configuration that comes with the program.
#[derive(Clone, Debug)]
pub struct Preset {
    /// Its name.
    pub name: String,
    /// A header that says what it is for and how it departs from the paper, then
    /// the settings that matter. What is left out has its default.
    pub text: Cow<'static, str>,
}

/// What `pretrain` runs unless told otherwise.
pub const DEFAULT: &str = "quickstart";

/// The data sets of the cells, by their names; the last one comes with the program.
pub const DATA: [&str; 6] =
    ["cifar10", "cifar100", "stl10", "tiny-imagenet", "fashion-mnist", "garments"];
/// The methods of the cells, in the order of the paper's table.
pub const METHODS: [&str; 6] = ["barlow-twins", "simclr", "byol", "dcl", "hcl", "nnclr"];
/// The recipes of the cells.
pub const RECIPES: [&str; 2] = ["authors", "tuned"];

const QUICKSTART: &str = include_str!("../presets/quickstart.toml");
const PAPER: &str = include_str!("../presets/paper.toml");

macro_rules! fragments {
    ($($name:literal),+ $(,)?) => {
        /// The files that cells are put together from.
        const FRAGMENTS: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../presets/", $name, ".toml")))),+];
    };
}
fragments![
    "authors/common",
    "authors/metamask",
    "authors/barlow-twins",
    "authors/simclr",
    "authors/byol",
    "authors/dcl",
    "authors/hcl",
    "authors/nnclr",
    "tuned/common",
    "tuned/metamask",
    "tuned/barlow-twins",
    "tuned/simclr",
    "tuned/byol",
    "tuned/dcl",
    "tuned/hcl",
    "tuned/nnclr",
    "tuned/barlow-twins-metamask",
    "data/cifar10",
    "data/cifar100",
    "data/stl10",
    "data/tiny-imagenet",
    "data/fashion-mnist",
    "data/fashion-mnist-tuned",
    "data/garments",
    "data/garments-tuned",
];

/// A cell of the table: what its preset is put together from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    /// One of [`DATA`].
    pub data: &'static str,
    /// One of [`METHODS`].
    pub method: &'static str,
    /// Whether MetaMask is added: L_drr and the mask.
    pub metamask: bool,
    /// One of [`RECIPES`].
    pub recipe: &'static str,
}

impl Cell {
    /// Every cell.
    pub fn all() -> impl Iterator<Item = Self> {
        let rows = METHODS.into_iter().flat_map(|method| [(method, false), (method, true)]);
        rows.flat_map(|(method, metamask)| {
            DATA.into_iter().flat_map(move |data| {
                RECIPES.into_iter().map(move |recipe| Self { data, method, metamask, recipe })
            })
        })
    }

    /// The preset's name.
    pub fn name(&self) -> String {
        let Self { data, method, metamask, recipe } = self;
        let metamask = if *metamask { "-metamask" } else { "" };
        format!("{data}-{method}{metamask}-{recipe}")
    }

    /// The accuracy that the paper's table has for it, in percent; none for data that is not in it.
    pub fn paper_percent(&self) -> Option<f64> {
        let table: Table = toml::from_str(PAPER).expect("our own file");
        let pair = table[self.method].get(self.data)?.as_array().expect("base, + MetaMask");
        pair[usize::from(self.metamask)].as_float()
    }

    fn preset(&self) -> Preset {
        let Self { data, method, metamask, recipe } = *self;
        let mut settings = Table::new();
        for name in [
            format!("{recipe}/common"),
            format!("{recipe}/{}", if metamask { "metamask" } else { "common" }),
            format!("{recipe}/{method}"),
            format!("{recipe}/{method}{}", if metamask { "-metamask" } else { "" }),
            format!("data/{data}"),
            format!("data/{data}-{recipe}"),
        ] {
            if let Some((_, text)) = FRAGMENTS.iter().find(|(known, _)| *known == name) {
                merge(&mut settings, toml::from_str(text).expect("our own file"));
            }
        }
        if !metamask {
            merge(&mut settings, toml::from_str("[mask]\nmode = 'off'").expect("our own text"));
        }
        let text = self.header() + &toml::to_string(&settings).expect("a table of settings");
        Preset { name: self.name(), text: text.into() }
    }

    /// What a reader should know before starting it.
    fn header(&self) -> String {
        let Self { data, recipe, metamask, .. } = *self;
        let row = self.row();
        let paper = match self.paper_percent() {
            Some(percent) => format!("{row}, {data}: {percent:.2} % (best epoch on the test set)"),
            None => "none: this data set is not in the paper".to_owned(),
        };
        let mut departs = vec!["accuracy after the last epoch, against its own bank"];
        match recipe {
            "authors" => departs.push(
                "one cell is known from released code, SimCLR + MetaMask on cifar10; this recipe \
                 gives its settings to all (inferred)",
            ),
            _ => departs.push("settings that public benchmarks use, not the authors'"),
        }
        if metamask {
            departs.push("meta passes leave the running statistics alone; the authors' first one updates them");
        }
        let name = self.name();
        let mut text = format!(
            "# {name}: {row}, recipe `{recipe}`.\n#\n# Paper cell   {paper}\n\
             # Command      metamask pretrain --preset {name}\n"
        );
        for (i, line) in departs.into_iter().enumerate() {
            text += &format!("# {:13}- {line}\n", if i == 0 { "Departs" } else { "" });
        }
        text + "\n"
    }

    /// Its row of the table.
    pub fn row(&self) -> String {
        let title = match self.method {
            "barlow-twins" => "Barlow Twins",
            "simclr" => "SimCLR",
            "byol" => "BYOL",
            "dcl" => "DCL",
            "hcl" => "HCL",
            "nnclr" => "NNCLR",
            other => other,
        };
        format!("{title}{}", if self.metamask { " + MetaMask" } else { "" })
    }
}

/// Puts the settings of `over` over those of `under`.
fn merge(under: &mut Table, over: Table) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(Value::Table(under)), Value::Table(over)) => merge(under, over),
            (_, value) => {
                under.insert(key, value);
            }
        }
    }
}

impl Preset {
    /// Every preset.
    pub fn all() -> impl Iterator<Item = Self> {
        let quickstart = Self { name: DEFAULT.to_owned(), text: QUICKSTART.into() };
        std::iter::once(quickstart).chain(Cell::all().map(|cell| cell.preset()))
    }

    /// The preset of a name.
    ///
    /// # Errors
    /// If there is none; the message names the nearest one.
    pub fn named(name: &str) -> Result<Self, Failure> {
        if let Some(preset) = Self::all().find(|preset| preset.name == name) {
            return Ok(preset);
        }
        // A name without its recipe is near to the one with it.
        let distance = |preset: &Self| match preset.name.starts_with(name) {
            true => 0,
            false => strsim::damerau_levenshtein(&preset.name, name),
        };
        let nearest = Self::all().min_by_key(distance);
        let nearest = nearest.expect("there are presets").name;
        let message = format!("unknown preset `{name}`, nearest is `{nearest}`");
        Err(Failure::new(Code::Usage, message).help("`metamask presets` lists them"))
    }

    /// What it is for, in a line.
    pub fn title(&self) -> &str {
        let first = self.text.lines().next().unwrap_or_default();
        first.split_once(": ").map_or("", |(_, title)| title)
    }

    /// Its configuration with overrides.
    ///
    /// # Errors
    /// As [`Config::read`].
    pub fn config(&self, overrides: &[String]) -> Result<Config, Failure> {
        Config::read(&self.text, &format!("preset {}", self.name), overrides)
    }
}

#[cfg(test)]
mod tests {
    use metamask_optim::{Hypergradient, VirtualStep};

    use super::*;
    use crate::config::{MaskMode, Method};

    #[test]
    fn every_preset_reads_and_says_what_it_is_for() {
        for preset in Preset::all() {
            preset.config(&[]).unwrap_or_else(|failure| panic!("{}: {failure}", preset.name));
            assert!(preset.text.starts_with(&format!("# {}: ", preset.name)));
            for word in ["Paper cell", "Command", "Departs"] {
                assert!(preset.text.contains(&format!("\n# {word}")), "{}: {word}", preset.name);
            }
        }
        assert_eq!(Preset::all().count(), 1 + 12 * 6 * 2);
    }

    #[test]
    fn an_unknown_preset_names_the_nearest_one() {
        let failure = Preset::named("quikstart").expect_err("there is none");
        assert!(failure.message.contains("nearest is `quickstart`"), "{failure}");
        let failure = Preset::named("cifar10-simclr-metamask").expect_err("which recipe?");
        assert!(failure.message.contains("nearest is `cifar10-simclr-metamask-"), "{failure}");
    }

    #[test]
    fn the_one_public_cell_has_the_authors_settings() -> Result<(), Failure> {
        // docs/method.md, from the released code.
        let config = Preset::named("cifar10-simclr-metamask-authors")?.config(&[])?;
        let (o, m, objective) = (&config.optimizer, &config.mask, &config.objective);
        assert_eq!((o.learning_rate, o.momentum, o.weight_decay), (1e-3, 0.9, 5e-4));
        assert_eq!((m.learning_rate, m.momentum, m.weight_decay), (1e-3, 0.9, 5e-4));
        assert_eq!((objective.alpha, objective.redundancy_weight), (10.0, 1.0));
        assert_eq!((objective.temperature, objective.redundancy_lambda), (0.07, 5e-3));
        assert_eq!((config.training.epochs, config.training.batch_size), (800, 512));
        assert_eq!(
            (&config.contrastive_head.hidden[..], config.contrastive_head.output),
            (&[2048][..], 256)
        );
        assert_eq!(config.meta.virtual_step, VirtualStep::AfterRegular);
        assert_eq!(config.meta.hypergradient, Hypergradient::FiniteDifference);
        assert!(!config.encoder.stem_relu);
        Ok(())
    }

    #[test]
    fn a_base_row_is_the_row_below_it_without_mask_and_redundancy() -> Result<(), Failure> {
        for cell in Cell::all().filter(|cell| cell.metamask) {
            let with = cell.preset().config(&[])?;
            let mut base = Cell { metamask: false, ..cell }.preset().config(&[])?;
            assert_eq!((with.mask.mode, base.mask.mode), (MaskMode::On, MaskMode::Off));
            let has_redundancy = with.objective.method != Method::BarlowTwins;
            assert_eq!(with.objective.redundancy_weight > 0.0, has_redundancy, "{}", cell.name());
            assert_eq!(base.objective.redundancy_weight, 0.0, "{}", cell.name());
            base.objective.redundancy_weight = with.objective.redundancy_weight;
            (base.mask, base.meta) = (with.mask, with.meta);
            assert_eq!(base, with, "{}", cell.name());
        }
        Ok(())
    }

    #[test]
    fn the_paper_s_table_is_whole() {
        // Its means of the gains, computed (docs/method.md): 1.25, 3.315, 0.495, 1.65.
        let mean_gain = |method| {
            let gains: Vec<f64> = Cell::all()
                .filter(|cell| cell.method == method && cell.metamask && cell.recipe == "tuned")
                .filter_map(|cell| {
                    let base = Cell { metamask: false, ..cell }.paper_percent()?;
                    Some(cell.paper_percent()? - base)
                })
                .collect();
            assert_eq!(gains.len(), 4, "{method}");
            gains.iter().sum::<f64>() / 4.0
        };
        for (method, expected) in
            [("barlow-twins", 1.245), ("simclr", 3.315), ("byol", 0.495), ("dcl", 1.645)]
        {
            assert!((mean_gain(method) - expected).abs() < 1e-9, "{method}: {}", mean_gain(method));
        }
    }
}
