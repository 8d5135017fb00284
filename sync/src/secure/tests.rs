//! Two channels and the people between them.

use proptest::prelude::*;

use super::stream::RECORD_MAX;
use super::*;

const SEED: [[u8; 32]; 2] = [[0xa1; 32], [0xb2; 32]];

fn device(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

fn id(n: u8) -> DeviceId {
    DeviceId(device(n).verifying_key().to_bytes())
}

fn limits() -> Limits {
    Limits::default()
}

/// Device 1 dials device 2.
fn strangers() -> (Channel, Channel) {
    (Channel::dial(&device(1), Some(id(2)), SEED[0], &limits()), Channel::accept(&device(2), SEED[1], &limits()))
}

/// The same after the four flights, with nothing queued.
fn friends() -> (Channel, Channel) {
    let (mut a, mut b) = strangers();
    assert_eq!(exchange(&mut a, &mut b), Ok((vec![], vec![])));
    (a, b)
}

/// Moves frames from one to the other, and gives what came out.
fn deliver(from: &mut Channel, to: &mut Channel) -> Result<Vec<Vec<u8>>, ChannelError> {
    let mut messages = Vec::new();
    while let Some(frame) = from.poll_frame() {
        assert!(frame.len() <= limits().frame_bytes_max);
        to.receive(&frame, &limits())?;
        messages.extend(core::iter::from_fn(|| to.poll_message()));
    }
    Ok(messages)
}

/// Until both are silent: the messages that `a` got, and those that `b` got.
#[expect(clippy::type_complexity, reason = "two lists of messages")]
fn exchange(a: &mut Channel, b: &mut Channel) -> Result<(Vec<Vec<u8>>, Vec<Vec<u8>>), ChannelError> {
    let (mut to_a, mut to_b) = (Vec::new(), Vec::new());
    while a.queued_bytes() + b.queued_bytes() > 0 {
        to_b.extend(deliver(a, b)?);
        to_a.extend(deliver(b, a)?);
        if !matches!((&a.state, &b.state), (State::Open(_), State::Open(_))) && a.head.len() + b.head.len() == 0 {
            break;
        }
    }
    Ok((to_a, to_b))
}

fn frame(channel: &mut Channel) -> Vec<u8> {
    channel.poll_frame().expect("the channel has something to send")
}

fn assert_dead(channel: &mut Channel) {
    assert_eq!(channel.peer(), None);
    assert_eq!(channel.session_hash(), None);
    assert_eq!(channel.poll_message(), None);
    channel.send(b"into the void");
    assert_eq!(channel.queued_bytes(), channel.head.len());
    assert_eq!(channel.receive(b"x", &limits()), Err(ChannelError::Failed));
}

#[test]
fn both_ends_learn_the_other_device_and_the_same_session() {
    let (a, b) = friends();
    assert_eq!((a.peer(), b.peer()), (Some(id(2)), Some(id(1))));
    assert!(a.session_hash().is_some());
    assert_eq!(a.session_hash(), b.session_hash());
}

#[test]
fn messages_of_every_size_arrive_whole_and_in_order() {
    let (mut a, mut b) = friends();
    let sizes = [0, 1, 200, 65_535, 1 << 20, 0, limits().message_bytes_max];
    let messages: Vec<_> = sizes.iter().enumerate().map(|(n, size)| vec![n as u8; *size]).collect();
    for message in &messages {
        a.send(message);
        b.send(message);
    }
    let (to_a, to_b) = exchange(&mut a, &mut b).expect("honest");
    assert!(to_a == messages && to_b == messages);
}

#[test]
fn the_hellos_travel_with_flights_3_and_4() {
    let (mut a, mut b) = strangers();
    b.send(b"hello from b");
    let flight_1 = frame(&mut a);
    b.receive(&flight_1, &limits()).expect("flight 1");
    a.receive(&frame(&mut b), &limits()).expect("flight 2");
    assert_eq!((a.peer(), b.peer()), (None, None));
    a.send(&a.session_hash().expect("known in time for the hello"));
    b.receive(&frame(&mut a), &limits()).expect("flight 3");
    assert_eq!(b.peer(), Some(id(1)));
    assert_eq!(b.poll_message(), b.session_hash().map(|hash| hash.to_vec()));
    assert_eq!(b.poll_message(), None);
    a.receive(&frame(&mut b), &limits()).expect("flight 4");
    assert_eq!(a.poll_message().as_deref(), Some(&b"hello from b"[..]));
    assert_eq!((a.poll_frame(), b.poll_frame(), a.queued_bytes(), b.queued_bytes()), (None, None, 0, 0));
}

#[test]
fn nothing_but_the_handshake_leaves_before_it_is_done() {
    let (mut a, mut b) = strangers();
    a.send(&[7; 5_000]);
    b.send(&[7; 5_000]);
    assert_eq!(frame(&mut a).len(), 44);
    assert_eq!((a.poll_frame(), b.poll_frame()), (None, None));
}

#[test]
fn a_hundred_small_messages_share_one_frame_and_one_record() {
    let (mut a, mut b) = friends();
    (0..100).for_each(|n| a.send(&[n; 200]));
    let frame = frame(&mut a);
    assert_eq!((frame.len(), a.poll_frame()), (2 + 100 * 202 + 16, None));
    b.receive(&frame, &limits()).expect("one frame");
    assert_eq!(core::iter::from_fn(|| b.poll_message()).count(), 100);
}

#[test]
fn a_large_message_fills_frames_to_the_limit() {
    let (mut a, _) = friends();
    a.send(&vec![1; 1 << 20]);
    let lengths: Vec<_> = core::iter::from_fn(|| a.poll_frame()).map(|frame| frame.len()).collect();
    assert_eq!(lengths[..4], [limits().frame_bytes_max; 4]);
    assert_eq!(lengths.len(), 5);
}

#[test]
fn a_message_over_the_limit_is_refused_by_its_first_frame() {
    let (mut a, mut b) = friends();
    a.message_bytes_max = usize::MAX;
    let limit = limits().message_bytes_max;
    a.send(&vec![0; limit + 1]);
    let error = b.receive(&frame(&mut a), &limits());
    assert_eq!(error, Err(ChannelError::TooLarge { what: "message", bytes: limit as u64 + 1, limit }));
    assert_dead(&mut b);
}

#[test]
fn memory_follows_what_has_arrived_and_not_what_is_announced() {
    let (mut a, mut b) = friends();
    a.frame_bytes_max = 1_000;
    a.send(&vec![0; 1 << 20]);
    let mut arrived = 0;
    while let Some(frame) = a.poll_frame() {
        b.receive(&frame, &limits()).expect("honest");
        arrived += frame.len();
        let State::Open(open) = &b.state else { panic!("still open") };
        assert!(open.inbound.capacity() <= 2 * arrived + 1_000, "{} for {arrived}", open.inbound.capacity());
        if a.queued_bytes() > 0 {
            assert_eq!(b.poll_message(), None);
        }
    }
    assert_eq!(b.poll_message().map(|message| message.len()), Some(1 << 20));
}

#[test]
fn a_frame_of_empty_messages_costs_no_more_than_its_bytes() {
    let (mut a, mut b) = friends();
    (0..200_000).for_each(|_| a.send(&[]));
    b.receive(&frame(&mut a), &limits()).expect("honest");
    let State::Open(open) = &b.state else { panic!("still open") };
    assert!(open.inbound.capacity() <= limits().frame_bytes_max);
    assert_eq!(core::iter::from_fn(|| b.poll_message()).count(), 200_000);
}

#[test]
fn a_frame_over_the_limit_is_refused_unread() {
    for mut channel in [strangers().0, strangers().1, friends().0] {
        let frame = vec![0; limits().frame_bytes_max + 1];
        let error = channel.receive(&frame, &limits()).expect_err("too large");
        assert_eq!(error.code(), "channel_too_large");
        assert_dead(&mut channel);
    }
}

#[test]
fn a_dialler_refuses_a_device_that_it_did_not_ask_for() {
    let mut a = Channel::dial(&device(1), Some(id(3)), SEED[0], &limits());
    let mut b = Channel::accept(&device(2), SEED[1], &limits());
    assert_eq!(exchange(&mut a, &mut b), Err(ChannelError::WrongPeer { expected: id(3), found: id(2) }));
    assert_dead(&mut a);
}

#[test]
fn a_dialler_without_expectations_takes_any_device() {
    let mut a = Channel::dial(&device(1), None, SEED[0], &limits());
    let mut b = Channel::accept(&device(2), SEED[1], &limits());
    exchange(&mut a, &mut b).expect("honest");
    assert_eq!(a.peer(), Some(id(2)));
}

#[test]
fn a_device_that_reaches_itself_notices_even_with_one_seed_for_both_ends() {
    let mut a = Channel::dial(&device(1), None, SEED[0], &limits());
    let mut b = Channel::accept(&device(1), SEED[0], &limits());
    assert_eq!(exchange(&mut a, &mut b), Err(ChannelError::SelfConnection));
}

#[test]
fn one_seed_gives_one_session_and_two_seeds_two() {
    let run = |seed: [u8; 32]| {
        let mut a = Channel::dial(&device(1), Some(id(2)), seed, &limits());
        let mut b = Channel::accept(&device(2), SEED[1], &limits());
        a.send(b"hello");
        let mut wire = Vec::new();
        for n in 0..4 {
            let (from, to) = if n % 2 == 0 { (&mut a, &mut b) } else { (&mut b, &mut a) };
            wire.push(frame(from));
            to.receive(&wire[n], &limits()).expect("honest");
            while to.poll_message().is_some() {}
        }
        wire
    };
    let wire = run(SEED[0]);
    assert_eq!(wire, run(SEED[0]));
    assert_eq!(wire.iter().map(Vec::len).collect::<Vec<_>>(), [44, 110, 64 + 18 + 96 + 6, 18 + 96]);
    assert!(wire.iter().zip(run([9; 32])).all(|(one, other)| *one != other));
    // A change of this value is a change of the wire.
    assert_eq!(
        blake3::hash(&wire.concat()).to_hex().as_str(),
        "78b16bbc4ff9b2897ab0aa14e901a13e79ee26be5c3a6e0218eca4a73da2a203"
    );
}

/// Runs the four flights with `alter` applied to flight `n` (0–3), and gives the two ends.
fn altered_flight(n: usize, alter: impl FnOnce(&mut Vec<u8>)) -> (Channel, Channel, Vec<ChannelError>) {
    let (mut a, mut b) = strangers();
    a.send(b"hello from a");
    b.send(b"hello from b");
    let (mut alter, mut errors) = (Some(alter), Vec::new());
    for flight in 0..4 {
        let (from, to) = if flight % 2 == 0 { (&mut a, &mut b) } else { (&mut b, &mut a) };
        let Some(mut frame) = from.poll_frame() else { break };
        if flight == n {
            alter.take().expect("once")(&mut frame);
        }
        errors.extend(to.receive(&frame, &limits()).err());
        while to.poll_message().is_some() {}
    }
    (a, b, errors)
}

#[test]
fn no_byte_of_any_flight_can_be_altered() {
    for (n, len) in [44, 110, 64 + 18 + 96 + 13, 18 + 96 + 13].into_iter().enumerate() {
        for at in 0..len {
            for bit in [0x01, 0x80] {
                let (a, b, errors) = altered_flight(n, |frame| {
                    assert_eq!(frame.len(), len);
                    frame[at] ^= bit;
                });
                assert!(!errors.is_empty(), "flight {n} byte {at}");
                assert_eq!(a.peer(), None, "flight {n} byte {at}");
                assert!(b.peer().is_none() || n == 3, "flight {n} byte {at}");
            }
        }
    }
}

#[test]
fn no_flight_can_be_cut_or_lengthened() {
    for (n, len) in [44, 110, 64 + 18 + 96 + 13, 18 + 96 + 13].into_iter().enumerate() {
        for cut in 0..len {
            let (a, _, errors) = altered_flight(n, |frame| frame.truncate(cut));
            assert!(!errors.is_empty() && a.peer().is_none(), "flight {n} cut to {cut}");
        }
        for extra in [1, 2, 17, 19, 1_000] {
            let (a, _, errors) = altered_flight(n, |frame| frame.extend(vec![0; extra]));
            assert!(!errors.is_empty() && a.peer().is_none(), "flight {n} and {extra} bytes");
        }
    }
}

#[test]
fn flights_of_an_earlier_session_do_not_work_again() {
    let mut old = Vec::new();
    for n in 0..4 {
        altered_flight(n, |frame| old.push(frame.clone()));
    }
    // A dialler to whom an old acceptor is played.
    let mut a = Channel::dial(&device(1), Some(id(2)), [3; 32], &limits());
    frame(&mut a);
    assert_eq!(a.receive(&old[1], &limits()), Err(ChannelError::Tampered));
    assert_dead(&mut a);
    // An acceptor to whom an old dialler is played.
    let mut b = Channel::accept(&device(2), [4; 32], &limits());
    b.receive(&old[0], &limits()).expect("anybody may copy a flight 1");
    frame(&mut b);
    assert_eq!(b.receive(&old[2], &limits()), Err(ChannelError::Tampered));
    assert_dead(&mut b);
}

#[test]
fn a_frame_is_taken_once_and_in_its_place() {
    let frames = |a: &mut Channel| {
        [b"one", b"two"].map(|message| {
            a.send(message);
            frame(a)
        })
    };
    let (mut a, mut b) = friends();
    let [one, _] = frames(&mut a);
    b.receive(&one, &limits()).expect("honest");
    assert_eq!(b.poll_message().as_deref(), Some(&b"one"[..]));
    assert_eq!(b.receive(&one, &limits()), Err(ChannelError::Tampered), "replayed");
    let (mut a, mut b) = friends();
    let [_, two] = frames(&mut a);
    assert_eq!(b.receive(&two, &limits()), Err(ChannelError::Tampered), "reordered");
    let (mut a, _) = friends();
    let [one, _] = frames(&mut a);
    assert_eq!(a.receive(&one, &limits()), Err(ChannelError::Tampered), "reflected");
}

#[test]
fn an_echo_of_our_own_flights_is_not_a_peer() {
    let mut a = Channel::dial(&device(1), None, SEED[0], &limits());
    let echo = frame(&mut a);
    assert!(a.receive(&echo, &limits()).is_err());
    assert_dead(&mut a);
    let (mut a, mut b) = strangers();
    b.receive(&frame(&mut a), &limits()).expect("flight 1");
    let echo = frame(&mut b);
    assert!(b.receive(&echo, &limits()).is_err());
    assert_dead(&mut b);
    // Flight 3 sent back.
    let (mut a, mut b) = strangers();
    b.receive(&frame(&mut a), &limits()).expect("flight 1");
    a.receive(&frame(&mut b), &limits()).expect("flight 2");
    let echo = frame(&mut a);
    assert!(a.receive(&echo, &limits()).is_err());
    assert_dead(&mut a);
    // With its Noise message taken off, what remains is a well-formed frame.
    let (mut a, mut b) = strangers();
    b.receive(&frame(&mut a), &limits()).expect("flight 1");
    a.receive(&frame(&mut b), &limits()).expect("flight 2");
    let echo = frame(&mut a);
    assert_eq!(a.receive(&echo[MESSAGE_3_LEN..], &limits()), Err(ChannelError::Tampered));
}

/// Mallory (device 9) answers `a` and dials `b`; gives her two channels once she holds the keys of both sessions and `a` has
/// proved itself to her. Her own Auth waits in both queues, where she may put any other.
fn mallory_between(a: &mut Channel, b: &mut Channel) -> (Channel, Channel) {
    let mut to_a = Channel::accept(&device(9), [5; 32], &limits());
    let mut to_b = Channel::dial(&device(9), None, [6; 32], &limits());
    to_a.receive(&frame(a), &limits()).expect("flight 1");
    a.receive(&frame(&mut to_a), &limits()).expect("flight 2");
    to_a.receive(&frame(a), &limits()).expect("flight 3");
    assert_eq!(to_a.peer(), Some(id(1)));
    b.receive(&frame(&mut to_b), &limits()).expect("flight 1");
    to_b.receive(&frame(b), &limits()).expect("flight 2");
    (to_a, to_b)
}

fn set_auth(channel: &mut Channel, auth: &[u8]) {
    channel.outbound.plain_mut()[..AUTH_LEN].copy_from_slice(auth);
}

fn own_auth(device: &SigningKey, role: Role, channel: &Channel) -> [u8; AUTH_LEN] {
    auth::sign(device, role, &channel.session_hash().expect("open"))
}

#[test]
fn an_auth_cannot_be_carried_into_another_session() {
    let (mut a, mut b) = strangers();
    let (to_a, mut to_b) = mallory_between(&mut a, &mut b);
    // What `a` signed for Mallory, shown to `b`.
    set_auth(&mut to_b, &own_auth(&device(1), Role::Dialler, &to_a));
    assert_eq!(b.receive(&frame(&mut to_b), &limits()), Err(ChannelError::BadSignature));
    assert_dead(&mut b);
    // What `b` signed for Mallory, shown to `a`.
    let (mut a, mut b) = strangers();
    let (mut to_a, mut to_b) = mallory_between(&mut a, &mut b);
    b.receive(&frame(&mut to_b), &limits()).expect("an honest flight 3");
    set_auth(&mut to_a, &own_auth(&device(2), Role::Acceptor, &to_b));
    assert_eq!(a.receive(&frame(&mut to_a), &limits()), Err(ChannelError::BadSignature));
    assert_dead(&mut a);
}

#[test]
fn an_auth_cannot_be_sent_back_to_its_author() {
    let (mut a, mut b) = strangers();
    let (mut to_a, _) = mallory_between(&mut a, &mut b);
    let of_a = own_auth(&device(1), Role::Dialler, &to_a);
    set_auth(&mut to_a, &of_a);
    assert_eq!(a.receive(&frame(&mut to_a), &limits()), Err(ChannelError::BadSignature));
}

#[test]
fn an_auth_cannot_lend_its_signature_to_another_device() {
    let (mut a, mut b) = strangers();
    let (mut to_a, _) = mallory_between(&mut a, &mut b);
    let mut auth = own_auth(&device(9), Role::Acceptor, &to_a);
    auth[..32].copy_from_slice(id(2).as_bytes());
    set_auth(&mut to_a, &auth);
    assert_eq!(a.receive(&frame(&mut to_a), &limits()), Err(ChannelError::BadSignature));
}

#[test]
fn frames_of_two_sessions_cannot_be_spliced() {
    let (mut a, mut b) = strangers();
    let mut a2 = Channel::dial(&device(1), Some(id(2)), [7; 32], &limits());
    let mut b2 = Channel::accept(&device(2), [8; 32], &limits());
    let (one, one_2) = (frame(&mut a), frame(&mut a2));
    b.receive(&one, &limits()).expect("flight 1");
    b2.receive(&one_2, &limits()).expect("flight 1");
    let (two, two_2) = (frame(&mut b), frame(&mut b2));
    // Flight 2 of the other acceptor state.
    assert_eq!(a.receive(&two_2, &limits()), Err(ChannelError::Tampered));
    // The Noise message of one session with the records of the other.
    a2.receive(&two_2, &limits()).expect("its own flight 2");
    let (mut a, mut b) = (Channel::dial(&device(1), Some(id(2)), SEED[0], &limits()), b);
    frame(&mut a);
    a.receive(&two, &limits()).expect("the same seed makes the same dialler");
    let (three, three_2) = (frame(&mut a), frame(&mut a2));
    let spliced = [&three[..MESSAGE_3_LEN], &three_2[MESSAGE_3_LEN..]].concat();
    assert_eq!(b.receive(&spliced, &limits()), Err(ChannelError::Tampered));
    assert_dead(&mut b);
}

#[test]
fn peers_without_a_common_version_tell_each_other() {
    let (old, new) = (Versions { min: 1, max: 2 }, Versions { min: 3, max: 4 });
    for (dials, accepts) in [(old, new), (new, old)] {
        let mut a = Channel::dial_with(dials, &device(1), None, SEED[0], &limits());
        let mut b = Channel::accept_with(accepts, &device(2), SEED[1], &limits());
        let error = b.receive(&frame(&mut a), &limits());
        assert_eq!(error, Err(ChannelError::Incompatible { theirs: Some(dials), ours: accepts }));
        let error = a.receive(&frame(&mut b), &limits());
        assert_eq!(error, Err(ChannelError::Incompatible { theirs: Some(accepts), ours: dials }));
        assert_dead(&mut a);
        assert_dead(&mut b);
    }
}

#[test]
fn peers_whose_ranges_overlap_connect() {
    let mut a = Channel::dial_with(Versions { min: 1, max: 3 }, &device(1), None, SEED[0], &limits());
    let mut b = Channel::accept_with(Versions { min: 2, max: 9 }, &device(2), SEED[1], &limits());
    exchange(&mut a, &mut b).expect("2 and 3 are common");
    assert_eq!(b.peer(), Some(id(1)));
}

#[test]
fn another_protocol_is_incompatible_and_gets_no_answer() {
    for hello in [&b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n"[..], b"", b"commonhol", &[0; 44]] {
        for mut channel in [strangers().0, strangers().1] {
            let error = channel.receive(hello, &limits());
            assert_eq!(error, Err(ChannelError::Incompatible { theirs: None, ours: VERSIONS }));
            assert_eq!(channel.poll_frame(), None);
        }
    }
}

#[test]
fn a_version_range_narrowed_on_the_way_is_noticed() {
    let wide = Versions { min: 1, max: 3 };
    let ends = || {
        let a = Channel::dial_with(wide, &device(1), None, SEED[0], &limits());
        (a, Channel::accept_with(wide, &device(2), SEED[1], &limits()))
    };
    let (mut a, mut b) = ends();
    let mut flight_1 = frame(&mut a);
    flight_1[11] = 1;
    b.receive(&flight_1, &limits()).expect("looks like an old dialler");
    assert_eq!(a.receive(&frame(&mut b), &limits()), Err(ChannelError::Tampered));
    let (mut a, mut b) = ends();
    b.receive(&frame(&mut a), &limits()).expect("flight 1");
    let mut flight_2 = frame(&mut b);
    flight_2[11] = 1;
    assert_eq!(a.receive(&flight_2, &limits()), Err(ChannelError::Tampered));
}

#[test]
fn records_are_as_long_as_they_can_be() {
    let seal = |a: &mut Channel, plain: &[u8]| {
        let State::Open(open) = &mut a.state else { panic!("open") };
        let mut record = vec![0; plain.len() + 16];
        open.noise.write_message(plain, &mut record).expect("short enough");
        [&(record.len() as u16).to_be_bytes()[..], &record].concat()
    };
    let (mut a, mut b) = friends();
    let frame = seal(&mut a, &[]);
    assert_eq!(b.receive(&frame, &limits()), Err(ChannelError::Malformed("record without content")));
    let (mut a, mut b) = friends();
    let frame = [seal(&mut a, b"\x01a"), seal(&mut a, b"\x01b")].concat();
    let refused = b.receive(&frame, &limits());
    assert_eq!(refused, Err(ChannelError::Malformed("short record before the end of a frame")));
    let (mut a, mut b) = friends();
    let frame = [seal(&mut a, &[0; RECORD_MAX - 16]), seal(&mut a, b"\x01b")].concat();
    b.receive(&frame, &limits()).expect("a full record and a short one");
    assert_eq!(core::iter::from_fn(|| b.poll_message()).count(), RECORD_MAX - 16 + 1);
    let (_, mut b) = friends();
    assert_eq!(b.receive(&[], &limits()), Err(ChannelError::Malformed("frame without records")));
}

#[test]
fn a_quiet_channel_is_small() {
    fn is_send<T: Send>(_: &T) {}
    let (mut a, mut b) = friends();
    is_send(&a);
    a.send(&vec![0; 1 << 20]);
    exchange(&mut a, &mut b).expect("honest");
    for channel in [&a, &b] {
        let State::Open(open) = &channel.state else { panic!("open") };
        let buffers = channel.head.capacity() + channel.outbound.capacity() + open.inbound.capacity();
        assert_eq!(buffers, 0);
    }
    // Two boxed cipher keys of 32 bytes are all that snow keeps outside of the struct.
    let size = size_of::<Channel>() + 2 * 32;
    println!("quiet channel: {size} bytes, handshake {} bytes", size_of::<Handshake>());
    assert!(size <= 512, "{size}");
}

#[test]
fn two_hundred_thousand_frames_leave_no_memory_behind() {
    let (mut a, mut b) = friends();
    for n in 0..200_000_u32 {
        a.send(&n.to_le_bytes());
        b.receive(&frame(&mut a), &limits()).expect("honest");
        assert_eq!(b.poll_message().as_deref(), Some(&n.to_le_bytes()[..]));
        let State::Open(open) = &b.state else { panic!("open") };
        assert_eq!((a.outbound.capacity(), open.inbound.capacity()), (0, 0));
    }
}

#[test]
fn a_queue_that_never_empties_does_not_grow() {
    let (mut a, mut b) = friends();
    (0..3_000).for_each(|_| a.send(&[1; 1_000]));
    let mut got = 0;
    for _ in 0..50 {
        (0..250).for_each(|_| a.send(&[1; 1_000]));
        b.receive(&frame(&mut a), &limits()).expect("honest");
        got += core::iter::from_fn(|| b.poll_message()).count();
        assert!(a.queued_bytes() > 0 && a.outbound.capacity() < 8 << 20, "{}", a.outbound.capacity());
    }
    assert!(got > 12_000);
}

#[test]
fn every_error_has_its_own_code_and_a_plain_message() {
    let errors = [
        ChannelError::Malformed("x"),
        ChannelError::Tampered,
        ChannelError::BadSignature,
        ChannelError::TooLarge { what: "frame", bytes: 2, limit: 1 },
        ChannelError::WrongPeer { expected: id(1), found: id(2) },
        ChannelError::Incompatible { theirs: None, ours: VERSIONS },
        ChannelError::SelfConnection,
        ChannelError::Failed,
    ];
    let codes: std::collections::BTreeSet<_> = errors.iter().map(ChannelError::code).collect();
    assert_eq!(codes.len(), errors.len());
    assert_eq!(errors[5].to_string(), "no version in common: theirs another protocol, ours 1–1");
}

fn drain(channel: &mut Channel) {
    while channel.poll_message().is_some() {}
    while channel.poll_frame().is_some() {}
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn garbage_never_panics(frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..5), who in 0..3) {
        let mut channel = match who {
            0 => strangers().0,
            1 => strangers().1,
            _ => friends().0,
        };
        for frame in frames {
            let _ = channel.receive(&frame, &limits());
            drain(&mut channel);
        }
    }

    #[test]
    fn garbage_behind_a_valid_preamble_never_panics(
        range in any::<[u8; 2]>(),
        tail in prop_oneof![prop::collection::vec(any::<u8>(), 32), prop::collection::vec(any::<u8>(), 0..150)],
        then in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let (a, b) = strangers();
        for mut channel in [a, b] {
            let _ = channel.receive(&[&b"commonhold"[..], &range, &tail].concat(), &limits());
            let _ = channel.receive(&then, &limits());
            prop_assert_eq!(channel.peer(), None);
            drain(&mut channel);
        }
    }

    #[test]
    fn a_member_that_sends_a_garbage_stream_never_panics_us(streams in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..60), 1..6)) {
        let (mut a, mut b) = friends();
        for stream in streams {
            a.outbound.plain_mut().extend_from_slice(&stream);
            let _ = b.receive(&frame(&mut a), &limits());
            drain(&mut b);
        }
    }

    #[test]
    fn any_messages_in_any_batches_and_frames_come_out_the_same(
        batches in prop::collection::vec(prop::collection::vec(0..3_000_usize, 0..6), 1..6),
        frame_max in 512..2_000_usize,
    ) {
        let (mut a, mut b) = strangers();
        (a.frame_bytes_max, b.frame_bytes_max) = (frame_max, frame_max);
        let (mut sent, mut got) = (Vec::new(), Vec::new());
        for batch in batches {
            for len in batch {
                let message = vec![len as u8; len];
                a.send(&message);
                sent.push(message);
            }
            got.extend(exchange(&mut a, &mut b).expect("honest").1);
        }
        prop_assert_eq!(sent, got);
        prop_assert_eq!(a.queued_bytes(), 0);
    }
}
