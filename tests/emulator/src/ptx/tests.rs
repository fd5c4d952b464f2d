//! Small kernels whose results can be written down.

use std::cell::RefCell;

use super::{Launch, Memory, Module};

/// Memory at addresses from 4096 on.
struct Bytes(RefCell<Vec<u8>>);

const START: u64 = 4096;

impl Memory for Bytes {
    fn holds(&self, address: u64, bytes: usize) -> bool {
        let len = self.0.borrow().len() as u64;
        address >= START && address + bytes as u64 <= START + len
    }

    fn load(&self, address: u64, bytes: usize) -> u64 {
        let at = (address - START) as usize;
        self.0.borrow()[at..at + bytes].iter().rev().fold(0, |all, &b| all << 8 | u64::from(b))
    }

    fn store(&self, address: u64, bytes: usize, value: u64) {
        let at = (address - START) as usize;
        self.0.borrow_mut()[at..at + bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
    }
}

/// Runs `body` on 32 threads over `words`, whose address is in `%rd1`; `%r1` is the thread's number
/// and `%rd2` the address of its word.
fn run(body: &str, words: &[u32]) -> Result<Vec<u32>, String> {
    let ptx = format!(
        ".version 9.0\n.target sm_80\n.visible .entry test(\n\t.param .u64 test_param_0\n)\n{{\n\
         \t.reg .pred %p<8>;\n\t.reg .b16 %rs<8>;\n\t.reg .b32 %r<16>;\n\t.reg .f32 %f<16>;\n\
         \t.reg .b64 %rd<8>;\n\t.reg .f64 %d<8>;\n\t.shared .align 4 .b8 room[128];\n\
         \tld.param.u64 %rd1, [test_param_0];\n\tmov.u32 %r1, %tid.x;\n\
         \tmad.wide.u32 %rd2, %r1, 4, %rd1;\n{body}\n\tret;\n}}\n"
    );
    let bytes = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let memory = Bytes(RefCell::new(bytes));
    let parameters = START.to_le_bytes();
    let launch =
        Launch { grid: [1, 1, 1], block: [32, 1, 1], dynamic_shared: 0, parameters: &parameters };
    Module::parse(&ptx)?.kernel("test")?.run(&launch, &memory)?;
    let bytes = memory.0.into_inner();
    Ok(bytes
        .chunks_exact(4)
        .map(|word| u32::from_le_bytes(word.try_into().expect("four")))
        .collect())
}

#[test]
fn threads_meet_at_a_barrier_and_see_what_others_wrote() {
    let reversed = run(
        "ld.global.u32 %r2, [%rd2]; shl.b32 %r3, %r1, 2; mov.u32 %r4, room; add.s32 %r5, %r4, %r3;\n\
         st.shared.u32 [%r5], %r2; bar.sync 0; mov.u32 %r6, 124; sub.s32 %r7, %r6, %r3;\n\
         add.s32 %r8, %r4, %r7; ld.shared.u32 %r9, [%r8]; st.global.u32 [%rd2], %r9;",
        &(0..32).collect::<Vec<_>>(),
    );
    assert_eq!(reversed.unwrap(), (0..32).rev().collect::<Vec<_>>());
}

#[test]
fn a_warp_sums_by_shuffles() {
    let body: String = [16, 8, 4, 2, 1]
        .map(|by| {
            format!("shfl.sync.bfly.b32 %r3|%p1, %r2, {by}, 31, -1; add.s32 %r2, %r2, %r3;\n")
        })
        .concat();
    let body = format!("ld.global.u32 %r2, [%rd2];\n{body}st.global.u32 [%rd2], %r2;");
    let sums = run(&body, &(0..32).collect::<Vec<_>>()).unwrap();
    assert_eq!(sums, vec![31 * 32 / 2; 32]);
}

#[test]
fn a_loop_ends_where_its_guard_says() {
    // 2^n by doubling n times, n the thread's number.
    let body = "mov.u32 %r2, 1; mov.u32 %r3, 0;\n$again:\nsetp.ge.u32 %p1, %r3, %r1;\n\
                @%p1 bra $done;\nadd.u32 %r2, %r2, %r2; add.u32 %r3, %r3, 1;\nbra.uni $again;\n\
                $done:\nst.global.u32 [%rd2], %r2;";
    let powers = run(body, &[0; 32]).unwrap();
    assert_eq!(powers, (0..32).map(|n| 1 << n).collect::<Vec<u32>>());
}

#[test]
fn arithmetic_rounds_and_wraps_as_the_types_say() {
    let cases: &[(&str, u32, u32)] = &[
        ("add.f32 %f2, %f1, 0f3F800000; mov.b32 %r2, %f2;", 2.5f32.to_bits(), 3.5f32.to_bits()),
        ("mul.rn.f32 %f2, %f1, %f1; mov.b32 %r2, %f2;", 0.1f32.to_bits(), (0.1f32 * 0.1).to_bits()),
        (
            "div.rn.f32 %f2, 0f3F800000, %f1; mov.b32 %r2, %f2;",
            3f32.to_bits(),
            (1.0f32 / 3.0).to_bits(),
        ),
        ("neg.f32 %f2, %f1; mov.b32 %r2, %f2;", 0f32.to_bits(), (-0f32).to_bits()),
        ("cvt.rzi.s32.f32 %r2, %f1;", (-2.7f32).to_bits(), -2i32 as u32),
        ("cvt.rni.s32.f32 %r2, %f1;", 2.5f32.to_bits(), 2),
        ("cvt.rzi.u32.f32 %r2, %f1;", (-2.7f32).to_bits(), 0),
        // 1 + 2^-8 lies halfway between two bfloat16, and goes to the even one.
        ("{ cvt.rn.bf16.f32 %rs1, %f1; } mov.b32 %r2, {%rs1, %rs1};", 0x3f80_8000, 0x3f80_3f80),
        (
            "cvt.f64.f32 %d1, %f1; add.f64 %d2, %d1, 0d3FE0000000000000; cvt.rn.f32.f64 %f2, %d2; mov.b32 %r2, %f2;",
            1f32.to_bits(),
            1.5f32.to_bits(),
        ),
        ("mov.b32 %r3, %f1; shr.s32 %r2, %r3, 4;", 0x8000_0000, 0xf800_0000),
        ("mov.b32 %r3, %f1; shr.u32 %r2, %r3, 4;", 0x8000_0000, 0x0800_0000),
        ("mov.b32 %r3, %f1; mul.hi.u32 %r2, %r3, %r3;", 0xffff_ffff, 0xffff_fffe),
        ("mov.b32 %r3, %f1; abs.s32 %r2, %r3;", -7i32 as u32, 7),
        ("mov.b32 %r3, %f1; rem.s32 %r2, %r3, 4;", -7i32 as u32, -3i32 as u32),
        ("mov.b32 %r3, %f1; mov.u32 %r4, 0; bfi.b32 %r2, %r3, %r4, 8, 4;", 0xabc, 0xc00),
        ("mov.b32 %r3, %f1; mov.u32 %r4, -1; bfi.b32 %r2, %r3, %r4, 24, 32;", 0x12, 0x12ff_ffff),
        ("setp.leu.f32 %p1, %f1, 0f00000000; selp.b32 %r2, 1, 0, %p1;", f32::NAN.to_bits(), 1),
        ("setp.gt.f32 %p1, %f1, 0f00000000; selp.b32 %r2, 1, 0, %p1;", f32::NAN.to_bits(), 0),
        ("setp.nan.f32 %p1, %f1, %f1; selp.b32 %r2, 1, 0, %p1;", f32::NAN.to_bits(), 1),
    ];
    for &(body, input, expected) in cases {
        let body = format!("ld.global.f32 %f1, [%rd2];\n{body}\nst.global.u32 [%rd2], %r2;");
        let found = run(&body, &[input; 32]).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(found, vec![expected; 32], "{body}");
    }
}

#[test]
fn an_access_outside_is_an_error_that_names_thread_and_instruction() {
    let body = "ld.global.u32 %r2, [%rd2]; st.global.u32 [%rd2+4], %r2;";
    let error = run(body, &[0; 32]).unwrap_err();
    assert!(error.contains("thread [31, 0, 0]") && error.contains("st.global.u32"), "{error}");
    let error = run("ld.shared.u32 %r2, [128];", &[0; 32]).unwrap_err();
    assert!(error.contains("thread [0, 0, 0]") && error.contains("nobody's"), "{error}");
    let error = run("ld.global.u32 %r2, [%rd1+2];", &[0; 32]).unwrap_err();
    assert!(error.contains("is not a multiple of 4"), "{error}");
}

#[test]
fn what_is_not_known_is_an_error_of_its_kernel() {
    let error = run("frobnicate.f32 %f1, %f1;", &[0; 32]).unwrap_err();
    assert!(error.contains("frobnicate"), "{error}");
}
