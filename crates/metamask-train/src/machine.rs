//! What this machine has left: memory and disk. `None` where the system does not tell.

use std::{fs, path::Path};

/// Bytes of memory that a process can still take: what the system has free or can free,
/// within the limits of the control groups that it is in.
pub fn available_memory() -> Option<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
    let free = kib_of(&meminfo, "MemAvailable:")?;
    let of_group = |file: &str| -> Option<u64> {
        let text = fs::read_to_string(Path::new("/sys/fs/cgroup").join(file)).ok()?;
        text.trim().parse().ok() // `max` is no limit
    };
    let group = of_group("memory.max")
        .map(|limit| limit.saturating_sub(of_group("memory.current").unwrap_or(0)));
    Some(group.map_or(free, |group| group.min(free)))
}

/// Bytes that this process has in memory now.
pub fn resident_memory() -> Option<u64> {
    kib_of(&fs::read_to_string("/proc/self/status").ok()?, "VmRSS:")
}

/// The most bytes that this process had in memory at once.
pub fn peak_memory() -> Option<u64> {
    kib_of(&fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
}

/// The same in MiB.
pub fn peak_mib() -> Option<f64> {
    Some(peak_memory()? as f64 / f64::from(1 << 20))
}

/// Bytes that can still be written at a path, or where it would be made.
pub fn free_disk(path: &Path) -> Option<u64> {
    let here = Path::new(".");
    let there = path.ancestors().find(|path| path.exists()).unwrap_or(here);
    let there = if there.as_os_str().is_empty() { here } else { there };
    let space = rustix::fs::statvfs(there).ok()?;
    space.f_bavail.checked_mul(space.f_frsize)
}

fn kib_of(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kib_are_read_by_name() {
        let text = "MemTotal:  24000000 kB\nMemAvailable:   17 kB\n";
        assert_eq!(kib_of(text, "MemAvailable:"), Some(17 * 1024));
        assert_eq!(kib_of(text, "VmHWM:"), None);
        assert_eq!(kib_of("VmHWM: many kB", "VmHWM:"), None);
    }

    #[test]
    fn the_disk_of_a_folder_that_is_not_there_yet_is_its_parent_s() {
        let folder = tempfile::tempdir().expect("a folder");
        let space = free_disk(folder.path());
        assert_eq!(space.is_some(), free_disk(&folder.path().join("a/b/c")).is_some());
        assert!(space.is_none_or(|bytes| bytes > 0));
    }
}
