//! Instructions, decoded.

use super::types::Type;

/// A register's number, or another source of bits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Operand {
    Register(u32),
    Immediate(u64),
    Special(Special),
}

/// Registers that the hardware fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    Tid(usize),
    Ntid(usize),
    Ctaid(usize),
    Nctaid(usize),
    LaneId,
    WarpId,
}

/// Where an address points to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// Memory of the device; a generic address is one of these, too.
    Global,
    Shared,
    Local,
    Param,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

/// What a shuffle reads from: a lane above, below, across, or of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

/// Functions of one float.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    Negate,
    Absolute,
    SquareRoot,
    Reciprocal,
    ReciprocalSquareRoot,
    Exp2,
    Log2,
    Sine,
    Cosine,
    Tanh,
}

/// Functions of two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binary {
    Add,
    Subtract,
    Multiply,
    MultiplyHigh,
    Divide,
    Remainder,
    Minimum,
    Maximum,
    And,
    Or,
    Xor,
    ShiftLeft,
    ShiftRight,
    /// The second's size with the first's sign.
    CopySign,
}

/// How a conversion rounds to an integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    Nearest,
    Zero,
    Down,
    Up,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    Move {
        to: u32,
        from: Operand,
    },
    /// `{a, b, …}` into one register, the first lowest.
    Pack {
        to: u32,
        parts: Vec<Operand>,
        part_bits: u32,
    },
    Unpack {
        parts: Vec<u32>,
        from: Operand,
        part_bits: u32,
    },
    /// The address of shared or local memory as a generic one, or back.
    Generic {
        to: u32,
        from: Operand,
        space: Space,
        back: bool,
    },
    Load {
        to: Vec<u32>,
        space: Space,
        address: Operand,
        offset: i64,
        ty: Type,
    },
    Store {
        from: Vec<Operand>,
        space: Space,
        address: Operand,
        offset: i64,
        ty: Type,
    },
    Atomic {
        to: u32,
        address: Operand,
        offset: i64,
        value: Operand,
        what: Binary,
        ty: Type,
    },
    Unary {
        what: Function,
        ty: Type,
        to: u32,
        a: Operand,
    },
    Not {
        ty: Type,
        to: u32,
        a: Operand,
    },
    /// −a of an integer.
    Negate {
        ty: Type,
        to: u32,
        a: Operand,
    },
    /// |a| of an integer.
    Absolute {
        ty: Type,
        to: u32,
        a: Operand,
    },
    Binary {
        what: Binary,
        ty: Type,
        to: u32,
        a: Operand,
        b: Operand,
    },
    /// a b of twice the width.
    Widening {
        ty: Type,
        to: u32,
        a: Operand,
        b: Operand,
        c: Option<Operand>,
    },
    /// a b + c: one rounding for floats.
    MultiplyAdd {
        ty: Type,
        to: u32,
        a: Operand,
        b: Operand,
        c: Operand,
    },
    /// The lowest `len` bits of `a`, in place of those of `b` from bit `first` on.
    InsertBits {
        ty: Type,
        to: u32,
        a: Operand,
        b: Operand,
        first: Operand,
        len: Operand,
    },
    Compare {
        how: Comparison,
        unordered: bool,
        ty: Type,
        to: u32,
        a: Operand,
        b: Operand,
        with: Option<(Binary, Operand, bool)>,
    },
    /// Whether both (true) or not both are numbers.
    Ordered {
        wanted: bool,
        ty: Type,
        to: u32,
        a: Operand,
        b: Operand,
    },
    Select {
        to: u32,
        a: Operand,
        b: Operand,
        by: Operand,
    },
    Convert {
        to_type: Type,
        from_type: Type,
        to: u32,
        a: Operand,
        rounding: Option<Rounding>,
        saturate: bool,
    },
    Shuffle {
        how: Shuffle,
        to: u32,
        valid: Option<u32>,
        a: Operand,
        b: Operand,
        c: Operand,
    },
    Branch {
        target: usize,
    },
    Barrier,
    Exit,
    /// A function that is only called when an assertion fails.
    Fail,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Instruction {
    /// The predicate that must hold, or with `true` must not.
    pub guard: Option<(u32, bool)>,
    pub operation: Operation,
    /// As it was written, for messages.
    pub text: String,
}
