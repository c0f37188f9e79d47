//! Looks for panics in machine code: walks the calls and jumps of a disassembled program from given functions.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;
use std::process::Command;

/// Every way into a panic or an abort by the standard library, by part of its mangled name.
const PANICS: [&str; 9] = [
    "9panicking",
    "11begin_panic",
    "unwrap_failed",
    "expect_failed",
    "slice_start_index",
    "slice_end_index",
    "slice_index_order",
    "handle_alloc_error",
    "capacity_overflow",
];

/// Reached only from a landing pad, that is when something panics already; so it proves nothing by itself.
const ONLY_WHILE_UNWINDING: [&str; 2] = ["panic_in_cleanup", "panic_cannot_unwind"];

/// A program's calls: function name to the functions it calls or jumps to, and how many calls it makes through pointers.
pub struct CallGraph(BTreeMap<String, Function>);

#[derive(Default)]
struct Function {
    targets: BTreeSet<String>,
    indirect: u32,
}

/// What can be reached from one function.
#[derive(Debug)]
pub struct Reach {
    /// Functions seen on the way, with the root.
    pub functions: usize,
    /// Calls and jumps through pointers: not followed (jump tables, device models behind an emulated register window).
    pub indirect: u32,
    /// Functions that were not entered, because they are excluded by name.
    pub excluded: BTreeSet<String>,
    /// The shortest way to each panic, callers first.
    pub panics: Vec<Vec<String>>,
}

impl CallGraph {
    /// Disassembles `program`.
    ///
    /// # Errors
    /// The reason, where there is no `objdump` or it fails.
    pub fn of(program: &Path) -> Result<Self, String> {
        let output = Command::new("objdump").args(["-d", "--no-show-raw-insn"]).arg(program).output();
        let output =
            output.map_err(|error| format!("objdump does not start ({error}); install the package binutils"))?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        Ok(Self::parse(&String::from_utf8_lossy(&output.stdout)))
    }

    fn parse(disassembly: &str) -> Self {
        let mut functions: BTreeMap<String, Function> = BTreeMap::new();
        let mut current = String::new();
        for line in disassembly.lines() {
            if let Some(name) = line.strip_suffix(">:").and_then(|line| line.split_once('<')).map(|(_, name)| name) {
                current = name.to_owned();
                functions.entry(current.clone()).or_default();
                continue;
            }
            let Some((_, instruction)) = line.split_once('\t') else { continue };
            let (mnemonic, operand) = instruction.split_once(char::is_whitespace).unwrap_or((instruction, ""));
            if !(mnemonic.starts_with("call") || mnemonic.starts_with('j')) {
                continue;
            }
            let Some(function) = functions.get_mut(&current) else { continue };
            // `<name+0x10>` is a place inside a function: our own (a loop) or, after tail merging, another's.
            match operand.rsplit_once('<').map(|(_, rest)| rest.trim_end_matches('>')) {
                // A pointer in the offset table, which objdump names after the table.
                Some(target) if target.starts_with("_DYNAMIC") || target.starts_with("_GLOBAL_OFFSET_TABLE_") => {
                    function.indirect += 1;
                }
                Some(target) => {
                    let name = target.split('+').next().unwrap_or(target);
                    if name != current {
                        function.targets.insert(name.to_owned());
                    }
                }
                None if operand.trim_start().starts_with('*') => function.indirect += 1,
                None => {}
            }
        }
        Self(functions)
    }

    /// The functions called `name` in their source, and those inside them.
    pub fn named(&self, name: &str) -> Vec<&str> {
        // Both mangling schemes write an identifier behind its length.
        let mangled = format!("{}{name}", name.len());
        self.0.keys().filter(|symbol| symbol.contains(&mangled)).map(String::as_str).collect()
    }

    /// Walks from `root`, without entering functions whose mangled name contains one of `excluded`. `None` where the program has no such function.
    pub fn reach(&self, root: &str, excluded: &[&str]) -> Option<Reach> {
        self.0.get(root)?;
        let mut reach = Reach { functions: 0, indirect: 0, excluded: BTreeSet::new(), panics: Vec::new() };
        let mut seen = HashSet::from([root]);
        let mut queue = std::collections::VecDeque::from([vec![root]]);
        while let Some(path) = queue.pop_front() {
            let Some((name, function)) = path.last().and_then(|name| Some((*name, self.0.get(*name)?))) else {
                continue;
            };
            if PANICS.iter().any(|panic| name.contains(panic)) {
                if !ONLY_WHILE_UNWINDING.iter().any(|harmless| name.contains(harmless)) {
                    reach.panics.push(path.iter().map(|name| (*name).to_owned()).collect());
                }
                continue;
            }
            if excluded.iter().any(|part| name.contains(part)) {
                reach.excluded.insert(name.to_owned());
                continue;
            }
            reach.functions += 1;
            reach.indirect += function.indirect;
            for target in &function.targets {
                if seen.insert(target) {
                    let mut longer = path.clone();
                    longer.push(target);
                    queue.push_back(longer);
                }
            }
        }
        Some(reach)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = "
0000000000001000 <hot>:
    1000:\tcall   1020 <helper>
    1005:\tcall   *0x18(%rax)
    1008:\tjne    1004 <hot+0x4>
0000000000001020 <helper>:
    1020:\tja     1040 <_ZN4core9panicking18panic_bounds_check17hE>
    1022:\tret
0000000000001030 <cold>:
    1030:\tcall   1050 <_ZN4core9panicking16panic_in_cleanup17hE>
0000000000001040 <_ZN4core9panicking18panic_bounds_check17hE>:
    1040:\tud2
0000000000001050 <_ZN4core9panicking16panic_in_cleanup17hE>:
    1050:\tud2
";

    #[test]
    fn reach_finds_a_panic_behind_a_helper() {
        let reach = CallGraph::parse(LISTING).reach("hot", &[]).unwrap();
        assert_eq!((reach.functions, reach.indirect, reach.panics.len()), (2, 1, 1));
        assert_eq!(reach.panics[0][..2], ["hot", "helper"]);
    }

    #[test]
    fn reach_does_not_enter_what_is_excluded_and_says_so() {
        let reach = CallGraph::parse(LISTING).reach("hot", &["help"]).unwrap();
        assert!(reach.panics.is_empty() && reach.excluded.contains("helper"), "{reach:?}");
    }

    #[test]
    fn reach_passes_over_what_only_unwinding_calls() {
        assert!(CallGraph::parse(LISTING).reach("cold", &[]).unwrap().panics.is_empty());
        assert!(CallGraph::parse(LISTING).reach("absent", &[]).is_none());
    }
}
