//! Three peers on this machine, as real processes: they share documents, go offline, lose the server they met at, and go on. Every step
//! is checked; what is printed as done was seen to be so.

mod stage;

use std::time::{Duration, Instant};

use serde_json::json;

use crate::failure::Failure;
use crate::print;
use crate::request::Request;
use crate::serve::Stop;
use stage::{Actor, Stage, failed};

/// All of it must be done in this time.
const DEADLINE: Duration = Duration::from_secs(60);

/// Plays the demo. Processes and folders are gone when this returns, however it ends.
pub(crate) async fn run(keep: bool, json: bool) -> Result<(), Failure> {
    let mut stop = Stop::listen(false)?;
    let begun = Instant::now();
    let mut stage = Stage::set(keep, json)?;
    let played = stop.or(tokio::time::timeout(DEADLINE, play(&mut stage))).await;
    let steps = stage.steps();
    let cleared = stage.clear().await;
    match played {
        Some(Ok(Ok(()))) => {
            let seconds = begun.elapsed().as_secs_f64();
            let printed = match json {
                true => print::out(&format!("{}\n", json!({"ok": true, "steps": steps, "seconds": seconds}))),
                false => print::out(&format!(
                    "\n✓ All {steps} steps worked, in {seconds:.1} s. To start your own: commonhold\n"
                )),
            };
            cleared.and(printed)
        }
        Some(Ok(Err(failure))) => Err(failure),
        Some(Err(_)) => Err(failed(format!("step {steps} was not done after {} s", DEADLINE.as_secs()))),
        None => Err(Failure::failed("interrupted", "the demo was interrupted", "run it again")),
    }
}

async fn play(stage: &mut Stage) -> Result<(), Failure> {
    stage.step("An origin starts, with a space and a document. It is a peer like any other, with a good address.");
    let mut origin = stage.start("origin", &[]).await?;
    origin.found_space().await?;
    origin.ask(Request::NewDocument { space: None, kind: "list".into(), name: "groceries".into() }).await?;
    let invite = origin.invite().await?;
    stage.show(&format!("   listening at {}", origin.address()));
    stage.done(&format!("an invite to paste: {}…", &invite[..28.min(invite.len())]));

    stage.step("Alice and Bob join with that invite, each with a device key and a store of their own.");
    let mut alice = stage.start("alice", &[]).await?;
    let mut bob = stage.start("bob", &[]).await?;
    alice.join(&invite).await?;
    bob.join(&invite).await?;
    alice.sees("", &json!({})).await?;
    bob.sees("", &json!({})).await?;
    stage.done("both have the document");

    stage.step("Alice writes; Bob sees it.");
    alice.set("milk", json!("2 bottles")).await?;
    let delay = bob.sees("milk", &json!("2 bottles")).await?;
    stage.done(&format!("milk = \"2 bottles\" at Bob, {} ms after it was on Alice's disk", delay.as_millis()));

    stage.step("Bob goes offline: his process ends. He edits all the same, and so does Alice.");
    let bob_offline = bob.stop().await?;
    stage.run_offline(&bob_offline, &["set", "groceries", "bread", "\"rye\""]).await?;
    stage.run_offline(&bob_offline, &["set", "groceries", "eggs", "6"]).await?;
    alice.set("milk", json!("3 bottles")).await?;
    alice.set("honey", json!(true)).await?;
    stage.done("two edits wait on Bob's disk, two on Alice's");

    stage.step("Bob comes back.");
    let mut bob = stage.start("bob", &[]).await?;
    let merged = json!({"milk": "3 bottles", "honey": true, "bread": "rye", "eggs": 6});
    bob.sees("", &merged).await?;
    alice.sees("", &merged).await?;
    origin.sees("", &merged).await?;
    stage.done(&format!("all three are level, nothing was lost: {merged}"));

    stage.step("The origin is killed (SIGKILL). Alice invites Bob to herself, and they are connected directly.");
    origin.kill().await?;
    let invite = alice.invite().await?;
    bob.dial(&invite).await?;
    bob.connected_to(&alice).await?;
    stage.done("Alice and Bob are connected, with nobody between them");

    stage.step("Both write, without any server.");
    alice.set("milk", json!("none left")).await?;
    bob.sees("milk", &json!("none left")).await?;
    bob.set("coffee", json!(2)).await?;
    alice.sees("coffee", &json!(2)).await?;
    stage.done("each saw the other's edit");

    stage.step("Carol is new. The origin is dead, so she joins through Alice.");
    let mut carol = stage.start("carol", &[]).await?;
    carol.join(&invite).await?;
    let all = json!({"milk": "none left", "honey": true, "bread": "rye", "eggs": 6, "coffee": 2});
    carol.sees("", &all).await?;
    carol.set("carol was here", json!(true)).await?;
    bob.sees("carol was here", &json!(true)).await?;
    stage.done("she has everything, and Bob has her edit by way of Alice");

    for peer in [alice, bob, carol] {
        peer.stop().await?;
    }
    Ok(())
}

/// Kept apart so that the play above reads as one.
impl Actor {
    async fn found_space(&mut self) -> Result<(), Failure> {
        self.ask(Request::NewSpace { writers: crate::args::WritersArg::Anyone }).await.map(drop)
    }
}
