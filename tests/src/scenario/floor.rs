//! What the machine needs for work that cannot be avoided: the bytes over loopback, the strict signature checks, one
//! durable commit.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

use ed25519_dalek::{Signature, Signer, SigningKey};
use redb::{Database, TableDefinition};

use super::Result;

/// How much of what.
#[derive(Debug, Clone, Copy)]
pub struct Floor {
    /// Bytes over loopback.
    pub wire_bytes: u64,
    /// Strict signature checks.
    pub signatures: u64,
    /// Bytes in one durable redb commit.
    pub stored_bytes: u64,
}

/// Seconds for all of it, one after the other.
pub fn floor(work: Floor) -> Result<f64> {
    Ok(wire(work.wire_bytes)? + signatures(work.signatures) + commit(work.stored_bytes)?)
}

/// Seconds for so many bytes over one TCP stream on loopback.
pub(super) fn wire(bytes: u64) -> Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let sender = std::thread::spawn(move || -> std::io::Result<()> {
        let mut stream = TcpStream::connect(address)?;
        let block = vec![7u8; 64 << 10];
        let mut left = bytes as usize;
        while left > 0 {
            let n = left.min(block.len());
            stream.write_all(&block[..n])?;
            left -= n;
        }
        Ok(())
    });
    let begun = Instant::now();
    let (mut stream, _) = listener.accept()?;
    let mut buffer = vec![0; 64 << 10];
    while stream.read(&mut buffer)? > 0 {}
    sender.join().map_err(|_| "the sender panicked")??;
    Ok(begun.elapsed().as_secs_f64())
}

fn signatures(count: u64) -> f64 {
    let key = SigningKey::from_bytes(&[7; 32]);
    let message = [1u8; 200];
    let signature: Signature = key.sign(&message);
    let verifying = key.verifying_key();
    let begun = Instant::now();
    let good = (0..count).filter(|_| verifying.verify_strict(&message, &signature).is_ok()).count();
    assert_eq!(good as u64, count);
    begun.elapsed().as_secs_f64()
}

fn commit(bytes: u64) -> Result<f64> {
    const TABLE: TableDefinition<u64, &[u8]> = TableDefinition::new("floor");
    let folder = tempfile::tempdir()?;
    let database = Database::create(folder.path().join("floor.redb"))?;
    let row = [9u8; 1_024];
    let begun = Instant::now();
    let transaction = database.begin_write()?;
    {
        let mut table = transaction.open_table(TABLE)?;
        for key in 0..bytes.div_ceil(1_024) {
            table.insert(key, &row[..])?;
        }
    }
    transaction.commit()?;
    Ok(begun.elapsed().as_secs_f64())
}
