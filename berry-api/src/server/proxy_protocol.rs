//! The PROXY protocol header, versions 1 and 2, that a load balancer sends before the client's first byte.
//!
//! A connection that should begin with one and does not is closed, since its address would be the balancer's.
//! Source: haproxy.org, `doc/proxy-protocol.txt`, revision 2020/03/05.

use std::io;
use std::net::SocketAddr;

use ppp::{HeaderResult, v1, v2};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Fixed part of version 2.
const BINARY_FIXED: usize = 16;

/// Longest line of version 1.
const LINE_MAX: usize = 107;

/// Longest header of version 2 that is read; extensions rarely take more than a few hundred bytes.
const BINARY_MAX: usize = 2 * 1024;

/// Reads the header and not a byte more. Gives the client's address; `None` where the balancer speaks for itself, as its
/// health checks do.
///
/// # Errors
/// `InvalidData` when there is no header or it is too long, `UnexpectedEof` when it is cut short.
pub async fn read_header<R: AsyncRead + Unpin>(io: &mut R) -> io::Result<Option<SocketAddr>> {
    let mut header = vec![0; BINARY_FIXED];
    io.read_exact(&mut header[..v1::PROTOCOL_PREFIX.len()]).await?;
    if header.starts_with(v1::PROTOCOL_PREFIX.as_bytes()) {
        header.truncate(v1::PROTOCOL_PREFIX.len());
        while !header.ends_with(b"\r\n") && header.len() < LINE_MAX {
            header.push(io.read_u8().await?);
        }
    } else {
        io.read_exact(&mut header[v1::PROTOCOL_PREFIX.len()..]).await?;
        let rest = usize::from(u16::from_be_bytes([header[14], header[15]]));
        if !header.starts_with(v2::PROTOCOL_PREFIX) || rest > BINARY_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        header.resize(BINARY_FIXED + rest, 0);
        io.read_exact(&mut header[BINARY_FIXED..]).await?;
    }
    match HeaderResult::parse(&header) {
        HeaderResult::V1(Ok(header)) => Ok(v1_source(&header.addresses)),
        HeaderResult::V2(Ok(header)) => Ok(v2_source(&header)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn v1_source(addresses: &v1::Addresses) -> Option<SocketAddr> {
    match addresses {
        v1::Addresses::Tcp4(ip) => Some((ip.source_address, ip.source_port).into()),
        v1::Addresses::Tcp6(ip) => Some((ip.source_address, ip.source_port).into()),
        v1::Addresses::Unknown => None,
    }
}

fn v2_source(header: &v2::Header<'_>) -> Option<SocketAddr> {
    if header.command == v2::Command::Local {
        return None;
    }
    match header.addresses {
        v2::Addresses::IPv4(ip) => Some((ip.source_address, ip.source_port).into()),
        v2::Addresses::IPv6(ip) => Some((ip.source_address, ip.source_port).into()),
        v2::Addresses::Unspecified | v2::Addresses::Unix(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    /// The address, and what is left to read after the header.
    async fn read_in_pieces(bytes: &[u8], piece: usize) -> io::Result<(Option<SocketAddr>, Vec<u8>)> {
        let (mut near, mut far) = tokio::io::duplex(piece);
        let bytes = bytes.to_vec();
        let send = async move {
            // The reader may leave before everything is sent.
            let _ = far.write_all(&bytes).await;
        };
        let receive = async move {
            let address = read_header(&mut near).await?;
            let mut rest = Vec::new();
            near.read_to_end(&mut rest).await?;
            Ok((address, rest))
        };
        let ((), result) = tokio::join!(send, receive);
        result
    }

    #[tokio::test]
    async fn both_versions_give_the_clients_address_however_they_are_cut() {
        let client: SocketAddr = "192.0.2.7:4711".parse().unwrap();
        let server: SocketAddr = "198.51.100.1:443".parse().unwrap();
        let mut v1 = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n".to_vec();
        let mut v2 =
            v2::Builder::with_addresses(v2::Version::Two | v2::Command::Proxy, v2::Protocol::Stream, (client, server))
                .build()
                .unwrap();
        for header in [&mut v1, &mut v2] {
            header.extend_from_slice(b"GET / HTTP/1.1\r\n");
            for piece in [1, 7, 4096] {
                let (address, rest) = read_in_pieces(header, piece).await.unwrap();
                assert_eq!(address, Some(client));
                assert_eq!(rest, b"GET / HTTP/1.1\r\n");
            }
        }
    }

    #[tokio::test]
    async fn a_connection_without_a_header_is_refused() {
        let error = read_in_pieces(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", 4096).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
