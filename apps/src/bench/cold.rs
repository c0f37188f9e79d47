//! A cold cache on request: flushes every line of this process's memory, code and data alike.

use std::ops::Range;

/// The size of a cache line on every x86-64 and most aarch64 parts, in bytes.
const LINE: usize = 64;

/// The memory to flush: what was mapped readable when this was made.
pub struct Cold(Vec<Range<usize>>);

impl Cold {
    /// Takes stock of the mappings; make it when everything that will be measured exists.
    ///
    /// # Errors
    /// When `/proc/self/maps` cannot be read.
    pub fn survey() -> std::io::Result<Self> {
        let maps = std::fs::read_to_string("/proc/self/maps")?;
        Ok(Self(maps.lines().filter_map(readable).collect()))
    }

    /// The bytes that [`Cold::flush`] walks over.
    pub fn bytes(&self) -> usize {
        self.0.iter().map(ExactSizeIterator::len).sum()
    }

    /// Flushes every line from every cache level.
    pub fn flush(&self) {
        for line in self.0.iter().flat_map(|range| range.clone().step_by(LINE)) {
            flush_line(line);
        }
        fence();
    }
}

/// The address range of a readable mapping, the kernel's own pages left out (format: proc(5)).
fn readable(line: &str) -> Option<Range<usize>> {
    let mut fields = line.split_ascii_whitespace();
    let (range, permissions) = (fields.next()?, fields.next()?);
    let kernels = fields.nth(3).is_some_and(|name| name.starts_with("[v"));
    let (start, end) = range.split_once('-')?;
    let range = usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?;
    (permissions.starts_with('r') && !kernels).then_some(range)
}

#[cfg(target_arch = "x86_64")]
fn flush_line(address: usize) {
    // SAFETY: CLFLUSH (SSE2, on every x86-64) writes a line back and drops it; contents do not change. The address is inside a mapping that
    // was readable at the survey; the benchmark unmaps nothing while it runs.
    unsafe { std::arch::x86_64::_mm_clflush(address as *const u8) }
}

#[cfg(target_arch = "x86_64")]
fn fence() {
    // SAFETY: MFENCE has no operands and is on every x86-64.
    unsafe { std::arch::x86_64::_mm_mfence() }
}

#[cfg(target_arch = "aarch64")]
fn flush_line(address: usize) {
    // SAFETY: DC CIVAC cleans and drops a line of readable memory; Linux lets user space do it (SCTLR_EL1.UCI).
    unsafe { std::arch::asm!("dc civac, {}", in(reg) address, options(nostack, preserves_flags)) }
}

#[cfg(target_arch = "aarch64")]
fn fence() {
    // SAFETY: a barrier has no operands.
    unsafe { std::arch::asm!("dsb ish", options(nostack, preserves_flags)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readable_takes_data_and_code_but_not_the_kernels_pages() {
        assert_eq!(readable("1000-3000 rw-p 00000000 00:00 0 "), Some(0x1000..0x3000));
        assert_eq!(readable("1000-2000 r-xp 00000000 08:01 12 /bin/x"), Some(0x1000..0x2000));
        assert_eq!(readable("1000-2000 ---p 00000000 00:00 0 "), None);
        assert_eq!(readable("7000-8000 r-xp 00000000 00:00 0 [vdso]"), None);
    }

    #[test]
    fn flush_changes_nothing() {
        // Its own memory alone: other tests, in other threads, unmap theirs meanwhile.
        let bytes = vec![7u8; 1 << 16];
        let range = bytes.as_ptr_range();
        Cold(vec![range.start as usize..range.end as usize]).flush();
        assert!(bytes.iter().all(|byte| *byte == 7));
    }
}
