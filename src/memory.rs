//! Memory of this process and of the machine.

/// Resident memory of this process in MB (10⁶ bytes); NaN where the system does not tell.
pub fn resident_mb() -> f64 {
    memory_stats::memory_stats().map_or(f64::NAN, |stats| stats.physical_mem as f64 / 1e6)
}

/// The largest resident memory of this process so far, in megabytes; what is resident now where the
/// system does not tell.
pub fn peak_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.map_or_else(resident_mb, |kib| kib * 1024.0 / 1e6)
}

/// The machine's memory in MB, where the system tells.
pub fn total_mb() -> Option<f64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.split_whitespace().next()?.parse::<f64>().ok()? * 1024.0 / 1e6)
}
