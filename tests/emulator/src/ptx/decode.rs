//! From a kernel's text to instructions.

use std::collections::BTreeMap;

use super::operation::{
    Binary, Comparison, Function, Instruction, Operand, Operation, Rounding, Shuffle, Space,
    Special,
};
use super::types::Type;

/// A kernel, ready to run.
#[derive(Debug)]
pub struct Kernel {
    pub name: String,
    /// Bytes and offset of each parameter.
    pub parameters: Vec<(usize, usize)>,
    pub registers: usize,
    /// Bytes of shared memory that the kernel declares itself.
    pub shared: usize,
    pub local: usize,
    pub code: Vec<Instruction>,
}

/// What names stand for while a kernel is decoded.
#[derive(Default)]
struct Names {
    /// Registers, the innermost block last: inline assembly declares its own.
    scopes: Vec<BTreeMap<String, u32>>,
    registers: u32,
    parameters: BTreeMap<String, usize>,
    shared: BTreeMap<String, usize>,
    local: BTreeMap<String, usize>,
    shared_bytes: usize,
    local_bytes: usize,
}

/// Decodes `text`: parameters in parentheses, then the body behind `{`. `shared` are the module's
/// own declarations.
pub fn kernel(name: &str, text: &str, shared: &[String]) -> Result<Kernel, String> {
    let (head, body) = text.split_once("\n{").ok_or_else(|| format!("`{name}` has no body"))?;
    let mut names = Names { scopes: vec![BTreeMap::new()], ..Names::default() };
    let parameters = names.parameters(head)?;
    for declaration in shared.iter().map(|line| line.trim_end_matches(';')) {
        let (_, declared) = declaration.split_once(' ').ok_or("a variable without a name")?;
        if body.contains(&variable(declared)?.0) {
            names.declare(declaration)?;
        }
    }

    let mut code = Vec::new();
    let mut labels = BTreeMap::new();
    let mut branches = Vec::new();
    for statement in statements(body) {
        let context = |error: String| format!("`{name}`: `{statement}`: {error}");
        match statement.as_str() {
            "{" => names.scopes.push(BTreeMap::new()),
            "}" => {
                names.scopes.pop();
            }
            _ if statement.ends_with(':') => {
                labels.insert(statement.trim_end_matches(':').to_owned(), code.len());
            }
            _ if statement.starts_with('.') => names.declare(&statement).map_err(context)?,
            _ => {
                let (instruction, label) = names.instruction(&statement).map_err(context)?;
                if let Some(label) = label {
                    branches.push((code.len(), label));
                }
                code.push(instruction);
            }
        }
    }
    code.push(Instruction { guard: None, operation: Operation::Exit, text: "(end)".into() });
    for (at, label) in branches {
        let target = *labels.get(&label).ok_or_else(|| format!("`{name}`: no label `{label}`"))?;
        code[at].operation = Operation::Branch { target };
    }
    Ok(Kernel {
        name: name.to_owned(),
        parameters,
        registers: names.registers as usize,
        shared: names.shared_bytes,
        local: names.local_bytes,
        code,
    })
}

/// The body's statements: labels, braces, directives and instructions, without comments.
fn statements(body: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut statement = String::new();
    for line in body.lines() {
        let line = line.split("//").next().unwrap_or("");
        let mut in_operand = false;
        for c in line.chars() {
            match c {
                ';' => {
                    let whole = statement.split_whitespace().collect::<Vec<_>>().join(" ");
                    found.extend((!whole.is_empty()).then_some(whole));
                    statement.clear();
                }
                // A brace that begins a statement is a block, another is a vector.
                '{' if statement.trim().is_empty() => found.push("{".into()),
                '}' if statement.trim().is_empty() => found.push("}".into()),
                ':' if !in_operand && !statement.contains(char::is_whitespace) => {
                    found.push(format!("{}:", statement.trim()));
                    statement.clear();
                }
                _ => {
                    in_operand = c == '[';
                    statement.push(c);
                }
            }
        }
        statement.push(' ');
        if statement.trim().is_empty() {
            statement.clear();
        }
    }
    found
}

impl Names {
    fn parameters(&mut self, head: &str) -> Result<Vec<(usize, usize)>, String> {
        let inside = head.split_once('(').and_then(|(_, rest)| rest.rsplit_once(')'));
        let Some((inside, _)) = inside else { return Ok(Vec::new()) };
        let mut at = 0_usize;
        let mut found = Vec::new();
        for parameter in inside.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let (name, bytes, align) = variable(parameter)?;
            at = at.next_multiple_of(align);
            found.push((bytes, at));
            self.parameters.insert(name, at);
            at += bytes;
        }
        Ok(found)
    }

    /// `.reg .f32 %f<10>`, `.shared .align 4 .b8 name[64]`, `.local …`; others say nothing to us.
    fn declare(&mut self, statement: &str) -> Result<(), String> {
        if let Some(rest) = statement.strip_prefix(".reg ") {
            let (_, list) = rest.trim().split_once(' ').ok_or("a register without a name")?;
            for name in list.split(',').map(str::trim) {
                match name.split_once('<') {
                    Some((stem, count)) => {
                        let count = count.trim_end_matches('>').parse::<u32>();
                        for i in 0..count.map_err(|error| error.to_string())? {
                            self.register(format!("{stem}{i}"));
                        }
                    }
                    None => self.register(name.to_owned()),
                }
            }
        } else if let Some(declared) = statement.strip_prefix(".param ") {
            // Of a call: what is written there is not looked at.
            self.parameters.insert(variable(declared)?.0, 0);
        } else if statement.starts_with(".shared") || statement.starts_with(".local") {
            let is_shared = statement.starts_with(".shared");
            let (_, declared) = statement.split_once(' ').ok_or("a variable without a name")?;
            let (name, bytes, align) = variable(declared)?;
            let (names, total) = match is_shared {
                true => (&mut self.shared, &mut self.shared_bytes),
                false => (&mut self.local, &mut self.local_bytes),
            };
            *total = total.next_multiple_of(align);
            names.insert(name, *total);
            *total += bytes;
        }
        Ok(())
    }

    fn register(&mut self, name: String) {
        let number = self.registers;
        self.registers += 1;
        self.scopes.last_mut().expect("the kernel's own").insert(name, number);
    }

    fn to(&self, word: &str) -> Result<u32, String> {
        let found = self.scopes.iter().rev().find_map(|scope| scope.get(word.trim()));
        found.copied().ok_or_else(|| format!("no register `{word}`"))
    }

    fn operand(&self, word: &str, ty: Type) -> Result<Operand, String> {
        let word = word.trim();
        if let Ok(register) = self.to(word) {
            return Ok(Operand::Register(register));
        }
        let axis = |word: &str| match word {
            "x" => Some(0),
            "y" => Some(1),
            "z" => Some(2),
            _ => None,
        };
        if let Some(special) = word.strip_prefix('%') {
            let found = match special.split_once('.') {
                Some(("tid", of)) => axis(of).map(Special::Tid),
                Some(("ntid", of)) => axis(of).map(Special::Ntid),
                Some(("ctaid", of)) => axis(of).map(Special::Ctaid),
                Some(("nctaid", of)) => axis(of).map(Special::Nctaid),
                None if special == "laneid" => Some(Special::LaneId),
                None if special == "warpid" => Some(Special::WarpId),
                _ => None,
            };
            return found.map(Operand::Special).ok_or_else(|| format!("no register `{word}`"));
        }
        let variable = self.shared.get(word).or_else(|| self.local.get(word));
        if let Some(&at) = variable.or_else(|| self.parameters.get(word)) {
            return Ok(Operand::Immediate(at as u64));
        }
        // A text of the module, for the message of an assertion.
        if word.starts_with('$') || word.starts_with("__") {
            return Ok(Operand::Immediate(0));
        }
        ty.immediate(word).map(Operand::Immediate).ok_or_else(|| format!("no operand `{word}`"))
    }

    /// `[base+8]`: a register or a name, and an offset.
    fn address(&self, word: &str) -> Result<(Operand, i64), String> {
        let inside = word.trim().trim_start_matches('[').trim_end_matches(']');
        let (base, offset) = match inside.split_once('+') {
            Some((base, offset)) => {
                (base, offset.trim().parse().map_err(|_| format!("no offset `{offset}`"))?)
            }
            None => (inside, 0),
        };
        Ok((self.operand(base, Type::U(64))?, offset))
    }

    /// One instruction; a branch comes with its label.
    fn instruction(&self, statement: &str) -> Result<(Instruction, Option<String>), String> {
        let (guard, rest) = match statement.strip_prefix('@') {
            Some(rest) => {
                let (predicate, rest) = rest.split_once(' ').ok_or("a guard of nothing")?;
                match predicate.strip_prefix('!') {
                    Some(predicate) => (Some((self.to(predicate)?, true)), rest),
                    None => (Some((self.to(predicate)?, false)), rest),
                }
            }
            None => (None, statement),
        };
        let (name, operands) = rest.trim().split_once(' ').unwrap_or((rest.trim(), ""));
        let words: Vec<&str> = name.split('.').collect();
        let operands = split(operands);
        let mut label = None;
        let operation = match words[0] {
            "bra" => {
                label = Some(operands.first().ok_or("a branch to nowhere")?.clone());
                Operation::Branch { target: usize::MAX }
            }
            "ret" | "exit" => Operation::Exit,
            "bar" | "barrier" => Operation::Barrier,
            "call" | "trap" => Operation::Fail,
            _ => self.computing(&words, &operands)?,
        };
        Ok((Instruction { guard, operation, text: statement.to_owned() }, label))
    }

    fn computing(&self, words: &[&str], operands: &[String]) -> Result<Operation, String> {
        let has = |word: &str| words[1..].contains(&word);
        let types: Vec<Type> = words[1..].iter().filter_map(|word| Type::parse(word)).collect();
        let ty = *types.last().ok_or("an instruction that is not known here")?;
        let at = |i: usize| operands.get(i).map(String::as_str).ok_or("an operand is missing");
        let source = |i: usize| self.operand(at(i)?, ty);
        let to = || self.to(at(0)?);
        let space = if has("shared") {
            Space::Shared
        } else if has("local") {
            Space::Local
        } else if has("param") {
            Space::Param
        } else {
            Space::Global
        };
        let unary = |what| Ok(Operation::Unary { what, ty, to: to()?, a: source(1)? });
        let binary =
            |what| Ok(Operation::Binary { what, ty, to: to()?, a: source(1)?, b: source(2)? });
        match words[0] {
            "mov" => self.moved(ty, at(0)?, at(1)?),
            "cvta" => {
                let back = has("to");
                Ok(Operation::Generic { to: to()?, from: source(1)?, space, back })
            }
            "ld" | "ldu" => {
                let (address, offset) = self.address(at(1)?)?;
                let to = vector(at(0)?).map(|word| self.to(word)).collect::<Result<_, _>>()?;
                Ok(Operation::Load { to, space, address, offset, ty })
            }
            "st" => {
                let (address, offset) = self.address(at(0)?)?;
                let from = vector(at(1)?).map(|w| self.operand(w, ty)).collect::<Result<_, _>>()?;
                Ok(Operation::Store { from, space, address, offset, ty })
            }
            "atom" | "red" => {
                let result = words[0] == "atom";
                let what = match words.iter().find_map(|word| arithmetic(word)) {
                    Some(what) => what,
                    None => return Err("an atomic operation that is not known here".into()),
                };
                let (address, offset) = self.address(at(usize::from(result))?)?;
                let value = source(1 + usize::from(result))?;
                let to = if result { to()? } else { u32::MAX };
                Ok(Operation::Atomic { to, address, offset, value, what, ty })
            }
            "neg" if ty.is_float() => unary(Function::Negate),
            "neg" => Ok(Operation::Negate { ty, to: to()?, a: source(1)? }),
            "abs" if ty.is_float() => unary(Function::Absolute),
            "abs" => Ok(Operation::Absolute { ty, to: to()?, a: source(1)? }),
            "sqrt" => unary(Function::SquareRoot),
            "rcp" => unary(Function::Reciprocal),
            "rsqrt" => unary(Function::ReciprocalSquareRoot),
            "ex2" => unary(Function::Exp2),
            "lg2" => unary(Function::Log2),
            "sin" => unary(Function::Sine),
            "cos" => unary(Function::Cosine),
            "tanh" => unary(Function::Tanh),
            "not" => Ok(Operation::Not { ty, to: to()?, a: source(1)? }),
            "mul" if has("wide") => {
                Ok(Operation::Widening { ty, to: to()?, a: source(1)?, b: source(2)?, c: None })
            }
            "mad" if has("wide") => {
                let wide = self.operand(at(3)?, Type::U(64))?;
                let (a, b) = (source(1)?, source(2)?);
                Ok(Operation::Widening { ty, to: to()?, a, b, c: Some(wide) })
            }
            "mul" if has("hi") => binary(Binary::MultiplyHigh),
            "mad" | "fma" if !has("hi") => Ok(Operation::MultiplyAdd {
                ty,
                to: to()?,
                a: source(1)?,
                b: source(2)?,
                c: source(3)?,
            }),
            "bfi" => Ok(Operation::InsertBits {
                ty,
                to: to()?,
                a: source(1)?,
                b: source(2)?,
                first: self.operand(at(3)?, Type::U(32))?,
                len: self.operand(at(4)?, Type::U(32))?,
            }),
            "setp" => self.compare(words, ty, operands),
            "selp" => Ok(Operation::Select {
                to: to()?,
                a: source(1)?,
                b: source(2)?,
                by: self.operand(at(3)?, Type::Pred)?,
            }),
            "cvt" => {
                let rounding = words[1..].iter().find_map(|word| match *word {
                    "rni" => Some(Rounding::Nearest),
                    "rzi" | "rz" => Some(Rounding::Zero),
                    "rmi" => Some(Rounding::Down),
                    "rpi" => Some(Rounding::Up),
                    _ => None,
                });
                let [to_type, from_type] = types[..] else {
                    return Err("a conversion has two types".into());
                };
                let (to, a) = (to()?, self.operand(at(1)?, from_type)?);
                let saturate = has("sat");
                Ok(Operation::Convert { to_type, from_type, to, a, rounding, saturate })
            }
            "shfl" => {
                let how = match () {
                    () if has("up") => Shuffle::Up,
                    () if has("down") => Shuffle::Down,
                    () if has("bfly") => Shuffle::Butterfly,
                    () => Shuffle::Index,
                };
                let (to, valid) = match at(0)?.split_once('|') {
                    Some((to, valid)) => (self.to(to)?, Some(self.to(valid)?)),
                    None => (to()?, None),
                };
                Ok(Operation::Shuffle {
                    how,
                    to,
                    valid,
                    a: source(1)?,
                    b: source(2)?,
                    c: source(3)?,
                })
            }
            other => match arithmetic(other) {
                Some(what) => binary(what),
                None => Err("an instruction that is not known here".into()),
            },
        }
    }

    /// A move, to a vector or from one.
    fn moved(&self, ty: Type, to: &str, from: &str) -> Result<Operation, String> {
        let count = |word: &str| word.matches(',').count() as u32 + 1;
        if from.starts_with('{') {
            let part_bits = ty.bits() / count(from);
            let part = Type::B(part_bits as u8);
            let parts =
                vector(from).map(|word| self.operand(word, part)).collect::<Result<_, _>>()?;
            return Ok(Operation::Pack { to: self.to(to)?, parts, part_bits });
        }
        let operand = self.operand(from, ty)?;
        if to.starts_with('{') {
            let part_bits = ty.bits() / count(to);
            let parts = vector(to).map(|word| self.to(word)).collect::<Result<_, _>>()?;
            return Ok(Operation::Unpack { parts, from: operand, part_bits });
        }
        Ok(Operation::Move { to: self.to(to)?, from: operand })
    }

    /// `setp.lt.f32`, `setp.gtu.and.f32`, …
    fn compare(&self, words: &[&str], ty: Type, operands: &[String]) -> Result<Operation, String> {
        let [to, a, b, with @ ..] = operands else {
            return Err("a comparison has two sides".into());
        };
        let (to, a, b) = (self.to(to)?, self.operand(a, ty)?, self.operand(b, ty)?);
        let how = words[1];
        if matches!(how, "num" | "nan") {
            return Ok(Operation::Ordered { wanted: how == "num", ty, to, a, b });
        }
        // Behind a comparison of floats, u: true as well where one is not a number.
        let (how, unordered) = match how.strip_suffix('u') {
            Some(how) if ty.is_float() => (how, true),
            _ => (how, false),
        };
        let how = match how {
            "eq" => Comparison::Eq,
            "ne" => Comparison::Ne,
            "lt" | "lo" => Comparison::Lt,
            "le" | "ls" => Comparison::Le,
            "gt" | "hi" => Comparison::Gt,
            "ge" | "hs" => Comparison::Ge,
            _ => return Err("a comparison that is not known here".into()),
        };
        let with = match with {
            [] => None,
            [predicate, ..] => {
                let what = arithmetic(words[2]).ok_or("a combination that is not known here")?;
                let (word, negated) = match predicate.strip_prefix('!') {
                    Some(word) => (word, true),
                    None => (predicate.as_str(), false),
                };
                Some((what, self.operand(word, Type::Pred)?, negated))
            }
        };
        Ok(Operation::Compare { how, unordered, ty, to, a, b, with })
    }
}

fn arithmetic(word: &str) -> Option<Binary> {
    Some(match word {
        "add" => Binary::Add,
        "sub" => Binary::Subtract,
        "mul" => Binary::Multiply,
        "div" => Binary::Divide,
        "rem" => Binary::Remainder,
        "min" => Binary::Minimum,
        "max" => Binary::Maximum,
        "and" => Binary::And,
        "or" => Binary::Or,
        "xor" => Binary::Xor,
        "shl" => Binary::ShiftLeft,
        "shr" => Binary::ShiftRight,
        "copysign" => Binary::CopySign,
        _ => return None,
    })
}

/// Operands at the commas outside of braces and brackets.
fn split(operands: &str) -> Vec<String> {
    let (mut found, mut depth) = (vec![String::new()], 0);
    for c in operands.chars() {
        match c {
            '{' | '[' => depth += 1,
            '}' | ']' => depth -= 1,
            ',' if depth == 0 => {
                found.push(String::new());
                continue;
            }
            _ => {}
        }
        found.last_mut().expect("never empty").push(c);
    }
    found.iter().map(|word| word.trim().to_owned()).filter(|word| !word.is_empty()).collect()
}

/// The words of `{a, b}`, or of `a` alone.
fn vector(word: &str) -> impl Iterator<Item = &str> {
    word.trim().trim_start_matches('{').trim_end_matches('}').split(',').map(str::trim)
}

/// Name, bytes and alignment of `.param .align 4 .b8 name[36]`, `.param .u64 name` and the like.
fn variable(declared: &str) -> Result<(String, usize, usize), String> {
    let mut words = declared.split_whitespace().filter(|word| *word != ".param").peekable();
    let mut align = None;
    let mut ty = None;
    let mut name = "";
    while let Some(word) = words.next() {
        if word == ".align" {
            align = words.next().and_then(|bytes| bytes.parse().ok());
        } else if let Some(word) = word.strip_prefix('.') {
            ty = Type::parse(word).or(ty);
        } else {
            name = word;
        }
    }
    let ty = ty.ok_or_else(|| format!("`{declared}` has no type"))?;
    let (name, count) = match name.split_once('[') {
        Some((name, "]")) => (name, 0),
        Some((name, count)) => {
            let count = count.trim_end_matches(']').parse::<usize>();
            (name, count.map_err(|_| format!("`{declared}` has no size"))?)
        }
        None => (name, 1),
    };
    Ok((name.to_owned(), count * ty.bytes(), align.unwrap_or(ty.bytes())))
}
