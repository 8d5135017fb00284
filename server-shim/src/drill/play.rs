//! What happens in a drill, from the origin's first minute to the new origin's. Each phase waits for a condition, and fails with what was
//! missing where.

use std::collections::BTreeSet;

use serde::Serialize;
use tokio::time::Instant;

use super::crew::{Crew, Document, End};
use super::links::{self, ORIGIN};
use crate::failure::Failure;
use crate::print;

/// The least edits of a phase. With more peers than that, one by each.
const EDITS: usize = 24;

/// What is told of a phase.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Phase {
    /// What happened, in one sentence.
    pub(super) what: String,
    pub(super) begun_s: f64,
    pub(super) ended_s: f64,
    /// Edits made in it; until it ends, those that were made before.
    pub(super) edits: usize,
    /// At its beginning.
    pub(super) living: usize,
    /// The times that were measured, with what they are the time of.
    pub(super) measured: Vec<Measured>,
    /// Whether it reached what it waited for.
    pub(super) passed: bool,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct Measured {
    pub(super) what: String,
    pub(super) seconds: f64,
}

/// An event, for the plot.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Mark {
    pub(super) at_s: f64,
    pub(super) what: String,
}

/// From one time to another the network was parted at these lanes.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Parted {
    pub(super) from_s: f64,
    pub(super) to_s: Option<f64>,
    /// Names of one side.
    pub(super) side: Vec<String>,
}

/// A drill as it goes.
pub(super) struct Drill {
    pub(super) crew: Crew,
    pub(super) peers: usize,
    pub(super) random: fastrand::Rng,
    pub(super) phases: Vec<Phase>,
    pub(super) marks: Vec<Mark>,
    pub(super) parted: Option<Parted>,
    /// Places with a link between them, by configuration or by an invite.
    links: BTreeSet<(usize, usize)>,
    documents: Vec<Document>,
}

impl Drill {
    pub(super) fn new(crew: Crew, peers: usize, random: fastrand::Rng) -> Drill {
        let links = links::configured(peers);
        let (phases, marks, documents) = (Vec::new(), Vec::new(), Vec::new());
        Drill { crew, peers, random, phases, marks, parted: None, links, documents }
    }

    /// Places that it needs: the origin's, which the new origin has too, the peers', and the newcomer's.
    pub(super) fn places(peers: usize) -> usize {
        peers + 2
    }

    /// Plays it all.
    pub(super) async fn play(&mut self) -> Result<(), Failure> {
        let origin = self.gather().await?;
        self.origin_dies(origin).await?;
        let newcomer = self.newcomer_joins().await?;
        self.network_parts(newcomer).await?;
        self.half_die().await?;
        self.new_origin().await?;
        self.end().await
    }

    /// Begins a phase. It counts as failed until [`done`](Self::done).
    fn phase(&mut self, what: &str) {
        let (now, living) = (self.crew.ledger.now_s(), self.crew.living().len());
        print::progress(&format!("{now:6.1} s  {}. {what}", self.phases.len() + 1));
        self.phases.push(Phase {
            what: what.to_owned(),
            begun_s: now,
            ended_s: now,
            edits: self.crew.ledger.total(),
            living,
            measured: Vec::new(),
            passed: false,
        });
    }

    fn measured(&mut self, what: &str, seconds: f64) {
        print::progress(&format!("          {what}: {seconds:.2} s"));
        if let Some(phase) = self.phases.last_mut() {
            phase.measured.push(Measured { what: what.to_owned(), seconds });
        }
    }

    fn mark(&mut self, what: &str) {
        self.marks.push(Mark { at_s: self.crew.ledger.now_s(), what: what.to_owned() });
    }

    /// Ends the phase, passed or not: what was begun is told in the report.
    pub(super) fn done(&mut self, passed: bool) {
        let (now, total) = (self.crew.ledger.now_s(), self.crew.ledger.total());
        if let Some(phase) = self.phases.last_mut().filter(|phase| !phase.passed) {
            (phase.ended_s, phase.edits, phase.passed) = (now, total - phase.edits, passed);
        }
    }

    fn edits(&self) -> usize {
        EDITS.max(self.peers)
    }

    fn any(&mut self, of: &[usize]) -> usize {
        of[self.random.usize(..of.len())]
    }

    async fn document(&mut self, name: &str, by: usize) -> Result<Document, Failure> {
        let document = self.crew.document(name, by).await?;
        self.documents.push(document.clone());
        Ok(document)
    }

    async fn gather(&mut self) -> Result<usize, Failure> {
        self.phase(&format!("an origin starts, {} peers join through its invite, and all write", self.peers));
        let origin = self.crew.start("origin", ORIGIN, &[]).await?;
        self.crew.found_space(origin).await?;
        let invite = self.crew.invite(origin).await?;
        for place in 1..=self.peers {
            let dials = links::dialled(place, &self.links);
            let peer = self.crew.start(&format!("peer {place}"), place, &dials).await?;
            self.crew.join(peer, &invite).await?;
        }
        self.mark("all have joined");
        let document = self.document("together", origin).await?;
        let all = self.crew.living();
        self.crew.write(&document, &all, self.edits()).await?;
        let seconds = self.crew.level(&document).await?;
        self.measured("level after the last edit", seconds);
        self.done(true);
        Ok(origin)
    }

    async fn origin_dies(&mut self, origin: usize) -> Result<(), Failure> {
        self.phase("the origin dies for good in the midst of edits (its power is cut), and edits go on");
        let peers: Vec<_> = self.crew.living().into_iter().filter(|member| *member != origin).collect();
        let by = self.any(&peers);
        let document = self.document("without an origin", by).await?;
        self.crew.write(&document, &peers, self.edits() / 2).await?;
        self.mark("origin dies");
        self.crew.end(origin, End::Unplugged).await?;
        self.crew.write(&document, &peers, self.edits() - self.edits() / 2).await?;
        let seconds = self.crew.level(&document).await?;
        self.measured("level after the last edit", seconds);
        self.done(true);
        Ok(())
    }

    async fn newcomer_joins(&mut self) -> Result<usize, Failure> {
        self.phase("a newcomer joins through a peer's invite, while there is no origin");
        let living = self.crew.living();
        let host = self.any(&living);
        let invite = self.crew.invite(host).await?;
        self.mark("newcomer");
        let begun = Instant::now();
        let place = self.peers + 1;
        let dials: Vec<_> = self.crew.network.told_of(self.crew.members[host].place).into_iter().collect();
        let newcomer = self.crew.start("newcomer", place, &dials).await?;
        self.crew.join(newcomer, &invite).await?;
        self.links.insert((self.crew.members[host].place, place));
        self.fill(newcomer, begun).await?;
        let document = self.document("with a newcomer", newcomer).await?;
        self.crew.write(&document, &[newcomer, host], self.edits()).await?;
        let seconds = self.crew.level(&document).await?;
        self.measured("level after the last edit", seconds);
        self.done(true);
        Ok(newcomer)
    }

    async fn network_parts(&mut self, newcomer: usize) -> Result<(), Failure> {
        self.phase("the network parts in two halves, both write, and it heals");
        let living = self.crew.living();
        let by = self.any(&living);
        let document = self.document("on both sides", by).await?;
        // The newcomer is where its host is, or it would be alone.
        let there = self.crew.members[newcomer].place;
        let host = self.links.iter().find(|(_, to)| *to == there).map_or(there, |(host, _)| *host);
        let half = self.peers / 2;
        let sides = (0..Drill::places(self.peers)).map(|place| if place == there { host > half } else { place > half });
        let sides: Vec<bool> = sides.collect();
        let (far, near): (Vec<usize>, Vec<usize>) =
            living.iter().copied().partition(|member| sides[self.crew.members[*member].place]);
        let side = near.iter().map(|member| self.crew.members[*member].name.clone()).collect();
        self.mark("partition");
        self.parted = Some(Parted { from_s: self.crew.ledger.now_s(), to_s: None, side });
        self.crew.network.part(Some(sides));
        let begun = Instant::now();
        let of_near = self.crew.write(&document, &near, self.edits() / 2).await?;
        let of_far = self.crew.write(&document, &far, self.edits() / 2).await?;
        let written = Instant::now();
        self.crew.hold(&near, &document, &of_near, written).await?;
        self.crew.hold(&far, &document, &of_far, written).await?;
        self.measured("each side level in itself after the last edit", written.elapsed().as_secs_f64());
        let crossed = near.iter().any(|member| self.crew.lacks(*member, &document, &of_far).len() < of_far.len())
            || far.iter().any(|member| self.crew.lacks(*member, &document, &of_near).len() < of_near.len());
        if crossed {
            return Err(self.crew.play.failed("an edit crossed the partition: the network was not parted"));
        }
        self.crew.network.part(None);
        self.measured("the partition lasted", begun.elapsed().as_secs_f64());
        if let Some(parted) = &mut self.parted {
            parted.to_s = Some(self.crew.ledger.now_s());
        }
        self.mark("heals");
        let seconds = self.crew.level(&document).await?;
        self.measured("level after it healed", seconds);
        self.done(true);
        Ok(())
    }

    async fn half_die(&mut self) -> Result<(), Failure> {
        self.phase("half of the peers die, every second of them by a power cut, and the others go on");
        let living = self.crew.living();
        let by = self.any(&living);
        let document = self.document("half of us", by).await?;
        self.crew.write(&document, &living, self.edits() / 2).await?;
        // What is acknowledged is on one disk. What only the dead have, nobody can have.
        let seconds = self.crew.level(&document).await?;
        self.measured("level before anybody dies", seconds);
        let doomed = links::doomed(&self.crew.places(&living), &self.links, &mut self.random);
        let (dying, staying): (Vec<usize>, Vec<usize>) =
            living.iter().copied().partition(|member| doomed.contains(&self.crew.members[*member].place));
        self.mark(&format!("{} of {} die", dying.len(), living.len()));
        for (number, member) in dying.into_iter().enumerate() {
            self.crew.end(member, if number % 2 == 0 { End::Unplugged } else { End::Killed }).await?;
        }
        self.crew.write(&document, &staying, self.edits() - self.edits() / 2).await?;
        let seconds = self.crew.level(&document).await?;
        self.measured("level after the last edit", seconds);
        self.done(true);
        Ok(())
    }

    async fn new_origin(&mut self) -> Result<(), Failure> {
        self.phase("a new, empty origin starts at the address of the old one, and refills through a peer's invite");
        let living = self.crew.living();
        let host = self.any(&living);
        let invite = self.crew.invite(host).await?;
        self.mark("new origin");
        let begun = Instant::now();
        let origin = self.crew.start("new origin", ORIGIN, &[]).await?;
        self.crew.join(origin, &invite).await?;
        self.fill(origin, begun).await?;
        let document = self.document("with a new origin", origin).await?;
        let all = self.crew.living();
        self.crew.write(&document, &all, self.edits()).await?;
        let seconds = self.crew.level(&document).await?;
        self.measured("level after the last edit", seconds);
        let faults = self.crew.faults(origin).await?;
        if !faults.is_empty() {
            return Err(self
                .crew
                .play
                .failed(format!("the store of the new origin is not sound: {}", faults.join("; "))));
        }
        self.done(true);
        Ok(())
    }

    async fn end(&mut self) -> Result<(), Failure> {
        self.phase("all of the living are level in every document, and stop as they are told");
        let begun = Instant::now();
        self.level_in_all().await?;
        self.measured("comparing all documents of all", begun.elapsed().as_secs_f64());
        self.mark("end");
        self.crew.stop().await?;
        self.done(true);
        Ok(())
    }

    /// Waits until one that began empty holds everything, and then compares it with the others.
    async fn fill(&mut self, member: usize, begun: Instant) -> Result<(), Failure> {
        for document in self.documents.clone() {
            let edits = (0..self.crew.ledger.edits_of(document.number)).collect();
            self.crew.hold(&[member], &document, &edits, begun).await?;
        }
        self.measured("from its start until it held everything", begun.elapsed().as_secs_f64());
        self.level_in_all().await
    }

    /// Waits until all of the living hold every edit of every document, in the same version.
    async fn level_in_all(&mut self) -> Result<(), Failure> {
        for document in self.documents.clone() {
            self.crew.level(&document).await?;
        }
        Ok(())
    }
}
