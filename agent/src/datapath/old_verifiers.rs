//! Finds in the BPF object, with no kernel, what verifiers of kernels that are in use refuse at once. Whatever else they
//! refuse, only such a kernel tells: `cargo xtask test --kernel`.

use std::collections::{BTreeMap, BTreeSet};

use aya_obj::{Object, generated::bpf_insn};

use super::programs::OBJECT;

/// The deepest stack of a chain of calls, in bytes (`MAX_BPF_STACK`).
const MAX_STACK: usize = 512;
/// What each frame is rounded up to before Linux 6.8 (`check_max_stack_depth`); later, 16.
const FRAME: usize = 32;
/// The register that points to the top of a frame.
const R10: u8 = 10;

/// Classes and operations of instructions, from linux/bpf_common.h and linux/bpf.h.
mod code {
    pub(super) const CLASS: u8 = 0x07;
    pub(super) const LDX: u8 = 0x01;
    pub(super) const ST: u8 = 0x02;
    pub(super) const STX: u8 = 0x03;
    pub(super) const JMP: u8 = 0x05;
    pub(super) const JMP32: u8 = 0x06;
    pub(super) const OPERATION: u8 = 0xf0;
    pub(super) const ALWAYS: u8 = 0x00;
    pub(super) const CALL: u8 = 0x80;
    pub(super) const EXIT: u8 = 0x90;
    pub(super) const ADD64_IMMEDIATE: u8 = 0x07;
    pub(super) const MOV64_REGISTER: u8 = 0xbf;
    /// The source of a call to a function of the program (`BPF_PSEUDO_CALL`).
    pub(super) const PSEUDO_CALL: u8 = 1;
}

/// The operation of a jump, call or exit; `None`: another instruction.
fn jump(instruction: &bpf_insn) -> Option<u8> {
    let class = instruction.code & code::CLASS;
    (class == code::JMP || class == code::JMP32).then_some(instruction.code & code::OPERATION)
}

/// The function that an instruction calls, by its first instruction.
fn called(at: usize, instruction: &bpf_insn) -> Option<usize> {
    let calls = jump(instruction) == Some(code::CALL) && instruction.src_reg() == code::PSEUDO_CALL;
    calls.then(|| at.wrapping_add_signed(instruction.imm as isize + 1))
}

/// Where the verifier goes on from an instruction, in its order, and whether that may close a loop (`visit_insn` in
/// kernel/bpf/verifier.c of Linux 6.1).
fn edges(at: usize, instruction: &bpf_insn) -> Vec<(usize, bool)> {
    let next = at + 1;
    let target = next.wrapping_add_signed(instruction.off.into());
    match jump(instruction) {
        Some(code::EXIT) => Vec::new(),
        Some(code::ALWAYS) => vec![(target, true)],
        Some(code::CALL) => {
            let called = called(at, instruction).map(|function| (function, false));
            [(next, false)].into_iter().chain(called).collect()
        }
        Some(_) => vec![(next, true), (target, true)],
        None => vec![(next, false)],
    }
}

/// Looks for an edge back to an instruction from which the verifier came, that is none of a jump: what it calls a
/// "back-edge from insn … to …" before Linux 6.7. A compiler makes one when it enters a loop in its middle.
fn back_edge(program: &[bpf_insn]) -> Option<(usize, usize)> {
    #[derive(Clone, Copy, PartialEq)]
    enum State {
        Unknown,
        Discovered,
        Explored,
    }
    let mut states = vec![State::Unknown; program.len()];
    let mut path = vec![(0, edges(0, &program[0]).into_iter())];
    states[0] = State::Discovered;
    while let Some((at, left)) = path.last_mut() {
        let at = *at;
        match left.next() {
            None => {
                states[at] = State::Explored;
                path.pop();
            }
            Some((to, may_loop)) => match states[to] {
                State::Unknown => {
                    states[to] = State::Discovered;
                    path.push((to, edges(to, &program[to]).into_iter()));
                }
                State::Discovered if !may_loop => return Some((at, to)),
                State::Discovered | State::Explored => {}
            },
        }
    }
    None
}

/// Functions of a program by their first instruction, each with the depth of its frame and the functions that it calls.
fn functions(program: &[bpf_insn]) -> BTreeMap<usize, (usize, BTreeSet<usize>)> {
    let calls = |(at, instruction)| called(at, instruction);
    let starts: BTreeSet<_> = [0]
        .into_iter()
        .chain(program.iter().enumerate().filter_map(calls))
        .collect();
    let ends = starts.iter().skip(1).copied().chain([program.len()]);
    let all = starts.iter().copied().zip(ends);
    all.map(|(start, end)| {
        let body = || program.iter().enumerate().take(end).skip(start);
        (
            start,
            (
                frame(&program[start..end]),
                body().filter_map(calls).collect(),
            ),
        )
    })
    .collect()
}

/// How far below its top a function's frame is used: by loads and stores, and by addresses that are made.
fn frame(function: &[bpf_insn]) -> usize {
    let direct = function.iter().filter(|instruction| {
        let base = match instruction.code & code::CLASS {
            code::LDX => instruction.src_reg(),
            code::ST | code::STX => instruction.dst_reg(),
            _ => return false,
        };
        base == R10
    });
    let addresses = function.windows(2).filter(|pair| {
        pair[0].code == code::MOV64_REGISTER
            && pair[0].src_reg() == R10
            && pair[1].code == code::ADD64_IMMEDIATE
            && pair[1].dst_reg() == pair[0].dst_reg()
    });
    let direct = direct.map(|instruction| i32::from(instruction.off));
    let addresses = addresses.map(|pair| pair[1].imm);
    let lowest = direct.chain(addresses).min().unwrap_or(0);
    lowest.min(0).unsigned_abs() as usize
}

/// The deepest chain of calls from a function: its stack as the verifier counts it, and how it got there.
fn deepest(
    functions: &BTreeMap<usize, (usize, BTreeSet<usize>)>,
    start: usize,
) -> (usize, Vec<usize>) {
    let (frame, calls) = &functions[&start];
    let below = calls.iter().map(|call| deepest(functions, *call)).max();
    let (stack, mut chain) = below.unwrap_or_default();
    chain.insert(0, *frame);
    (stack + frame.max(&1).next_multiple_of(FRAME), chain)
}

/// Every program with its functions behind it, as it is given to the kernel.
fn programs() -> Vec<(String, Vec<bpf_insn>)> {
    let mut object = Object::parse(OBJECT).unwrap();
    let sections = object.functions.keys().map(|(section, _)| *section);
    let sections = sections.collect();
    object.relocate_calls(&sections).unwrap();
    let linked = object.programs.iter().map(|(name, program)| {
        let function = &object.functions[&program.function_key()];
        (name.clone(), function.instructions.clone())
    });
    linked.collect()
}

#[test]
fn no_loop_is_entered_in_its_middle() {
    let found: Vec<_> = programs()
        .iter()
        .filter_map(|(name, program)| Some((name.clone(), back_edge(program)?)))
        .map(|(name, (from, to))| format!("{name}: back-edge from insn {from} to {to}"))
        .collect();
    assert!(found.is_empty(), "Linux before 6.7 refuses {found:#?}");
}

#[test]
fn no_chain_of_calls_has_too_deep_a_stack() {
    let found: Vec<_> = programs()
        .iter()
        .map(|(name, program)| (name.clone(), deepest(&functions(program), 0)))
        .filter(|(_, (stack, _))| *stack > MAX_STACK)
        .collect();
    assert!(
        found.is_empty(),
        "Linux before 6.8 refuses a stack of more than {MAX_STACK} bytes: {found:#?}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instruction(code: u8, registers: u8, off: i16, imm: i32) -> bpf_insn {
        let mut instruction = bpf_insn {
            code,
            _bitfield_align_1: [],
            _bitfield_1: bpf_insn::new_bitfield_1(registers & 0xf, registers >> 4),
            off,
            imm,
        };
        instruction.set_src_reg(registers >> 4);
        instruction
    }

    fn nothing() -> bpf_insn {
        instruction(0xb7, 0, 0, 0)
    }

    fn unless(off: i16) -> bpf_insn {
        instruction(0x15, 0, off, 0)
    }

    fn always(off: i16) -> bpf_insn {
        instruction(0x05, 0, off, 0)
    }

    fn exit() -> bpf_insn {
        instruction(0x95, 0, 0, 0)
    }

    #[test]
    fn a_loop_that_ends_with_a_jump_is_taken() {
        let program = [nothing(), nothing(), unless(1), always(-3), exit()];
        assert_eq!(back_edge(&program), None);
    }

    #[test]
    fn a_loop_that_is_entered_in_its_middle_is_found() {
        // 0 jumps to 2; 3 jumps back to 1, from where 2 comes again.
        let program = [always(1), nothing(), nothing(), unless(-3), exit()];
        assert_eq!(back_edge(&program), Some((1, 2)));
    }

    #[test]
    fn frames_of_a_chain_are_rounded_up_and_added() {
        let to_stack = |off| instruction(0x7a, R10, off, 0);
        let address = [instruction(0xbf, 0xa1, 0, 0), instruction(0x07, 1, 0, -40)];
        let call = instruction(0x85, 0x10, 0, 1);
        let program = [&[to_stack(-8), call, exit()][..], &address, &[exit()]].concat();
        let functions = functions(&program);
        assert_eq!(functions[&0], (8, [3].into()));
        assert_eq!(functions[&3].0, 40);
        assert_eq!(deepest(&functions, 0), (32 + 64, vec![8, 40]));
    }
}
