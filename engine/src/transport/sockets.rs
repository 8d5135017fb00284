//! Listening sockets that this process was given instead of binding them itself. Whoever gave them keeps them open, so that connections
//! wait in the system's queue, and are not refused, while one process hands over to the next.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};

use super::locked;

/// Bound sockets, each for whoever listens at its address first. Cheap to clone; all clones share what is left.
#[derive(Clone, Default)]
pub struct Sockets(Arc<Mutex<Vec<(SocketAddr, TcpListener)>>>);

impl Sockets {
    /// All of these.
    pub fn new(sockets: impl IntoIterator<Item = TcpListener>) -> io::Result<Sockets> {
        let with_address = sockets.into_iter().map(|socket| Ok((socket.local_addr()?, socket)));
        Ok(Sockets(Arc::new(Mutex::new(with_address.collect::<io::Result<_>>()?))))
    }

    /// The socket that is bound to this very address, ready for the runtime. `None`: there is none.
    pub fn take(&self, address: SocketAddr) -> io::Result<Option<tokio::net::TcpListener>> {
        let mut left = locked(&self.0);
        let Some(at) = left.iter().position(|(bound, _)| *bound == address) else { return Ok(None) };
        let (_, socket) = left.swap_remove(at);
        socket.set_nonblocking(true)?;
        tokio::net::TcpListener::from_std(socket).map(Some)
    }

    /// A socket that listens at one of these addresses: the one that was given, or a new one at the first that can be had.
    pub async fn bind(&self, addresses: &[SocketAddr]) -> io::Result<tokio::net::TcpListener> {
        for address in addresses {
            if let Some(socket) = self.take(*address)? {
                return Ok(socket);
            }
        }
        tokio::net::TcpListener::bind(addresses).await
    }

    /// Addresses of those that nobody took.
    pub fn left(&self) -> Vec<SocketAddr> {
        locked(&self.0).iter().map(|(address, _)| *address).collect()
    }
}

impl fmt::Debug for Sockets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sockets").field(&self.left()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_is_for_its_address_alone_and_for_one() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let sockets = Sockets::new([socket]).unwrap();
        assert!(sockets.take(SocketAddr::new([127, 0, 0, 2].into(), address.port())).unwrap().is_none());
        assert_eq!(sockets.left(), [address]);
        let taken = sockets.clone().bind(&[address]).await.unwrap();
        assert_eq!((taken.local_addr().unwrap(), sockets.left()), (address, vec![]));
        // The address is taken now, by the socket itself.
        assert_eq!(sockets.bind(&[address]).await.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
