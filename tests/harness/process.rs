//! What the system says of a process: memory, descriptors, threads.

/// A running process, by its id.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Process(u32);

impl Process {
    pub(crate) const fn new(pid: u32) -> Self {
        Self(pid)
    }

    /// Bytes of memory it holds now.
    pub(crate) fn memory_bytes(self) -> u64 {
        self.status("VmRSS:") * 1024
    }

    /// The most bytes it held since [`Self::reset_peak`], or since it began.
    pub(crate) fn peak_bytes(self) -> u64 {
        self.status("VmHWM:") * 1024
    }

    /// Begins to look for the peak anew.
    pub(crate) fn reset_peak(self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.0), "5").unwrap();
    }

    pub(crate) fn threads(self) -> u64 {
        self.status("Threads:")
    }

    /// Mapped regions of its address space.
    pub(crate) fn mappings(self) -> usize {
        std::fs::read_to_string(format!("/proc/{}/maps", self.0)).unwrap().lines().count()
    }

    /// What its open file descriptors are: paths, sockets, pipes.
    pub(crate) fn descriptors(self) -> Vec<String> {
        let entries = std::fs::read_dir(format!("/proc/{}/fd", self.0)).unwrap();
        // One that is closed meanwhile is none.
        let links = entries.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
        links.map(|link| link.display().to_string()).collect()
    }

    fn status(self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0)).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_whitespace().next());
        number.unwrap_or_else(|| panic!("no {name}")).parse().unwrap()
    }
}
