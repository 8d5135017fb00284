//! Three peers on this machine, as real processes: they share documents, go offline, lose the server they met at, and go on. Every step
//! is checked; what is printed as done was seen to be so.

use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use crate::failure::Failure;
use crate::print;
use crate::request::{Doc, Reply, Request};
use crate::serve::Stop;
use crate::stage::{Actor, LOOK, Play, Stage};

/// All of it must be done in this time.
const DEADLINE: Duration = Duration::from_secs(60);

const DEMO: Play = Play {
    name: "demo",
    // Fifty times what one thing takes on a busy machine.
    patience: Duration::from_secs(10),
    remedy: "run it again with --keep and look at the .log files; if it fails again, please report it",
};

/// Plays the demo. Processes and folders are gone when this returns, however it ends.
pub(crate) async fn run(keep: bool, json: bool) -> Result<(), Failure> {
    let mut stop = Stop::listen(false)?;
    let begun = Instant::now();
    let stage = Stage::set(DEMO, keep)?;
    let mut teller = Teller { quiet: json, steps: 0 };
    let played = stop.or(tokio::time::timeout(DEADLINE, play(&stage, &mut teller))).await;
    let steps = teller.steps;
    stage.clear();
    match played {
        Some(Ok(Ok(()))) => {
            let seconds = begun.elapsed().as_secs_f64();
            match json {
                true => print::out(&format!("{}\n", json!({"ok": true, "steps": steps, "seconds": seconds}))),
                false => print::out(&format!(
                    "\n✓ All {steps} steps worked, in {seconds:.1} s. To start your own: commonhold\n"
                )),
            }
        }
        Some(Ok(Err(failure))) => Err(failure),
        Some(Err(_)) => Err(DEMO.failed(format!("step {steps} was not done after {} s", DEADLINE.as_secs()))),
        None => Err(Failure::failed("interrupted", "the demo was interrupted", "run it again")),
    }
}

async fn play(stage: &Stage, teller: &mut Teller) -> Result<(), Failure> {
    teller.step("An origin starts, with a space and a document. It is a peer like any other, with a good address.");
    let mut origin = stage.start("origin").await?;
    origin.found_space().await?;
    origin.ask(Request::NewDocument { space: None, kind: "list".into(), name: "groceries".into() }).await?;
    let invite = origin.invite().await?;
    teller.show(&format!("   listening at {}", origin.address()));
    teller.done(&format!("an invite to paste: {}…", &invite[..28.min(invite.len())]));

    teller.step("Alice and Bob join with that invite, each with a device key and a store of their own.");
    let mut alice = stage.start("alice").await?;
    let mut bob = stage.start("bob").await?;
    alice.join(&invite).await?;
    bob.join(&invite).await?;
    alice.sees("", &json!({})).await?;
    bob.sees("", &json!({})).await?;
    teller.done("both have the document");

    teller.step("Alice writes; Bob sees it.");
    alice.set("milk", json!("2 bottles")).await?;
    let delay = bob.sees("milk", &json!("2 bottles")).await?;
    teller.done(&format!("milk = \"2 bottles\" at Bob, {} ms after it was on Alice's disk", delay.as_millis()));

    teller.step("Bob goes offline: his process ends. He edits all the same, and so does Alice.");
    let bob_offline = bob.stop().await?;
    stage.run_offline(&bob_offline, &["set", "groceries", "bread", "\"rye\""]).await?;
    stage.run_offline(&bob_offline, &["set", "groceries", "eggs", "6"]).await?;
    alice.set("milk", json!("3 bottles")).await?;
    alice.set("honey", json!(true)).await?;
    teller.done("two edits wait on Bob's disk, two on Alice's");

    teller.step("Bob comes back.");
    let mut bob = stage.start("bob").await?;
    let merged = json!({"milk": "3 bottles", "honey": true, "bread": "rye", "eggs": 6});
    bob.sees("", &merged).await?;
    alice.sees("", &merged).await?;
    origin.sees("", &merged).await?;
    teller.done(&format!("all three are level, nothing was lost: {merged}"));

    teller.step("The origin is killed (SIGKILL). Alice invites Bob to herself, and they are connected directly.");
    origin.kill().await?;
    let invite = alice.invite().await?;
    bob.dial(&invite).await?;
    bob.connected_to(&alice).await?;
    teller.done("Alice and Bob are connected, with nobody between them");

    teller.step("Both write, without any server.");
    alice.set("milk", json!("none left")).await?;
    bob.sees("milk", &json!("none left")).await?;
    bob.set("coffee", json!(2)).await?;
    alice.sees("coffee", &json!(2)).await?;
    teller.done("each saw the other's edit");

    teller.step("Carol is new. The origin is dead, so she joins through Alice.");
    let mut carol = stage.start("carol").await?;
    carol.join(&invite).await?;
    let all = json!({"milk": "none left", "honey": true, "bread": "rye", "eggs": 6, "coffee": 2});
    carol.sees("", &all).await?;
    carol.set("carol was here", json!(true)).await?;
    bob.sees("carol was here", &json!(true)).await?;
    teller.done("she has everything, and Bob has her edit by way of Alice");

    for peer in [alice, bob, carol] {
        peer.stop().await?;
    }
    Ok(())
}

/// Tells what is played. Nothing, if a program listens.
struct Teller {
    quiet: bool,
    steps: usize,
}

impl Teller {
    /// Says what comes next.
    fn step(&mut self, what: &str) {
        self.steps += 1;
        let number = self.steps;
        self.show(&format!("{}{number}. {what}", if number == 1 { "" } else { "\n" }));
    }

    fn done(&self, what: &str) {
        self.show(&format!("   ✓ {what}"));
    }

    fn show(&self, line: &str) {
        if !self.quiet {
            // The last line, which must come out, tells.
            let _ = print::out(&format!("{line}\n"));
        }
    }
}

/// What only this play asks of its peers.
impl Actor {
    async fn found_space(&mut self) -> Result<(), Failure> {
        self.ask(Request::NewSpace { writers: crate::args::WritersArg::Anyone }).await.map(drop)
    }

    async fn set(&mut self, path: &str, value: Json) -> Result<(), Failure> {
        self.ask(Request::Set { doc: groceries(), path: path.to_owned(), value }).await.map(drop)
    }

    /// Waits until a value stands in the document; how long that took.
    async fn sees(&mut self, path: &str, expected: &Json) -> Result<Duration, Failure> {
        let begun = Instant::now();
        let mut last = None;
        while begun.elapsed() < DEMO.patience {
            // Until it has come there is no document, or nothing at that place.
            let request = Request::Get { doc: groceries(), path: path.to_owned() };
            if let Ok(Reply::Value(value)) = self.ask(request).await {
                if value.value == *expected {
                    return Ok(begun.elapsed());
                }
                last = Some(value.value);
            }
            tokio::time::sleep(LOOK).await;
        }
        let last = last.map_or_else(|| "nothing".to_owned(), |last| last.to_string());
        let seconds = DEMO.patience.as_secs();
        Err(DEMO.failed(format!("{} did not see {expected} but {last} after {seconds} s", self.name())))
    }
}

fn groceries() -> Doc {
    Doc { space: None, doc: "groceries".to_owned() }
}
