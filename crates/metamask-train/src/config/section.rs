//! A section of the configuration, each field declared once.

use std::fmt;

/// What a number of the configuration may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Range {
    /// Whatever the type allows (numbers must be finite).
    Any,
    /// x > low
    Above(f64),
    /// x ≥ low
    AtLeast(f64),
    /// low ≤ x ≤ high
    Within(f64, f64),
    /// low < x ≤ high
    AboveUpTo(f64, f64),
    /// 0 ≤ x < 1
    BelowOne,
    /// One of a few numbers.
    OneOfNumbers(&'static [u32]),
    /// One of a few words; the type holds them, this is for the reader.
    Words(&'static [&'static str]),
}

impl Range {
    /// 0 ≤ x ≤ 1
    pub const PROBABILITY: Self = Self::Within(0.0, 1.0);

    /// Whether a number is in the range.
    pub fn holds(&self, x: f64) -> bool {
        x.is_finite()
            && match *self {
                Self::Any | Self::Words(_) => true,
                Self::Above(low) => x > low,
                Self::AtLeast(low) => x >= low,
                Self::Within(low, high) => (low..=high).contains(&x),
                Self::AboveUpTo(low, high) => x > low && x <= high,
                Self::BelowOne => (0.0..1.0).contains(&x),
                Self::OneOfNumbers(numbers) => numbers.iter().any(|&n| f64::from(n) == x),
            }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => write!(f, "a finite number"),
            Self::Above(low) => write!(f, "above {low}"),
            Self::AtLeast(low) => write!(f, "at least {low}"),
            Self::Within(low, high) => write!(f, "within {low} to {high}"),
            Self::AboveUpTo(low, high) => write!(f, "above {low} and at most {high}"),
            Self::BelowOne => write!(f, "at least 0 and below 1"),
            Self::OneOfNumbers(numbers) => {
                let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
                write!(f, "one of {}", numbers.join(", "))
            }
            Self::Words(words) => write!(f, "one of {}", words.join(", ")),
        }
    }
}

/// One field with its value.
#[derive(Clone, Debug)]
pub struct Field {
    /// `section.name`.
    pub key: String,
    /// What it means.
    pub doc: String,
    /// What it may be.
    pub range: Range,
    /// Its value, as TOML.
    pub value: String,
    /// The numbers in its value.
    pub(super) numbers: Vec<f64>,
}

/// A table of the configuration.
pub(super) trait Section {
    /// Its key.
    fn name(&self) -> &'static str;
    /// What it holds.
    fn about(&self) -> &'static str;
    /// Its fields with their values.
    fn fields(&self) -> Vec<Field>;
}

/// The numbers in a value, for the range check.
pub(super) trait Numbers {
    fn numbers(&self) -> Vec<f64>;
}

macro_rules! numbers {
    ($($ty:ty: $x:ident => $numbers:expr;)+) => {
        $(impl Numbers for $ty {
            fn numbers(&self) -> Vec<f64> {
                let $x = self;
                $numbers
            }
        })+
    };
}

numbers! {
    super::Annealing: _x => Vec::new();
    super::BatchScaling: _x => Vec::new();
    super::MaskMode: _x => Vec::new();
    super::MaskPlace: _x => Vec::new();
    super::Method: _x => Vec::new();
    super::OnCollapse: _x => Vec::new();
    super::Precision: _x => Vec::new();
    super::Through: _x => Vec::new();
    metamask_data::BadImages: _x => Vec::new();
    metamask_data::Difficulty: _x => Vec::new();
    metamask_data::DatasetSpec: _x => Vec::new();
    metamask_encoders::Architecture: _x => Vec::new();
    metamask_encoders::Stem: _x => Vec::new();
    metamask_optim::Activations: _x => Vec::new();
    metamask_optim::Hypergradient: _x => Vec::new();
    metamask_optim::LarsClipping: _x => Vec::new();
    metamask_optim::MaskForm: _x => Vec::new();
    metamask_optim::MaskShape: _x => Vec::new();
    metamask_optim::OptimizerKind: _x => Vec::new();
    metamask_optim::Schedule: _x => Vec::new();
    metamask_optim::Stepping: _x => Vec::new();
    metamask_optim::VirtualStep: _x => Vec::new();
    f64: x => vec![*x];
    usize: x => vec![*x as f64];
    u64: x => vec![*x as f64];
    bool: _x => Vec::new();
    String: _x => Vec::new();
    Vec<String>: _x => Vec::new();
    [f64; 2]: x => x.to_vec();
    [f64; 3]: x => x.to_vec();
    Vec<usize>: x => x.iter().map(|&x| x as f64).collect();
}

/// A field's value as TOML.
pub(super) fn toml_value<T: serde::Serialize>(value: &T) -> String {
    toml::Value::try_from(value).expect("a setting is a TOML value").to_string()
}

/// Declares a section: `TypeName in "key" { /// doc  name: Type = default, range; … }`. A table
/// inside it, which is a section of its own, stands before the brace: `holding name: Type`.
macro_rules! section {
    (
        $(#[doc = $about:literal])+
        $(#[derive($more:ident)])?
        $name:ident in $key:literal $(holding $inner:ident: $inner_ty:ty)? {
            $($(#[doc = $doc:literal])+ $field:ident: $ty:ty = $default:expr, $range:expr;)+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        $(#[derive($more)])?
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $($(#[doc = $doc])+ pub $field: $ty,)+
            $(
                /// A table of its own.
                pub $inner: $inner_ty,
            )?
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)+ $($inner: Default::default(),)? }
            }
        }

        impl Section for $name {
            fn name(&self) -> &'static str {
                $key
            }
            fn about(&self) -> &'static str {
                concat!($($about),+).trim_ascii()
            }
            fn fields(&self) -> Vec<Field> {
                vec![$(Field {
                    key: concat!($key, ".", stringify!($field)).to_owned(),
                    doc: concat!($($doc),+).to_owned(),
                    range: $range,
                    value: section::toml_value(&self.$field),
                    numbers: section::Numbers::numbers(&self.$field),
                }),+]
            }
        }
    };
}
pub(super) use section;
