//! PTX's types, and numbers of them as bits of a register.

use half::{bf16, f16};

/// A type as an instruction names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    Pred,
    B(u8),
    U(u8),
    S(u8),
    F16,
    Bf16,
    F32,
    F64,
}

impl Type {
    /// From a word such as `s32`.
    pub fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "pred" => Self::Pred,
            "f16" => Self::F16,
            "bf16" => Self::Bf16,
            "f32" => Self::F32,
            "f64" => Self::F64,
            _ => {
                let (kind, bits) = word.split_at_checked(1)?;
                let bits = match bits {
                    "8" => 8,
                    "16" => 16,
                    "32" => 32,
                    "64" => 64,
                    _ => return None,
                };
                match kind {
                    "b" => Self::B(bits),
                    "u" => Self::U(bits),
                    "s" => Self::S(bits),
                    _ => return None,
                }
            }
        })
    }

    pub fn bits(self) -> u32 {
        match self {
            Self::Pred => 1,
            Self::B(bits) | Self::U(bits) | Self::S(bits) => u32::from(bits),
            Self::F16 | Self::Bf16 => 16,
            Self::F32 => 32,
            Self::F64 => 64,
        }
    }

    pub fn bytes(self) -> usize {
        self.bits().div_ceil(8) as usize
    }

    pub fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::Bf16 | Self::F32 | Self::F64)
    }

    pub fn is_signed(self) -> bool {
        matches!(self, Self::S(_))
    }

    /// The lowest bits, as many as the type has.
    pub fn cut(self, bits: u64) -> u64 {
        match self.bits() {
            64 => bits,
            n => bits & ((1 << n) - 1),
        }
    }

    /// An integer's value.
    pub fn integer(self, bits: u64) -> i128 {
        let bits = self.cut(bits);
        if self.is_signed() {
            let shift = 64 - self.bits();
            i128::from((bits << shift) as i64 >> shift)
        } else {
            i128::from(bits)
        }
    }

    /// A float's value; every float is one of f64.
    pub fn float(self, bits: u64) -> f64 {
        match self {
            Self::F16 => f16::from_bits(bits as u16).to_f64(),
            Self::Bf16 => bf16::from_bits(bits as u16).to_f64(),
            Self::F32 => f64::from(f32::from_bits(bits as u32)),
            _ => f64::from_bits(bits),
        }
    }

    /// The bits of a float, rounded to nearest. From f64 to f16 or bf16 the rounding goes by way
    /// of f32, as results of arithmetic in these types do.
    pub fn of_float(self, value: f64) -> u64 {
        match self {
            Self::F16 => u64::from(f16::from_f32(value as f32).to_bits()),
            Self::Bf16 => u64::from(bf16::from_f32(value as f32).to_bits()),
            Self::F32 => u64::from((value as f32).to_bits()),
            _ => value.to_bits(),
        }
    }

    /// An immediate operand of this type.
    pub fn immediate(self, word: &str) -> Option<u64> {
        if let Some(hex) = word.strip_prefix("0f").or_else(|| word.strip_prefix("0F")) {
            let value = f32::from_bits(u32::from_str_radix(hex, 16).ok()?);
            return Some(if self == Self::F64 {
                f64::from(value).to_bits()
            } else {
                u64::from(value.to_bits())
            });
        }
        if let Some(hex) = word.strip_prefix("0d").or_else(|| word.strip_prefix("0D")) {
            return u64::from_str_radix(hex, 16).ok();
        }
        let (sign, digits) = match word.strip_prefix('-') {
            Some(digits) => (-1, digits),
            None => (1, word),
        };
        let digits = digits.strip_suffix('U').unwrap_or(digits);
        let magnitude = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
            Some(hex) => i128::from(u64::from_str_radix(hex, 16).ok()?),
            None => digits.parse::<i128>().ok()?,
        };
        Some(self.cut((sign * magnitude) as u64))
    }
}
