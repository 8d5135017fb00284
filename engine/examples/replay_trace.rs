//! Types a recorded editing session into a document on disk, one change a keystroke, and prints what it costs.
//!
//! Run: `cargo run --release -p commonhold-engine --example replay_trace -- FILE.json.gz`, with a sequential trace of
//! github.com/josephg/editing-traces; without a file, a made-up session of 5,000 keystrokes.

use std::error::Error;
use std::io::Read;
use std::time::Instant;

use commonhold_engine::{Config, EditError, Node, ObjId, ObjKind, Writers};
use serde::Deserialize;

/// Position and length deleted in code points, text inserted.
type Splice = (usize, usize, String);

/// Changes after which the engine is given time to write: its store then commits some hundreds at once.
const FLUSH_EVERY: usize = 512;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Trace {
    end_content: String,
    txns: Vec<Transaction>,
}

#[derive(Deserialize)]
struct Transaction {
    patches: Vec<Splice>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let trace = match std::env::args().nth(1) {
        Some(path) => read(&path)?,
        None => made_up(5_000),
    };
    let folder = std::env::temp_dir().join(format!("commonhold-replay-{}", std::process::id()));
    let config = Config { data: Some(folder.join("data")), keys: Some(folder.join("keys")), ..Config::default() };
    let node = Node::open(config.clone()).await?;
    let space = node.create_space(Writers::Granted).await?;
    let document = node.create_document(space, "text", "").await?;
    document.edit(|edit| edit.put_object(&ObjId::ROOT, "text", ObjKind::Text).map(drop)).await?;

    let began = Instant::now();
    for (at, transaction) in trace.txns.iter().enumerate() {
        let splices = &transaction.patches;
        document
            .edit(|edit| {
                let text = edit.resolve(&["text".into()])?;
                splices.iter().try_for_each(|(at, deleted, new)| edit.splice_text(&text, *at, *deleted, new))?;
                Ok::<_, EditError>(())
            })
            .await?;
        document.commit().await?;
        if at % FLUSH_EVERY == FLUSH_EVERY - 1 {
            document.flush().await?;
        }
    }
    document.flush().await?;
    let typed = began.elapsed();
    let count = trace.txns.len();
    println!(
        "typed {count} changes in {:.2} s, {:.1} µs each",
        typed.as_secs_f64(),
        typed.as_micros() as f64 / count as f64
    );
    assert_eq!(document.get::<String>("/text").await?, trace.end_content, "the text is the session's");

    let id = document.id();
    drop(document);
    node.compact_now(space, id).await?;
    node.close().await?;
    let began = Instant::now();
    let node = Node::open(config).await?;
    let document = node.open_document(space, id).await?;
    let opened = began.elapsed();
    assert_eq!(document.get::<String>("/text").await?, trace.end_content, "the text is kept");
    let cost = document.cost().await?;
    println!("opened again in {:.0} ms", opened.as_secs_f64() * 1_000.0);
    println!("{} changes, {} operations, about {} KiB in memory", cost.changes, cost.ops, cost.memory_bytes >> 10);
    println!("snapshot {} bytes, store {} bytes", cost.snapshot_bytes, node.check().await?.store_bytes);
    drop(document);
    node.close().await?;
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}

fn read(path: &str) -> Result<Trace, Box<dyn Error>> {
    let mut json = String::new();
    flate2::read::GzDecoder::new(std::fs::File::open(path)?).read_to_string(&mut json)?;
    Ok(serde_json::from_str(&json)?)
}

/// Mostly typing on, sometimes a step back or a jump: a small linear congruential generator decides.
fn made_up(keystrokes: usize) -> Trace {
    let (mut text, mut at, mut state) = (Vec::new(), 0, 1u64);
    let mut draw = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let mut txns = Vec::new();
    for _ in 0..keystrokes {
        if draw(100) == 0 {
            at = draw(text.len() + 1);
        }
        let splice = if at > 0 && draw(8) == 0 {
            at -= 1;
            text.remove(at);
            (at, 1, String::new())
        } else {
            let letter = char::from(b"etaoin shrdlu"[draw(13)]);
            text.insert(at, letter);
            at += 1;
            (at - 1, 0, letter.to_string())
        };
        txns.push(Transaction { patches: vec![splice] });
    }
    Trace { end_content: text.into_iter().collect(), txns }
}
