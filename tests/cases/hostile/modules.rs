//! Modules that are a danger before they run: to decoders, to encoders, to the compiler.

use std::fmt::Write as _;

use super::guest::Guest;
use super::rows::{Ends, Row};

/// Pieces that a module is cut into.
const CUTS: usize = 24;

/// A good module that ends too early, at many places.
pub(super) fn truncated() -> Vec<Row> {
    let whole = Guest::default().handler();
    let cut = |n: usize| {
        let len = whole.len() * n / CUTS;
        let end = Ends::Refused(&[
            "offset",
            "ends",
            "empty",
            "types do not fit",
            "nothing to call",
            "without",
        ]);
        Row::new(format!("cut-{n}"), whole[..len].to_vec(), end)
    };
    (0..CUTS).map(cut).collect()
}

/// Modules that make compilers take minutes and gigabytes, and those that make decoders recurse.
pub(super) fn bombs() -> Vec<Row> {
    const STOPPED: Ends = Ends::Refused(&["compile.time", "compile.memory"]);
    let row = |name: &str, text: String, ends| Row::new(name, wat(&text), ends);
    vec![
        row("a-giant-function", giant_function(120_000), STOPPED),
        row("many-functions", many_functions(400_000), STOPPED),
        row("many-locals", locals(50_000), Ends::Done),
        row("too-many-locals", locals(50_001), Ends::Refused(&["locals"])),
        row("deep-blocks", deep_blocks(20_000), Ends::Done),
        row("a-wide-branch", branches(60_000), Ends::Done),
        row("many-wide-branches", many_branches(180, 20_000), STOPPED),
        Row::new("deep-text", deep_text(100_000), Ends::Refused(&["not valid WebAssembly text"])),
        Row::new(
            "deep-types",
            nested_types(200).into_bytes(),
            Ends::Refused(&["type", "size", "deep"]),
        ),
        Row::new(
            "doubling-types",
            doubling_types(40).into_bytes(),
            Ends::Refused(&["type size", "size"]),
        ),
        Row::new(
            "deep-components",
            nested_components(500).into_bytes(),
            Ends::Refused(&["nest", "deep"]),
        ),
        row("many-types", many_types(1_000_001), Ends::Refused(&["types"])),
        row("many-imports", many_imports(100_001), Ends::Refused(&["imports", "does not fit"])),
        row("data-beyond", data_beyond(), Ends::Dead("trap", "out of bounds")),
    ]
}

fn wat(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap_or_else(|error| panic!("{error}"))
}

/// A command with a body, and fields.
fn command(fields: &str, body: &str) -> String {
    format!("(module (memory (export \"memory\") 1) {fields} (func (export \"_start\") {body}))")
}

/// One function of very many values that are all alive until its end.
fn giant_function(values: usize) -> String {
    let mut body = String::from("(local $i i64)");
    for n in 0..values {
        write!(body, "(i64.load offset={} (i32.const 0))", n % 4096).unwrap();
    }
    for n in 1..values {
        body.push_str(if n % 2 == 0 { "i64.mul " } else { "i64.xor " });
    }
    body.push_str("local.set $i (i64.store (i32.const 0) (local.get $i))");
    command("", &body)
}

fn many_functions(functions: usize) -> String {
    let function = "(func (param i64 f64) (result i64) (i64.add (local.get 0) (i64.trunc_sat_f64_s
        (f64.sqrt (local.get 1)))))";
    command(&function.repeat(functions), "")
}

fn locals(locals: usize) -> String {
    command("", &format!("(local {})", "i64 ".repeat(locals)))
}

fn deep_blocks(depth: usize) -> String {
    // As a flat sequence: the text form of nested expressions is a danger of its own.
    command("", &format!("{} {}", "block ".repeat(depth), "end ".repeat(depth)))
}

fn branches(targets: usize) -> String {
    command("", &format!("(block (br_table {} (i32.const 1)))", "0 ".repeat(targets)))
}

fn many_branches(tables: usize, targets: usize) -> String {
    let table = format!("(block (br_table {} (i32.load (i32.const 0))))", "0 1 ".repeat(targets));
    command("", &format!("(block {})", table.repeat(tables)))
}

/// The text form, opened and never closed.
fn deep_text(depth: usize) -> Vec<u8> {
    format!("(module (func {}", "(block ".repeat(depth)).into_bytes()
}

/// A list of lists of lists.
fn nested_types(depth: usize) -> String {
    let mut text = String::from("(component (type $t0 u8)");
    for n in 1..=depth {
        write!(text, "(type $t{n} (list $t{}))", n - 1).unwrap();
    }
    write!(text, "(import \"x\" (func (param \"a\" $t{depth}))))").unwrap();
    text
}

/// A tuple of two, of two, of two: small to write down, too large to lower.
fn doubling_types(depth: usize) -> String {
    let mut text = String::from("(component (type $t0 u64)");
    for n in 1..=depth {
        write!(text, "(type $t{n} (tuple $t{} $t{}))", n - 1, n - 1).unwrap();
    }
    write!(text, "(import \"x\" (func (param \"a\" $t{depth}))))").unwrap();
    text
}

fn nested_components(depth: usize) -> String {
    format!("{}{}", "(component ".repeat(depth), ")".repeat(depth))
}

fn many_types(types: usize) -> String {
    command(&"(type (func))".repeat(types), "")
}

fn many_imports(imports: usize) -> String {
    format!(
        "(module {} (memory (export \"memory\") 1) (func (export \"_start\")))",
        "(import \"wasi_snapshot_preview1\" \"launch\" (func))".repeat(imports)
    )
}

/// A segment that reaches beyond its memory.
fn data_beyond() -> String {
    command(&format!("(data (i32.const 65000) \"{}\")", "a".repeat(1 << 20)), "")
}
