//! The gateway's listening sockets: one per core on one port, shared out by the kernel (SO_REUSEPORT).

use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections the kernel holds for each core until they are accepted.
const BACKLOG: i32 = 4096;

/// Binds `count` sockets to `address`; with port 0 all share the one that was chosen.
///
/// # Errors
/// When the address is in use, by whomever: SO_REUSEPORT alone would quietly share it with another process of the same
/// user, and half of the connections would land there.
pub(crate) fn bind(address: SocketAddr, count: usize) -> anyhow::Result<Vec<TcpListener>> {
    let explain = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::AddrInUse => anyhow::anyhow!(
            "{address} is in use by another process; stop it, or choose another address with --listen"
        ),
        _ => anyhow::anyhow!("cannot listen on {address}: {error}"),
    };
    // Bound without sharing and let go again. Between the two binds the port is free for a moment; whoever takes it then
    // without SO_REUSEPORT makes the second bind fail.
    let probe = socket(address, false).map_err(explain)?;
    let chosen = match probe.local_addr().map_err(explain)?.as_socket() {
        Some(chosen) => chosen,
        None => anyhow::bail!("{address} is not an IP address"),
    };
    drop(probe);
    (0..count)
        .map(|_| {
            let socket = socket(chosen, true).map_err(explain)?;
            socket.listen(BACKLOG).map_err(explain)?;
            socket.set_nonblocking(true).map_err(explain)?;
            Ok(TcpListener::from(socket))
        })
        .collect()
}

fn socket(address: SocketAddr, shared: bool) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of a process before this one, still in TIME_WAIT, do not hold the port.
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    if !shared {
        // Only listening finds out a listener that had its port by SO_REUSEADDR too.
        socket.listen(1)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

    #[test]
    fn all_cores_share_one_port() {
        let listeners = bind(ANY, 3).expect("free");
        let ports: Vec<_> = listeners.iter().map(|l| l.local_addr().expect("bound").port()).collect();
        assert!(ports[0] != 0 && ports.iter().all(|port| *port == ports[0]), "{ports:?}");
    }

    #[test]
    fn port_in_use_is_refused() {
        let plain = TcpListener::bind(ANY).expect("free");
        let sharing = bind(ANY, 1).expect("free");
        for taken in [&plain, &sharing[0]] {
            let address = taken.local_addr().expect("bound");
            let error = bind(address, 2).expect_err("taken").to_string();
            assert!(error.contains("in use") && error.contains("--listen"), "{error}");
        }
    }
}
