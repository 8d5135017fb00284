//! The peers of a drill: starting them, writing through them, waiting until all of them hold the same, and ending them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::ledger::{Lane, Ledger, key, named};
use super::network::{Network, Traffic};
use crate::args::WritersArg;
use crate::failure::Failure;
use crate::request::{Reply, Request, Value};
use crate::stage::{Actor, Play, Stage};

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(25);
/// From one edit to the next: ten a second, of all peers together, so that each event falls among edits.
const PACE: Duration = Duration::from_millis(100);
/// Peers that a message about what is missing names.
const NAMED_MAX: usize = 6;

pub(super) struct Crew {
    pub(super) play: Play,
    pub(super) stage: Stage,
    pub(super) network: Network,
    pub(super) ledger: Arc<Ledger>,
    /// How often each is asked what it holds.
    pub(super) every: Duration,
    /// Everybody that ever was, in the order in which they came.
    pub(super) members: Vec<Member>,
}

pub(super) struct Member {
    pub(super) name: String,
    pub(super) place: usize,
    pub(super) began_s: f64,
    pub(super) ended: Option<Ended>,
    pub(super) traffic: Traffic,
    pub(super) lane: Arc<Lane>,
    /// `None` when it is dead.
    life: Option<Life>,
}

/// The end of a peer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ended {
    pub(super) at_s: f64,
    pub(super) how: End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The network is cut first, so that nobody hears of it: a power cut.
    Unplugged,
    /// The system closes its connections, so that others notice at once.
    Killed,
}

struct Life {
    actor: Actor,
    _following: Following,
}

/// Somebody looks at what a peer holds, until this is dropped.
struct Following(AbortHandle);

impl Drop for Following {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A document of the drill.
#[derive(Debug, Clone)]
pub(super) struct Document {
    pub(super) number: usize,
    pub(super) name: String,
}

impl Crew {
    /// Starts a peer with an empty store at a place, which dials these places; its number.
    pub(super) async fn start(&mut self, name: &str, place: usize, dials: &[usize]) -> Result<usize, Failure> {
        let play = self.play;
        let cannot = |error: std::io::Error| play.failed(format!("the network at {name}: {error}"));
        let mut flags = vec!["--advertise".to_owned(), self.network.advertised(place).await.map_err(cannot)?];
        for to in dials {
            flags.extend(["--connect".to_owned(), self.network.dialled(place, *to).await.map_err(cannot)?]);
        }
        let command = self.stage.serving(name, &self.network.listen(place), &flags)?;
        let child = self.network.spawn(place, command).await;
        let actor = self.stage.started(name, child).await?;
        self.network.listens(place, actor.address());
        let lane = Arc::new(Lane::default());
        let following = lane.clone().follow(actor.second_reach().await?, self.ledger.clone(), self.every);
        self.members.push(Member {
            name: name.to_owned(),
            place,
            began_s: self.ledger.now_s(),
            ended: None,
            traffic: Traffic::default(),
            lane,
            life: Some(Life { actor, _following: Following(following) }),
        });
        Ok(self.members.len() - 1)
    }

    fn actor(&mut self, member: usize) -> Result<&mut Actor, Failure> {
        let play = self.play;
        match &mut self.members[member] {
            Member { life: Some(life), .. } => Ok(&mut life.actor),
            Member { name, .. } => Err(play.failed(format!("{name} is dead"))),
        }
    }

    pub(super) async fn found_space(&mut self, member: usize) -> Result<(), Failure> {
        self.actor(member)?.ask(Request::NewSpace { writers: WritersArg::Anyone }).await.map(drop)
    }

    pub(super) async fn invite(&mut self, member: usize) -> Result<String, Failure> {
        self.actor(member)?.invite().await
    }

    pub(super) async fn join(&mut self, member: usize, invite: &str) -> Result<(), Failure> {
        self.actor(member)?.join(invite).await
    }

    pub(super) fn living(&self) -> Vec<usize> {
        (0..self.members.len()).filter(|member| self.members[*member].life.is_some()).collect()
    }

    /// The places of these.
    pub(super) fn places(&self, members: &[usize]) -> BTreeSet<usize> {
        members.iter().map(|member| self.members[*member].place).collect()
    }

    /// A new document, made by one; all of the living show it when this returns.
    pub(super) async fn document(&mut self, name: &str, by: usize) -> Result<Document, Failure> {
        let request = Request::NewDocument { space: None, kind: "drill".into(), name: name.to_owned() };
        self.actor(by)?.ask(request).await?;
        let document = Document { number: self.ledger.document(name), name: name.to_owned() };
        self.level(&document).await?;
        Ok(document)
    }

    /// So many edits, by these in turn. Each is acknowledged, which is to say on a disk, before the next is made.
    pub(super) async fn write(
        &mut self,
        to: &Document,
        by: &[usize],
        edits: usize,
    ) -> Result<BTreeSet<usize>, Failure> {
        let (mut made, mut ticks) = (BTreeSet::new(), interval(PACE));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for turn in 0..edits {
            ticks.tick().await;
            let member = by[turn % by.len()];
            let edit = self.ledger.edits_of(to.number);
            let value = json!(self.members[member].name);
            self.actor(member)?.ask(Request::Set { doc: named(&to.name), path: key(edit), value }).await?;
            self.ledger.made(to.number);
            made.insert(edit);
        }
        Ok(made)
    }

    /// Waits until all of the living hold every edit of a document, and the same version of it. How long that took, in seconds, without
    /// the time that comparing takes.
    pub(super) async fn level(&mut self, document: &Document) -> Result<f64, Failure> {
        let edits = (0..self.ledger.edits_of(document.number)).collect();
        let begun = Instant::now();
        let living = self.living();
        self.hold(&living, document, &edits, begun).await?;
        loop {
            let seconds = begun.elapsed().as_secs_f64();
            let Some(unlike) = self.unlike(&living, document).await else { return Ok(seconds) };
            if begun.elapsed() > self.play.patience {
                return Err(self.play.failed(format!("{} is not level: {unlike}", document.name)));
            }
            sleep(LOOK).await;
        }
    }

    /// Waits until these hold these edits.
    pub(super) async fn hold(
        &mut self,
        members: &[usize],
        document: &Document,
        edits: &BTreeSet<usize>,
        begun: Instant,
    ) -> Result<(), Failure> {
        loop {
            let lacking = members.iter().map(|member| (*member, self.lacks(*member, document, edits)));
            let lacking: Vec<_> = lacking.filter(|(_, lacks)| !lacks.is_empty()).collect();
            if lacking.is_empty() {
                return Ok(());
            }
            if begun.elapsed() > self.play.patience {
                return Err(self.play.failed(self.missing(document, &lacking)));
            }
            sleep(LOOK).await;
        }
    }

    /// The edits that a peer did not hold when it was last asked.
    pub(super) fn lacks(&self, member: usize, document: &Document, edits: &BTreeSet<usize>) -> BTreeSet<usize> {
        edits - &self.members[member].lane.held(document.number)
    }

    /// What was missing where.
    fn missing(&self, document: &Document, lacking: &[(usize, BTreeSet<usize>)]) -> String {
        let named = lacking.iter().take(NAMED_MAX).map(|(member, lacks)| {
            let keys: Vec<_> = lacks.iter().take(NAMED_MAX).map(|edit| key(*edit)).collect();
            let more = if lacks.len() > keys.len() { ", …" } else { "" };
            format!("{} lacks {} edits ({}{more})", self.members[*member].name, lacks.len(), keys.join(", "))
        });
        let named = named.collect::<Vec<_>>().join("; ");
        let more =
            if lacking.len() > NAMED_MAX { format!("; and {} more", lacking.len() - NAMED_MAX) } else { String::new() };
        format!("{}: after {} s {named}{more}", document.name, self.play.patience.as_secs())
    }

    /// Whose version of a document differs from the first one's, if any does. All are asked.
    async fn unlike(&mut self, members: &[usize], document: &Document) -> Option<String> {
        let mut first: Option<(Value, String)> = None;
        for member in members {
            let name = self.members[*member].name.clone();
            let request = Request::Get { doc: named(&document.name), path: String::new() };
            let asked = match self.actor(*member) {
                Ok(actor) => actor.ask(request).await,
                Err(failure) => Err(failure),
            };
            let value = match asked {
                Ok(Reply::Value(value)) => value,
                Ok(_) => return Some(format!("{name} gave no value")),
                Err(failure) => return Some(failure.what),
            };
            match &first {
                None => first = Some((value, name)),
                Some((other, of)) if other.value != value.value || other.heads != value.heads => {
                    return Some(format!("{name} shows another version than {of}"));
                }
                Some(_) => {}
            }
        }
        None
    }

    /// The rows of a store that are not sound.
    pub(super) async fn faults(&mut self, member: usize) -> Result<Vec<String>, Failure> {
        match self.actor(member)?.ask(Request::Check).await? {
            Reply::Checked(checked) => Ok(checked.faults),
            _ => Err(self.play.failed("a check gave no result")),
        }
    }

    /// Ends a peer for good.
    pub(super) async fn end(&mut self, member: usize, how: End) -> Result<(), Failure> {
        let (place, at_s) = (self.members[member].place, self.ledger.now_s());
        if how == End::Unplugged {
            self.network.unplug(place);
        }
        let ended = &mut self.members[member];
        (ended.ended, ended.traffic) = (Some(Ended { at_s, how }), self.network.traffic(place));
        if let Some(life) = ended.life.take() {
            life.actor.kill().await?;
        }
        // The system has said goodbye in its name by now.
        self.network.unplug(place);
        Ok(())
    }

    /// Reads what the living sent and received until now.
    pub(super) fn count(&mut self) {
        for member in self.living() {
            self.members[member].traffic = self.network.traffic(self.members[member].place);
        }
    }

    /// Stops all of the living as an operator does. A process that does not end well is a failure.
    pub(super) async fn stop(&mut self) -> Result<(), Failure> {
        self.count();
        let mut stopping = JoinSet::new();
        for life in self.members.iter_mut().filter_map(|member| member.life.take()) {
            stopping.spawn(life.actor.stop());
        }
        while let Some(stopped) = stopping.join_next().await {
            stopped.map_err(|error| self.play.failed(error))??;
        }
        Ok(())
    }
}
