//! Peak memory: of this process from the kernel, of the device from `nvidia-smi`.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::Duration;

/// Largest resident set of this process so far, in MiB. `None` where `/proc` has no such line.
pub(crate) fn peak_host_mib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    peak_of_status(&status)
}

fn peak_of_status(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024)
}

/// Watches how much memory of one CUDA device is in use, over all processes, while it lives.
pub(crate) struct DeviceMemory {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
    before: u64,
}

impl DeviceMemory {
    /// Starts a thread that asks `nvidia-smi` about ten times a second of the device `name`, say `cuda:0`. `None` for the CPU, and when it
    /// cannot be asked.
    ///
    /// `nvidia-smi` numbers devices as the machine does; under `CUDA_VISIBLE_DEVICES` the number may be another one.
    pub(crate) fn watch(name: &str) -> Option<Self> {
        let index = name.strip_prefix("cuda:")?.parse().ok()?;
        let before = device_used_mib(index)?;
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let thread = spawn(move || {
            let mut peak = before;
            while !seen.load(Ordering::Relaxed) {
                peak = peak.max(device_used_mib(index).unwrap_or(0));
                sleep(Duration::from_millis(50));
            }
            peak
        });
        Some(Self { stop, thread, before })
    }

    /// Largest use seen less the use before, in MiB. `None` when the thread failed.
    pub(crate) fn peak_mib(self) -> Option<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let peak = self.thread.join().ok()?;
        Some(peak.saturating_sub(self.before))
    }
}

fn device_used_mib(index: usize) -> Option<u64> {
    let output = Command::new("nvidia-smi")
        .args(["--query-gpu=memory.used", "--format=csv,noheader,nounits", &format!("--id={index}")])
        .output()
        .ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_read_from_the_high_water_mark() {
        let status = "VmPeak:\t  999999 kB\nVmHWM:\t   20480 kB\nVmRSS:\t   10240 kB\n";
        assert_eq!(peak_of_status(status), Some(20));
        assert_eq!(peak_of_status("VmRSS:\t   10240 kB\n"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_has_a_peak() {
        assert!(peak_host_mib().is_some_and(|mib| mib > 0));
    }
}
