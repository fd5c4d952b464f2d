//! Running a kernel: one block after another, its threads in turns, each until it has to wait.
//!
//! Every access to memory is checked against what is allocated.

use super::decode::Kernel;
use super::operation::{
    Binary, Comparison, Function, Instruction, Operand, Operation, Rounding, Shuffle, Space,
    Special,
};
use super::types::Type;

/// Threads that shuffle among themselves.
const WARP: usize = 32;

/// Where generic addresses of shared and of local memory begin: far from any allocation.
const SHARED_WINDOW: u64 = 1 << 56;
const LOCAL_WINDOW: u64 = 2 << 56;

/// The device's memory.
pub trait Memory {
    /// Whether `bytes` bytes from `address` on are allocated, all in one piece.
    fn holds(&self, address: u64, bytes: usize) -> bool;

    /// `bytes` (up to 8) bytes from `address` on, which are allocated.
    fn load(&self, address: u64, bytes: usize) -> u64;

    /// Writes them.
    fn store(&self, address: u64, bytes: usize, value: u64);
}

/// How a kernel is started.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// Bytes of shared memory beside what the kernel declares.
    pub dynamic_shared: usize,
    /// The parameters' bytes, each at its offset.
    pub parameters: &'a [u8],
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Running,
    AtBarrier,
    /// What it brings, and from which lane it takes; `None` keeps its own.
    AtShuffle {
        value: u64,
        from: Option<usize>,
        to: u32,
        valid: Option<u32>,
    },
    Done,
}

struct Thread {
    registers: Vec<u64>,
    local: Vec<u8>,
    at: usize,
    state: State,
    index: [u32; 3],
}

impl Kernel {
    /// Runs the whole grid.
    ///
    /// # Errors
    /// At the first access to what is not allocated, or a wait that never ends; with the kernel,
    /// the thread and the instruction.
    pub fn run(&self, launch: &Launch<'_>, memory: &impl Memory) -> Result<(), String> {
        let [width, height, depth] = launch.grid;
        for z in 0..depth {
            for y in 0..height {
                for x in 0..width {
                    Block::new(self, launch, memory, [x, y, z]).run()?;
                }
            }
        }
        Ok(())
    }
}

struct Block<'a, M> {
    kernel: &'a Kernel,
    launch: &'a Launch<'a>,
    memory: &'a M,
    index: [u32; 3],
    shared: Vec<u8>,
    threads: Vec<Thread>,
}

impl<'a, M: Memory> Block<'a, M> {
    fn new(kernel: &'a Kernel, launch: &'a Launch<'a>, memory: &'a M, index: [u32; 3]) -> Self {
        let [width, height, depth] = launch.block;
        let indices = (0..depth)
            .flat_map(|z| (0..height).flat_map(move |y| (0..width).map(move |x| [x, y, z])));
        let threads = indices.map(|index| Thread {
            registers: vec![0; kernel.registers],
            local: vec![0; kernel.local],
            at: 0,
            state: State::Running,
            index,
        });
        Self {
            kernel,
            launch,
            memory,
            index,
            // What nobody wrote must not look like a number.
            shared: vec![0xff; kernel.shared + launch.dynamic_shared],
            threads: threads.collect(),
        }
    }

    fn run(&mut self) -> Result<(), String> {
        loop {
            for thread in 0..self.threads.len() {
                while self.threads[thread].state == State::Running {
                    self.step(thread)?;
                }
            }
            if self.threads.iter().all(|thread| thread.state == State::Done) {
                return Ok(());
            }
            let shuffled = self.shuffle();
            let waiting = |t: &Thread| matches!(t.state, State::AtBarrier | State::Done);
            if self.threads.iter().all(waiting) {
                for thread in &mut self.threads {
                    if thread.state == State::AtBarrier {
                        thread.state = State::Running;
                    }
                }
            } else if !shuffled {
                return Err(format!(
                    "`{}`: threads wait for each other for ever",
                    self.kernel.name
                ));
            }
        }
    }

    /// Lets every warp whose threads all wait for a shuffle go on; whether there was one.
    fn shuffle(&mut self) -> bool {
        let mut any = false;
        for warp in self.threads.chunks_mut(WARP) {
            let ready = |t: &Thread| matches!(t.state, State::AtShuffle { .. } | State::Done);
            if !warp.iter().all(ready) || warp.iter().all(|t| t.state == State::Done) {
                continue;
            }
            any = true;
            let brought: Vec<Option<u64>> = (warp.iter())
                .map(|thread| match thread.state {
                    State::AtShuffle { value, .. } => Some(value),
                    _ => None,
                })
                .collect();
            for thread in warp {
                let State::AtShuffle { value, from, to, valid } = thread.state else { continue };
                let taken = from.and_then(|from| brought.get(from).copied().flatten());
                thread.registers[to as usize] = taken.unwrap_or(value);
                if let Some(valid) = valid {
                    thread.registers[valid as usize] = u64::from(from.is_some());
                }
                thread.state = State::Running;
            }
        }
        any
    }

    fn value(&self, thread: usize, operand: Operand) -> u64 {
        let at = &self.threads[thread];
        match operand {
            Operand::Register(register) => at.registers[register as usize],
            Operand::Immediate(bits) => bits,
            Operand::Special(special) => match special {
                Special::Tid(axis) => at.index[axis].into(),
                Special::Ntid(axis) => self.launch.block[axis].into(),
                Special::Ctaid(axis) => self.index[axis].into(),
                Special::Nctaid(axis) => self.launch.grid[axis].into(),
                Special::LaneId => (thread % WARP) as u64,
                Special::WarpId => (thread / WARP) as u64,
            },
        }
    }

    fn set(&mut self, thread: usize, register: u32, ty: Type, bits: u64) {
        self.threads[thread].registers[register as usize] = ty.cut(bits);
    }

    /// Carries out one instruction of a thread.
    fn step(&mut self, thread: usize) -> Result<(), String> {
        let kernel = self.kernel;
        let instruction = &kernel.code[self.threads[thread].at];
        self.threads[thread].at += 1;
        if let Some((predicate, negated)) = instruction.guard
            && (self.threads[thread].registers[predicate as usize] & 1 == 1) == negated
        {
            return Ok(());
        }
        let value = |operand: Operand| self.value(thread, operand);
        match &instruction.operation {
            Operation::Branch { target } => self.threads[thread].at = *target,
            Operation::Fail => return Err(self.blame(instruction, thread, "an assertion failed")),
            Operation::Barrier => self.threads[thread].state = State::AtBarrier,
            Operation::Exit => self.threads[thread].state = State::Done,
            Operation::Move { to, from } => {
                let bits = value(*from);
                self.set(thread, *to, Type::B(64), bits);
            }
            Operation::Pack { to, parts, part_bits } => {
                let part = Type::B(*part_bits as u8);
                let bits =
                    parts.iter().rev().fold(0, |bits, &p| bits << part_bits | part.cut(value(p)));
                self.set(thread, *to, Type::B(64), bits);
            }
            Operation::Unpack { parts, from, part_bits } => {
                let bits = value(*from);
                for (i, &part) in parts.iter().enumerate() {
                    let shifted = bits >> (i as u32 * part_bits);
                    self.set(thread, part, Type::B(*part_bits as u8), shifted);
                }
            }
            Operation::Generic { to, from, space, back } => {
                let window = match space {
                    Space::Shared => SHARED_WINDOW,
                    Space::Local => LOCAL_WINDOW,
                    Space::Global | Space::Param => 0,
                };
                let bits = value(*from);
                let moved =
                    if *back { bits.wrapping_sub(window) } else { bits.wrapping_add(window) };
                self.set(thread, *to, Type::B(64), moved);
            }
            Operation::Load { to, space, address, offset, ty } => {
                let start = value(*address).wrapping_add_signed(*offset);
                self.check_alignment(instruction, thread, start, ty.bytes() * to.len())?;
                for (i, &to) in to.iter().enumerate() {
                    let at = start + (i * ty.bytes()) as u64;
                    let bits = self.load(instruction, thread, *space, at, ty.bytes())?;
                    // A load of a signed number fills the register.
                    let bits = if ty.is_signed() { ty.integer(bits) as u64 } else { bits };
                    self.set(thread, to, Type::B(64), bits);
                }
            }
            Operation::Store { from, space, address, offset, ty } => {
                let start = value(*address).wrapping_add_signed(*offset);
                self.check_alignment(instruction, thread, start, ty.bytes() * from.len())?;
                for (i, &from) in from.iter().enumerate() {
                    let at = start + (i * ty.bytes()) as u64;
                    let bits = ty.cut(self.value(thread, from));
                    self.store(instruction, thread, *space, at, ty.bytes(), bits)?;
                }
            }
            Operation::Atomic { to, address, offset, value: by, what, ty } => {
                let at = value(*address).wrapping_add_signed(*offset);
                let by = value(*by);
                let old = self.load(instruction, thread, Space::Global, at, ty.bytes())?;
                let new = binary(*what, *ty, old, by);
                self.store(instruction, thread, Space::Global, at, ty.bytes(), ty.cut(new))?;
                if *to != u32::MAX {
                    self.set(thread, *to, *ty, old);
                }
            }
            Operation::Unary { what, ty, to, a } => {
                let bits = unary(*what, *ty, value(*a));
                self.set(thread, *to, *ty, bits);
            }
            Operation::Not { ty, to, a } => {
                let bits = !value(*a);
                self.set(thread, *to, *ty, bits);
            }
            Operation::Negate { ty, to, a } => {
                let bits = value(*a).wrapping_neg();
                self.set(thread, *to, *ty, bits);
            }
            Operation::Absolute { ty, to, a } => {
                let bits = value(*a);
                let bits = if ty.integer(bits) < 0 { bits.wrapping_neg() } else { bits };
                self.set(thread, *to, *ty, bits);
            }
            Operation::Binary { what, ty, to, a, b } => {
                let bits = binary(*what, *ty, value(*a), value(*b));
                self.set(thread, *to, *ty, bits);
            }
            Operation::Widening { ty, to, a, b, c } => {
                let product = ty.integer(value(*a)) * ty.integer(value(*b));
                let bits = (product as u64).wrapping_add(c.map_or(0, value));
                self.set(thread, *to, Type::B(ty.bits() as u8 * 2), bits);
            }
            Operation::MultiplyAdd { ty, to, a, b, c } => {
                let bits = multiply_add(*ty, value(*a), value(*b), value(*c));
                self.set(thread, *to, *ty, bits);
            }
            Operation::InsertBits { ty, to, a, b, first, len } => {
                let [first, len] = [*first, *len].map(|operand| value(operand) as u32 & 0xff);
                // Bits beyond the register are nobody's.
                let ones = 1u64.checked_shl(len).map_or(u64::MAX, |bit| bit - 1);
                let field = ones.checked_shl(first).unwrap_or(0);
                let inserted = value(*a).checked_shl(first).unwrap_or(0) & field;
                self.set(thread, *to, *ty, value(*b) & !field | inserted);
            }
            Operation::Compare { how, unordered, ty, to, a, b, with } => {
                let mut holds = compare(*how, *unordered, *ty, value(*a), value(*b));
                if let Some((what, other, negated)) = with {
                    let other = (value(*other) & 1 == 1) != *negated;
                    holds = binary(*what, Type::Pred, holds.into(), other.into()) == 1;
                }
                self.set(thread, *to, Type::Pred, holds.into());
            }
            Operation::Ordered { wanted, ty, to, a, b } => {
                let are = !ty.float(value(*a)).is_nan() && !ty.float(value(*b)).is_nan();
                self.set(thread, *to, Type::Pred, (are == *wanted).into());
            }
            Operation::Select { to, a, b, by } => {
                let bits = if value(*by) & 1 == 1 { value(*a) } else { value(*b) };
                self.set(thread, *to, Type::B(64), bits);
            }
            Operation::Convert { to_type, from_type, to, a, rounding, saturate } => {
                let bits = convert(*to_type, *from_type, value(*a), *rounding, *saturate);
                // An integer fills the register, as the narrower ones that follow expect.
                self.set(thread, *to, *to_type, bits);
            }
            Operation::Shuffle { how, to, valid, a, b, c } => {
                let (lane, b, c) = (thread % WARP, value(*b) as usize, value(*c) as usize);
                let clamp = c & 0x1f;
                let from = match how {
                    Shuffle::Up => lane.checked_sub(b).filter(|&from| from >= clamp),
                    Shuffle::Down => Some(lane + b).filter(|&from| from <= clamp),
                    Shuffle::Butterfly => Some(lane ^ b).filter(|&from| from <= clamp),
                    Shuffle::Index => Some(b & 0x1f).filter(|&from| from <= clamp),
                };
                let value = value(*a);
                let (to, valid) = (*to, *valid);
                self.threads[thread].state = State::AtShuffle { value, from, to, valid };
            }
        }
        Ok(())
    }

    fn blame(&self, instruction: &Instruction, thread: usize, what: &str) -> String {
        let (block, at) = (self.index, self.threads[thread].index);
        format!(
            "`{}`, block {block:?}, thread {at:?}: `{}`: {what}",
            self.kernel.name, instruction.text
        )
    }

    fn check_alignment(
        &self,
        instruction: &Instruction,
        thread: usize,
        address: u64,
        bytes: usize,
    ) -> Result<(), String> {
        match address.is_multiple_of(bytes as u64) {
            true => Ok(()),
            false => Err(self.blame(
                instruction,
                thread,
                &format!("{address:#x} is not a multiple of {bytes}"),
            )),
        }
    }

    fn load(
        &self,
        instruction: &Instruction,
        thread: usize,
        space: Space,
        address: u64,
        bytes: usize,
    ) -> Result<u64, String> {
        let (space, address) = resolve(space, address);
        let small = match space {
            Space::Global if self.memory.holds(address, bytes) => {
                return Ok(self.memory.load(address, bytes));
            }
            Space::Global => None,
            Space::Shared => Some(&self.shared[..]),
            Space::Local => Some(&self.threads[thread].local[..]),
            Space::Param => Some(self.launch.parameters),
        };
        let found =
            small.and_then(|all| all.get(address as usize..(address as usize).checked_add(bytes)?));
        match found {
            Some(found) => {
                Ok(found.iter().rev().fold(0, |bits, &byte| bits << 8 | u64::from(byte)))
            }
            None => Err(self.blame(
                instruction,
                thread,
                &format!("reads {bytes} bytes at {address:#x}, which are nobody's"),
            )),
        }
    }

    fn store(
        &mut self,
        instruction: &Instruction,
        thread: usize,
        space: Space,
        address: u64,
        bytes: usize,
        value: u64,
    ) -> Result<(), String> {
        let (space, address) = resolve(space, address);
        let small = match space {
            Space::Global if self.memory.holds(address, bytes) => {
                self.memory.store(address, bytes, value);
                return Ok(());
            }
            Space::Shared => Some(&mut self.shared[..]),
            Space::Local => Some(&mut self.threads[thread].local[..]),
            Space::Global | Space::Param => None,
        };
        let place = small
            .and_then(|all| all.get_mut(address as usize..(address as usize).checked_add(bytes)?));
        match place {
            Some(place) => {
                place.copy_from_slice(&value.to_le_bytes()[..bytes]);
                Ok(())
            }
            None => Err(self.blame(
                instruction,
                thread,
                &format!("writes {bytes} bytes at {address:#x}, which are nobody's"),
            )),
        }
    }
}

/// A generic address's space, and its place there.
fn resolve(space: Space, address: u64) -> (Space, u64) {
    match space {
        Space::Global if address >= LOCAL_WINDOW => (Space::Local, address - LOCAL_WINDOW),
        Space::Global if address >= SHARED_WINDOW => (Space::Shared, address - SHARED_WINDOW),
        _ => (space, address),
    }
}

fn unary(what: Function, ty: Type, bits: u64) -> u64 {
    let x = ty.float(bits);
    let exactly = |f: fn(f64) -> f64, in_32: fn(f32) -> f32| match ty {
        Type::F64 => f(x),
        _ => f64::from(in_32(x as f32)),
    };
    let y = match what {
        // A sign is a bit: a NaN keeps the rest.
        Function::Negate => return bits ^ 1 << (ty.bits() - 1),
        Function::Absolute => return bits & !(1 << (ty.bits() - 1)),
        Function::SquareRoot => exactly(f64::sqrt, f32::sqrt),
        Function::Reciprocal => exactly(|x| 1.0 / x, |x| 1.0 / x),
        Function::ReciprocalSquareRoot => 1.0 / x.sqrt(),
        Function::Exp2 => x.exp2(),
        Function::Log2 => x.log2(),
        Function::Sine => x.sin(),
        Function::Cosine => x.cos(),
        Function::Tanh => x.tanh(),
    };
    ty.of_float(y)
}

fn binary(what: Binary, ty: Type, a: u64, b: u64) -> u64 {
    match what {
        Binary::And => return ty.cut(a & b),
        Binary::Or => return ty.cut(a | b),
        Binary::Xor => return ty.cut(a ^ b),
        Binary::CopySign => {
            let sign = 1 << (ty.bits() - 1);
            return ty.cut(a & sign | b & !sign);
        }
        _ => {}
    }
    if ty.is_float() {
        return float_binary(what, ty, a, b);
    }
    let (x, y) = (ty.integer(a), ty.integer(b));
    let result = match what {
        Binary::Add => x + y,
        Binary::Subtract => x - y,
        Binary::Multiply => (x as u64).wrapping_mul(y as u64).into(),
        Binary::MultiplyHigh if ty.is_signed() => (x * y) >> ty.bits(),
        Binary::MultiplyHigh => ((x as u128 * y as u128) >> ty.bits()) as i128,
        // By zero a GPU gives all ones, and traps nowhere.
        Binary::Divide => x.checked_div(y).unwrap_or(-1),
        Binary::Remainder => x.checked_rem(y).unwrap_or(x),
        Binary::Minimum => x.min(y),
        Binary::Maximum => x.max(y),
        // A shift's width is a number of its own, whatever the type.
        Binary::ShiftLeft => match b as u32 {
            n if n >= ty.bits() => 0,
            n => (ty.cut(a) << n).into(),
        },
        Binary::ShiftRight => x >> (b as u32).min(ty.bits() - u32::from(ty.is_signed())).min(126),
        Binary::And | Binary::Or | Binary::Xor | Binary::CopySign => unreachable!("done above"),
    };
    ty.cut(result as u64)
}

fn float_binary(what: Binary, ty: Type, a: u64, b: u64) -> u64 {
    let (x, y) = (ty.float(a), ty.float(b));
    // f64 has room for the exact sum and product of two f32, or rounds them so that rounding again
    // is harmless; of f32's quotients, too.
    let result = match what {
        Binary::Add => x + y,
        Binary::Subtract => x - y,
        Binary::Multiply => x * y,
        Binary::Divide => x / y,
        Binary::Minimum => x.min(y),
        Binary::Maximum => x.max(y),
        _ => f64::NAN,
    };
    ty.of_float(result)
}

fn multiply_add(ty: Type, a: u64, b: u64, c: u64) -> u64 {
    match ty {
        Type::F64 => f64::from_bits(a).mul_add(f64::from_bits(b), f64::from_bits(c)).to_bits(),
        Type::F32 => {
            let [a, b, c] = [a, b, c].map(|bits| f32::from_bits(bits as u32));
            u64::from(a.mul_add(b, c).to_bits())
        }
        _ if ty.is_float() => ty.of_float(ty.float(a).mul_add(ty.float(b), ty.float(c))),
        _ => ty.cut(a.wrapping_mul(b).wrapping_add(c)),
    }
}

fn compare(how: Comparison, unordered: bool, ty: Type, a: u64, b: u64) -> bool {
    let ordering = match ty.is_float() {
        true => ty.float(a).partial_cmp(&ty.float(b)),
        false => Some(ty.integer(a).cmp(&ty.integer(b))),
    };
    let Some(ordering) = ordering else { return unordered };
    match how {
        Comparison::Eq => ordering.is_eq(),
        Comparison::Ne => ordering.is_ne(),
        Comparison::Lt => ordering.is_lt(),
        Comparison::Le => ordering.is_le(),
        Comparison::Gt => ordering.is_gt(),
        Comparison::Ge => ordering.is_ge(),
    }
}

fn convert(to: Type, from: Type, bits: u64, rounding: Option<Rounding>, saturate: bool) -> u64 {
    let whole = |x: f64| match rounding {
        Some(Rounding::Nearest) => x.round_ties_even(),
        Some(Rounding::Zero) => x.trunc(),
        Some(Rounding::Down) => x.floor(),
        Some(Rounding::Up) => x.ceil(),
        None => x,
    };
    match (from.is_float(), to.is_float()) {
        (true, true) => {
            let x = from.float(bits);
            // Between types of one width a mode rounds to whole numbers.
            let x = if from == to { whole(x) } else { x };
            to.of_float(if saturate { x.clamp(0.0, 1.0) } else { x })
        }
        (true, false) => {
            let x = whole(from.float(bits));
            let width = to.bits();
            let (low, high) = match to.is_signed() {
                true => (-(1_i128 << (width - 1)), (1_i128 << (width - 1)) - 1),
                false => (0, (1_i128 << width) - 1),
            };
            to.cut((x as i128).clamp(low, high) as u64)
        }
        (false, true) => match to {
            Type::F32 => u64::from((from.integer(bits) as f32).to_bits()),
            _ => to.of_float(from.integer(bits) as f64),
        },
        (false, false) => to.cut(from.integer(bits) as u64),
    }
}
