use std::fs;
use std::os::unix::fs::PermissionsExt;

use tempfile::tempdir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// Adds two numbers; counts from `a` to `b` in a stream when `b` is larger than 100.
async fn serve(mut connection: LocalConnection) {
    while let Ok(Some((a, b))) = connection.recv::<(u32, u32)>().await {
        if b == 0 {
            connection.refuse("nothing to add").await.unwrap();
        } else if b <= 100 {
            connection.reply(&(a + b)).await.unwrap();
        } else {
            for item in a..b {
                connection.item(&item).await.unwrap();
            }
            connection.end().await.unwrap();
        }
    }
}

async fn client(dir: &Path) -> LocalClient {
    LocalClient::connect(dir).await.unwrap().unwrap()
}

fn serving(server: LocalServer) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        while let Ok(connection) = server.accept().await {
            tokio::spawn(serve(connection));
        }
    })
}

#[tokio::test]
async fn calls_streams_and_refusals_reach_the_owner_and_come_back() {
    let dir = tempdir().unwrap();
    let server = LocalServer::bind(dir.path()).await.unwrap();
    assert_eq!(fs::metadata(dir.path().join(SOCKET)).unwrap().permissions().mode() & 0o777, 0o600);
    serving(server);
    let mut one = client(dir.path()).await;
    assert_eq!(one.call::<_, u32>(&(3, 4)).await.unwrap(), 7);
    let refused = one.call::<_, u32>(&(3, 0)).await.unwrap_err();
    assert_eq!(refused.to_string(), "nothing to add");
    assert_eq!(one.call::<_, u32>(&(5, 5)).await.unwrap(), 10, "a refusal does not end the connection");
    let mut stream = one.stream(&(0, 1_000)).await.unwrap();
    for expected in 0..1_000u32 {
        assert_eq!(stream.next::<u32>().await.unwrap(), Some(expected));
    }
    assert_eq!(stream.next::<u32>().await.unwrap(), None);
    assert_eq!(stream.next::<u32>().await.unwrap(), None);
}

#[tokio::test]
async fn nobody_at_home_is_none_and_the_socket_goes_with_its_owner() {
    let dir = tempdir().unwrap();
    assert!(LocalClient::connect(dir.path()).await.unwrap().is_none());
    let server = LocalServer::bind(dir.path()).await.unwrap();
    assert!(LocalClient::connect(dir.path()).await.unwrap().is_some());
    assert!(matches!(LocalServer::bind(dir.path()).await, Err(LocalError::AlreadyServed(_))));
    drop(server);
    assert!(LocalClient::connect(dir.path()).await.unwrap().is_none());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_dead_owners_socket_is_replaced() {
    let dir = tempdir().unwrap();
    // Dropping a std listener leaves its socket behind, as a killed process does.
    drop(std::os::unix::net::UnixListener::bind(dir.path().join(SOCKET)).unwrap());
    assert!(LocalClient::connect(dir.path()).await.unwrap().is_none());
    serving(LocalServer::bind(dir.path()).await.unwrap());
    assert_eq!(client(dir.path()).await.call::<_, u32>(&(1, 1)).await.unwrap(), 2);
}

#[tokio::test]
async fn a_long_data_folder_has_its_socket_in_a_private_folder_elsewhere() {
    let dir = tempdir().unwrap();
    let long = dir.path().join("x".repeat(120));
    fs::create_dir(&long).unwrap();
    let server = LocalServer::bind(&long).await.unwrap();
    let socket = socket_path(&long).unwrap();
    let folder = socket.parent().unwrap().to_owned();
    assert!(!socket.starts_with(dir.path()));
    assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    assert!(matches!(LocalServer::bind(&long).await, Err(LocalError::AlreadyServed(_))));
    let task = serving(server);
    assert_eq!(client(&long).await.call::<_, u32>(&(1, 1)).await.unwrap(), 2);
    task.abort();
    let _ = task.await;
    assert!(!folder.exists());

    // A killed owner leaves all of it behind; the next one clears it away.
    fs::create_dir(&folder).unwrap();
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    fs::write(long.join(SOCKET_PATH), socket.to_str().unwrap()).unwrap();
    assert!(LocalClient::connect(&long).await.unwrap().is_none());
    let server = LocalServer::bind(&long).await.unwrap();
    assert!(!folder.exists());
    assert_ne!(socket_path(&long).unwrap(), socket);
    drop(server);
}

#[tokio::test]
async fn a_call_too_many_is_told_so() {
    let dir = tempdir().unwrap();
    let server = LocalServer::bind(dir.path()).await.unwrap();
    let (mut clients, mut connections) = (Vec::new(), Vec::new());
    for _ in 0..CONNECTIONS_MAX {
        clients.push(client(dir.path()).await);
        connections.push(server.accept().await.unwrap());
    }
    let mut extra = client(dir.path()).await;
    let waiting = tokio::spawn(async move { (server.accept().await.is_ok(), server) });
    let answer: Result<Option<Answer<()>>, _> = extra.messages.recv().await;
    assert!(matches!(answer, Ok(Some(Answer::Error(text))) if text == "too many local connections"));
    connections.pop();
    clients.push(client(dir.path()).await);
    assert!(waiting.await.unwrap().0, "a place that is free again is given away");
}

#[tokio::test]
async fn long_messages_are_refused_on_both_sides_before_memory_is_spent() {
    let dir = tempdir().unwrap();
    let server = LocalServer::bind(dir.path()).await.unwrap();
    let mut sender = client(dir.path()).await;
    let mut untouched = server.accept().await.unwrap();
    let long = "x".repeat(MESSAGE_BYTES_MAX);
    assert!(matches!(sender.call::<_, u32>(&long).await, Err(LocalError::TooLong(_))));
    assert!(matches!(sender.call::<_, u32>(&1).await, Err(LocalError::Abandoned)));
    drop(sender);
    assert!(untouched.recv::<u32>().await.unwrap().is_none(), "nothing of it was sent");

    let longest = "x".repeat(MESSAGE_BYTES_MAX - 2);
    let mut sender = client(dir.path()).await;
    let mut taker = server.accept().await.unwrap();
    let (sent, taken) = tokio::join!(sender.messages.send(&longest), taker.recv::<String>());
    sent.unwrap();
    assert_eq!(taken.unwrap().unwrap().len(), longest.len());

    let mut raw = UnixStream::connect(dir.path().join(SOCKET)).await.unwrap();
    let mut bad = server.accept().await.unwrap();
    raw.write_all(&[0xff; 8]).await.unwrap();
    assert!(matches!(bad.recv::<u32>().await, Err(LocalError::TooLong(_))));
}

#[tokio::test]
async fn a_client_that_leaves_a_stream_is_noticed() {
    let dir = tempdir().unwrap();
    let server = LocalServer::bind(dir.path()).await.unwrap();
    let stream = client(dir.path()).await.stream(&(1, 2)).await.unwrap();
    let mut connection = server.accept().await.unwrap();
    connection.recv::<(u32, u32)>().await.unwrap().unwrap();
    connection.item(&1u32).await.unwrap();
    drop(stream);
    connection.gone().await;
}

#[tokio::test]
async fn a_message_cut_short_is_not_taken_for_an_end() {
    let dir = tempdir().unwrap();
    let server = LocalServer::bind(dir.path()).await.unwrap();
    let mut raw = UnixStream::connect(dir.path().join(SOCKET)).await.unwrap();
    let mut connection = server.accept().await.unwrap();
    raw.write_all(&[0, 0, 0, 9, b'1']).await.unwrap();
    drop(raw);
    assert!(matches!(connection.recv::<u32>().await, Err(LocalError::BrokenOff)));
    let mut raw = UnixStream::connect(dir.path().join(SOCKET)).await.unwrap();
    let mut connection = server.accept().await.unwrap();
    raw.write_all(&[0, 0, 0, 1, b'x']).await.unwrap();
    assert!(matches!(connection.recv::<u32>().await, Err(LocalError::Json(_))));
    drop(connection);
    assert_eq!(raw.read(&mut [0; 8]).await.unwrap(), 0);
}
