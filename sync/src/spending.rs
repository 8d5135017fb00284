//! What a peer may spend of the network, and what it has spent. Whoever knows the day and whether the network costs something (the
//! engine) sets how much is left; the peer spends no byte more.

/// What a peer may still spend, in bytes; absent: as much as it likes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Allowance {
    /// On frames, sent and received. When the next does not fit, all connections end, and none begins.
    pub all: Option<u64>,
    /// On sending what others made: entries that are relayed or served, snapshots, pieces of blobs. When the next does not fit, this
    /// peer is a leaf. Proofs that a device signed two histories are not counted: nothing may hold them up.
    pub others: Option<u64>,
}

/// Bytes spent since the peer was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Spent {
    /// Of frames, sent and received.
    pub all: u64,
    /// Of messages that carry what others made; what is this device's own in them is counted with it.
    pub others: u64,
}

/// Keeps one in the bounds of the other.
#[derive(Debug, Default)]
pub(crate) struct Spending {
    left: Allowance,
    spent: Spent,
    /// Something did not fit. What is left, if anything, is for nobody: who is smaller must not overtake for ever.
    all_over: bool,
    others_over: bool,
}

impl Spending {
    pub(crate) fn allow(&mut self, left: Allowance) {
        self.left = left;
        (self.all_over, self.others_over) = (left.all == Some(0), left.others == Some(0));
    }

    pub(crate) fn spent(&self) -> Spent {
        self.spent
    }

    /// Nothing may be sent or received any more.
    pub(crate) fn is_over(&self) -> bool {
        self.all_over
    }

    /// Nothing may be sent any more that others made.
    pub(crate) fn serves_nobody(&self) -> bool {
        self.others_over
    }

    /// A frame comes or goes. False: it must not.
    pub(crate) fn frame(&mut self, bytes: usize) -> bool {
        self.all_over |= self.left.all.is_some_and(|left| left < bytes as u64);
        if !self.all_over {
            self.left.all = self.left.all.map(|left| left - bytes as u64);
            self.spent.all += bytes as u64;
        }
        !self.all_over
    }

    /// Whether so much of what others made may be sent.
    pub(crate) fn may_serve(&mut self, bytes_max: usize) -> bool {
        self.others_over |= self.left.others.is_some_and(|left| left < bytes_max as u64);
        !self.others_over
    }

    /// It was so much.
    pub(crate) fn served(&mut self, bytes: usize) {
        self.left.others = self.left.others.map(|left| left.saturating_sub(bytes as u64));
        self.spent.others += bytes as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_ends_it_and_what_is_allowed_anew_begins_it() {
        let mut spending = Spending::default();
        assert!(spending.frame(1 << 30) && spending.may_serve(1 << 30));
        spending.allow(Allowance { all: Some(100), others: Some(50) });
        assert!(spending.frame(60) && !spending.frame(41) && !spending.frame(1), "40 are left, and for nobody");
        assert_eq!(spending.spent().all, (1 << 30) + 60);
        assert!(spending.may_serve(50));
        spending.served(20);
        assert!(spending.may_serve(30) && !spending.may_serve(31) && !spending.may_serve(1));
        assert_eq!((spending.is_over(), spending.serves_nobody()), (true, true));
        spending.allow(Allowance { all: None, others: Some(0) });
        assert_eq!((spending.is_over(), spending.serves_nobody()), (false, true));
    }
}
