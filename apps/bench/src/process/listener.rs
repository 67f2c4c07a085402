//! The process of this machine that listens on an address, so that the CPU time of an engine that somebody else started is measured.

use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt as _;

/// Number of a listening socket's state in the kernel's tables.
const LISTEN: &str = "0A";

/// Returns the process that listens on an address of this machine; none if there is none, or if it may not be seen.
pub(crate) fn of(address: SocketAddr) -> Option<u32> {
    if !address.ip().is_loopback() {
        return None;
    }
    let tables =
        ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| std::fs::read_to_string(table).unwrap_or_default());
    let inodes = tables.iter().flat_map(|table| listening(table, address.port()));
    let sockets: Vec<String> = inodes.map(|inode| format!("socket:[{inode}]")).collect();
    let holds = |pid: u32| {
        let Ok(files) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
        files
            .flatten()
            .filter_map(|file| std::fs::read_link(file.path()).ok())
            .any(|target| sockets.iter().any(|socket| target.as_os_str().as_bytes() == socket.as_bytes()))
    };
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    processes.filter_map(|process| process.file_name().to_str()?.parse().ok()).find(|pid| holds(*pid))
}

/// Returns the inodes of the sockets of a table of the kernel that listen on a port.
fn listening(table: &str, port: u16) -> Vec<&str> {
    let port = format!(":{port:04X}");
    let inode = |line| {
        let fields: Vec<&str> = str::split_whitespace(line).collect();
        let listens = fields.get(1)?.ends_with(&port) && *fields.get(3)? == LISTEN;
        fields.get(9).copied().filter(|_| listens)
    };
    table.lines().filter_map(inode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_finds_itself() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
        let address = listener.local_addr().expect("bound");
        assert_eq!(of(address), Some(std::process::id()));
        drop(listener);
        assert_eq!(of(address), None);
    }
}
