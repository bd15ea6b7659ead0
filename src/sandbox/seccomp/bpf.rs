//! An assembler for the kernel's filter programs.
//!
//! Jumps only go forward and reach 255 instructions, so a program is written from its end: whoever jumps knows already
//! where to. See <https://www.kernel.org/doc/html/latest/networking/filter.html>.

/// `BPF_LD | BPF_W | BPF_ABS`.
const LOAD: u16 = 0x20;
/// `BPF_JMP | BPF_JA`.
const JUMP: u16 = 0x05;
/// `BPF_JMP | BPF_JEQ | BPF_K`.
const EQUAL: u16 = 0x15;
/// `BPF_JMP | BPF_JGE | BPF_K`.
const AT_LEAST: u16 = 0x35;
/// `BPF_JMP | BPF_JSET | BPF_K`.
const ANY_BIT: u16 = 0x45;
/// `BPF_RET | BPF_K`.
const RETURN: u16 = 0x06;

/// The farthest that a conditional jump may go, less the two jumps that may have to be put in between.
const REACH: usize = 253;

/// One instruction, `struct sock_filter`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Instruction {
    code: u16,
    yes: u8,
    no: u8,
    value: u32,
}

impl Instruction {
    /// The eight bytes of `struct sock_filter`, in their order in memory.
    fn pack(self) -> u64 {
        let mut bytes = [0; 8];
        bytes[0..2].copy_from_slice(&self.code.to_ne_bytes());
        bytes[2] = self.yes;
        bytes[3] = self.no;
        bytes[4..8].copy_from_slice(&self.value.to_ne_bytes());
        u64::from_ne_bytes(bytes)
    }
}

/// A place in a program, counted from its end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Label(usize);

/// A program that is being written.
#[derive(Debug, Default)]
pub(super) struct Program {
    /// The last instruction first.
    reversed: Vec<Instruction>,
}

impl Program {
    fn put(&mut self, code: u16, value: u32) -> Label {
        self.reversed.push(Instruction { code, yes: 0, no: 0, value });
        Label(self.reversed.len() - 1)
    }

    /// Ends with an answer.
    pub fn ret(&mut self, answer: u32) -> Label {
        self.put(RETURN, answer)
    }

    /// Loads a word of `struct seccomp_data`, then goes on at `next`.
    pub fn load(&mut self, offset: u32, next: Label) -> Label {
        if next.0 + 1 != self.reversed.len() {
            self.jump(next);
        }
        self.put(LOAD, offset)
    }

    fn jump(&mut self, to: Label) -> Label {
        let distance = self.reversed.len() - 1 - to.0;
        self.put(JUMP, distance as u32)
    }

    /// A place within reach that leads to `label`.
    fn near(&mut self, label: Label) -> Label {
        let target = self.reversed[label.0];
        match self.reversed.len() - label.0 {
            distance if distance <= REACH => label,
            _ if target.code == RETURN => self.ret(target.value),
            _ => self.jump(label),
        }
    }

    fn branch(&mut self, code: u16, value: u32, yes: Label, no: Label) -> Label {
        let (yes, no) = (self.near(yes), self.near(no));
        let here = self.reversed.len();
        let distance = |label: Label| (here - 1 - label.0) as u8;
        self.reversed.push(Instruction { code, yes: distance(yes), no: distance(no), value });
        Label(here)
    }

    /// Compares what was loaded with one value.
    pub fn equal(&mut self, value: u32, yes: Label, no: Label) -> Label {
        self.branch(EQUAL, value, yes, no)
    }

    /// Tests what was loaded for any of some bits.
    pub fn any_bit(&mut self, bits: u32, yes: Label, no: Label) -> Label {
        self.branch(ANY_BIT, bits, yes, no)
    }

    /// Finds the range that what was loaded lies in, by halving. Each range begins at its number and ends before the
    /// next; the first begins at 0.
    pub fn tree(&mut self, ranges: &[(u32, Label)]) -> Label {
        match ranges {
            [] => self.ret(0),
            [(_, only)] => *only,
            _ => {
                let (low, high) = ranges.split_at(ranges.len() / 2);
                let (yes, no) = (self.tree(high), self.tree(low));
                self.branch(AT_LEAST, high[0].0, yes, no)
            }
        }
    }

    /// The program, first instruction first; it begins with what was written last.
    pub fn finish(self) -> Vec<u64> {
        self.reversed.into_iter().rev().map(Instruction::pack).collect()
    }
}

/// Runs a program over a `struct seccomp_data` as the kernel does; gives its answer and how many instructions it took.
#[cfg(test)]
pub(super) fn interpret(program: &[u64], data: &[u8; 64]) -> (u32, usize) {
    let mut accumulator = 0;
    let mut at = 0;
    for steps in 1.. {
        let bytes = program[at].to_ne_bytes();
        let code = u16::from_ne_bytes([bytes[0], bytes[1]]);
        let (yes, no) = (usize::from(bytes[2]), usize::from(bytes[3]));
        let value = u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        let branch = |condition: bool| if condition { yes } else { no };
        at += 1 + match code {
            LOAD => {
                let word = &data[value as usize..value as usize + 4];
                accumulator = u32::from_ne_bytes([word[0], word[1], word[2], word[3]]);
                0
            }
            JUMP => value as usize,
            EQUAL => branch(accumulator == value),
            AT_LEAST => branch(accumulator >= value),
            ANY_BIT => branch(accumulator & value != 0),
            RETURN => return (value, steps),
            other => panic!("no such instruction: {other:#x}"),
        };
    }
    unreachable!("every program ends")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn far_targets_are_reached_by_another_jump() {
        let mut program = Program::default();
        let (a, b) = (program.ret(1), program.ret(2));
        let far = program.load(4, b);
        let many: Vec<(u32, Label)> = (0..600)
            .map(|number| {
                (
                    number,
                    if number % 3 == 0 {
                        far
                    } else if number % 3 == 1 {
                        a
                    } else {
                        b
                    },
                )
            })
            .collect();
        let tree = program.tree(&many);
        program.load(0, tree);
        let program = program.finish();
        for number in 0_u32..600 {
            let mut data = [0; 64];
            data[0..4].copy_from_slice(&number.to_ne_bytes());
            let expected = if number % 3 == 1 { 1 } else { 2 };
            assert_eq!(interpret(&program, &data).0, expected, "{number}");
        }
    }
}
