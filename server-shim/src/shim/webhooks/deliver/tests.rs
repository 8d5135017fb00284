//! Hooks of a node in memory, whose receiver is a listener on the loopback that answers as it is told.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::State as Given;
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse, Response};
use commonhold_engine::{Config, Document, Writers};
use futures_util::stream;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::super::destination::Resolve;
use super::super::hook::{Off, fixture};
use super::super::signature::{Key, Scheme};
use super::*;
use crate::shim::access::{FILE, TokenFile, TokenRow};

/// A schedule that is over soon.
const QUICK: Terms = Terms { steps: &[1, 1], ..TERMS };
/// One that a test does not live to see.
const SLOW: Terms = Terms { steps: &[60_000, 60_000], ..TERMS };

/// What a receiver got.
struct Got {
    headers: HeaderMap,
    body: Json,
}

impl Got {
    fn id(&self) -> &str {
        self.headers["webhook-id"].to_str().unwrap()
    }

    fn name(&self) -> &str {
        self.body["data"]["name"].as_str().unwrap()
    }
}

type Answers = Arc<dyn Fn(usize, &Json) -> Response + Send + Sync>;

/// Answers the nth request, from 0 on, as it is told.
struct Receiver {
    at: SocketAddr,
    got: mpsc::UnboundedReceiver<Got>,
    _serving: JoinSet<()>,
}

#[derive(Clone)]
struct Receives(mpsc::UnboundedSender<Got>, Arc<AtomicUsize>, Answers);

impl Receiver {
    async fn answering(answers: impl Fn(usize, &Json) -> Response + Send + Sync + 'static) -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let (sender, got) = mpsc::unbounded_channel();
        let receives = Receives(sender, Arc::default(), Arc::new(answers));
        let routes = Router::new().fallback(async |Given(to): Given<Receives>, request: Request<Body>| {
            let (head, body) = request.into_parts();
            let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
            let body: Json = serde_json::from_slice(&body).unwrap();
            let answer = (to.2)(to.1.fetch_add(1, Ordering::Relaxed), &body);
            let _ = to.0.send(Got { headers: head.headers, body });
            answer
        });
        let mut serving = JoinSet::new();
        let routes = routes.with_state(receives);
        let places = Arc::new(Semaphore::new(64));
        serving.spawn(crate::http::accept(listener, places, move |stream, _, place| {
            let routes = routes.clone();
            async move {
                let _place = place;
                crate::http::talk(stream, routes, watch::channel(false).1).await;
            }
        }));
        Receiver { at, got, _serving: serving }
    }

    async fn of_status(status: u16) -> Receiver {
        let status = StatusCode::from_u16(status).unwrap();
        Receiver::answering(move |_, _| status.into_response()).await
    }

    fn url(&self) -> String {
        format!("http://{}/hook", self.at)
    }

    async fn next(&mut self) -> Got {
        let got = timeout(Duration::from_secs(60), self.got.recv());
        got.await.expect("a delivery").expect("a receiver that receives")
    }
}

/// A node, tokens, and hooks.
struct House {
    node: Node,
    space: SpaceId,
    folder: tempfile::TempDir,
    access: Arc<Access>,
    hooks: Hooks,
}

const OWNER: &str = "a hash";

impl House {
    async fn new(terms: Terms) -> House {
        House::with(terms, Duration::from_secs(30), system(), &["127.0.0.0/8"]).await
    }

    async fn with(terms: Terms, patience: Duration, resolve: Resolve, allowed: &[&str]) -> House {
        let node = Node::open(Config { listen: Vec::new(), ..Config::default() }).await.unwrap();
        let space = node.create_space(Writers::Anyone).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let row = TokenRow { name: "o".into(), hash: OWNER.into(), space: None, may: May::Write, expires: None };
        TokenFile { version: 1, tokens: vec![row] }.write(&folder.path().join(FILE)).unwrap();
        let access = Arc::new(Access::new(folder.path(), watch::channel(Vec::new()).1, None));
        let allowed: Networks = allowed.iter().map(|text| text.parse().unwrap()).collect();
        let hooks =
            Hooks::start_as(&node, access.clone(), allowed, &Roots::default(), resolve, terms, patience).await.unwrap();
        House { node, space, folder, access, hooks }
    }

    /// Ends and begins again, with what the store has.
    async fn restart(&mut self, terms: Terms) {
        self.hooks.end().await;
        let allowed = self.hooks.allowed.clone();
        let patience = Duration::from_secs(30);
        self.hooks =
            Hooks::start_as(&self.node, self.access.clone(), allowed, &Roots::default(), system(), terms, patience)
                .await
                .unwrap();
    }

    async fn hook_with(&self, url: &str, change: impl FnOnce(&mut Hook)) -> Arc<Live> {
        let mut hook = Hook { owner: OWNER.into(), url: url.into(), ..fixture::state().hook };
        change(&mut hook);
        self.hooks.create(self.space, hook, self.node.last_change(self.space).await.unwrap()).await.unwrap()
    }

    async fn hook(&self, url: &str) -> Arc<Live> {
        self.hook_with(url, |_| {}).await
    }

    async fn document(&self, name: &str) -> Document {
        let document = self.node.create_document(self.space, "list", name).await.unwrap();
        document.set("/n", &1).await.unwrap();
        document.flush().await.unwrap();
        document
    }

    async fn edit(&self, document: &Document, n: u32) {
        document.set("/n", &n).await.unwrap();
        document.flush().await.unwrap();
    }

    /// Looks until it is so.
    async fn until(&self, live: &Live, what: &str, is: impl Fn(&State) -> bool) -> State {
        let look = async {
            loop {
                let state = live.state.lock().await.clone();
                if is(&state) {
                    return state;
                }
                sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(Duration::from_secs(60), look).await.unwrap_or_else(|_| panic!("waited too long for {what}"))
    }
}

#[tokio::test]
async fn a_change_is_told_and_signed_and_a_deletion_too() {
    let house = House::new(SLOW).await;
    let mut receiver = Receiver::of_status(204).await;
    let live = house.hook_with(&receiver.url(), |hook| hook.include_docs = true).await;
    let key = live.state.lock().await.hook.keys.clone();
    let document = house.document("shop").await;
    let mut got = receiver.next().await;
    // Made and filled may be one event or two.
    while got.body["data"]["document"] != json!({ "n": 1 }) {
        got = receiver.next().await;
    }
    let data = &got.body["data"];
    assert_eq!((&got.body["type"], got.name(), &data["kind"]), (&json!("document.changed"), "shop", &json!("list")));
    assert_eq!(data["url"], format!("/v1/spaces/{}/docs/{}", house.space, document.id()));
    assert!(data["version"].as_str().unwrap().len() == 64 && data["etag"].as_str().unwrap().starts_with('"'));
    let at: u64 = got.headers["webhook-timestamp"].to_str().unwrap().parse().unwrap();
    let signed = signatures(&key, got.id(), at, got.body.to_string().as_bytes());
    assert_eq!(got.headers["webhook-signature"], signed);
    house.node.delete_document(house.space, document.id()).await.unwrap();
    let got = receiver.next().await;
    assert_eq!((&got.body["type"], &got.body["data"]["document"]), (&json!("document.deleted"), &Json::Null));
    house.hooks.end().await;
}

#[tokio::test]
async fn an_event_that_fails_is_tried_again_under_its_id_and_others_go_on_meanwhile() {
    let house = House::new(QUICK).await;
    // Whatever is told of `bad` fails twice.
    let failed = Arc::new(AtomicUsize::new(0));
    let mut receiver = Receiver::answering(move |_, body| match body["data"]["name"] == "bad" {
        true if failed.fetch_add(1, Ordering::Relaxed) < 2 => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        _ => StatusCode::OK.into_response(),
    })
    .await;
    house.node.create_documents(house.space, [("", "bad"), ("", "good")]).await.unwrap();
    // Both are there before the hook reads them.
    let hook = Hook { owner: OWNER.into(), url: receiver.url(), ..fixture::state().hook };
    house.hooks.create(house.space, hook, 0).await.unwrap();
    let mut got = Vec::new();
    for _ in 0..4 {
        got.push(receiver.next().await);
    }
    let bad: Vec<&Got> = got.iter().filter(|got| got.name() == "bad").collect();
    assert_eq!(bad.len(), 3);
    assert!(bad.iter().all(|got| got.id() == bad[0].id() && got.body == bad[0].body));
    let told = house.hooks.told().await;
    assert!(told.delivered <= 2 && told.failed == 2, "{told:?}");
}

#[tokio::test]
async fn what_is_never_taken_becomes_a_dead_letter_and_can_be_delivered_again() {
    let house = House::new(QUICK).await;
    let takes = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let does = takes.clone();
    let mut receiver = Receiver::answering(move |_, _| match does.load(Ordering::Relaxed) {
        true => StatusCode::OK.into_response(),
        false => StatusCode::BAD_REQUEST.into_response(),
    })
    .await;
    house.node.create_documents(house.space, [("", "a")]).await.unwrap();
    let hook = Hook { owner: OWNER.into(), url: receiver.url(), ..fixture::state().hook };
    let live = house.hooks.create(house.space, hook, 0).await.unwrap();
    let state = house.until(&live, "a dead letter", |state| state.dead.len() == 1).await;
    assert!(state.waiting.is_empty());
    let id = receiver.next().await.id().to_owned();
    assert_eq!((receiver.next().await.id(), receiver.next().await.id()), (&*id, &*id), "three attempts");
    let rows = house.node.app_rows(&live.key(EVENTS, None)).await.unwrap();
    let dead: Event = minicbor::decode(&rows[0].1).unwrap();
    assert!(
        dead.dead
            && dead.id == id
            && dead.attempts == 3
            && dead.error.as_deref() == Some("the receiver answered 400 Bad Request")
    );
    takes.store(true, Ordering::Relaxed);
    let again =
        house.hooks.change(&live, move |state| super::super::again(state, &dead.id.clone(), Some(dead), now_ms()));
    again.await.unwrap();
    house.hooks.poke(&live);
    assert_eq!(receiver.next().await.id(), id);
    let state = house.until(&live, "the end of it", |state| state.waiting.is_empty()).await;
    assert!(state.dead.is_empty() && state.recent.back().is_some_and(|event| event.id == id));
    assert!(house.node.app_rows(EVENTS).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_restart_forgets_neither_what_waits_nor_how_far_a_hook_is() {
    let mut house = House::new(SLOW).await;
    let mut receiver = Receiver::answering(|n, _| match n {
        0 => StatusCode::BAD_GATEWAY.into_response(),
        _ => StatusCode::OK.into_response(),
    })
    .await;
    house.node.create_documents(house.space, [("", "a"), ("", "b")]).await.unwrap();
    let hook = Hook { owner: OWNER.into(), url: receiver.url(), ..fixture::state().hook };
    let live = house.hooks.create(house.space, hook, 0).await.unwrap();
    let (first, second) = (receiver.next().await, receiver.next().await);
    assert_ne!(first.id(), second.id());
    house.until(&live, "both to be settled", |state| state.recent.len() == 1 && state.waiting.len() == 1).await;
    house.restart(SLOW).await;
    let again = house.hooks.find(&house.space, &live.id).unwrap();
    let state = again.state.lock().await.clone();
    assert_eq!((state.waiting.len(), state.at), (1, house.node.last_change(house.space).await.unwrap()));
    house.hooks.change(&again, |state| Ok::<_, Refused>((Writes::default(), state.switch_on(now_ms())))).await.unwrap();
    house.hooks.poke(&again);
    let third = receiver.next().await;
    assert_eq!((third.id(), &third.body), (first.id(), &first.body), "the same event, and no other");
    house.until(&again, "the end of it", |state| state.waiting.is_empty()).await;
}

#[tokio::test]
async fn a_document_that_changes_while_it_waits_is_told_as_it_is_now() {
    let house = House::new(SLOW).await;
    let mut receiver = Receiver::answering(|n, _| match n {
        0 => StatusCode::BAD_GATEWAY.into_response(),
        _ => StatusCode::OK.into_response(),
    })
    .await;
    let document = house.document("a").await;
    let hook = Hook { owner: OWNER.into(), url: receiver.url(), ..fixture::state().hook };
    let live = house.hooks.create(house.space, hook, 0).await.unwrap();
    let first = receiver.next().await;
    house.until(&live, "an event that waits", |state| state.waiting.len() == 1).await;
    house.edit(&document, 2).await;
    let second = receiver.next().await;
    assert_ne!(second.id(), first.id());
    house.until(&live, "nothing that waits", |state| state.waiting.is_empty()).await;
    assert!(house.node.app_rows(EVENTS).await.unwrap().is_empty(), "the older is not told any more");
}

#[tokio::test]
async fn a_revoked_token_ends_its_hooks_and_its_return_resumes_them() {
    let house = House::new(QUICK).await;
    let mut receiver = Receiver::of_status(200).await;
    let live = house.hook(&receiver.url()).await;
    house.document("a").await;
    receiver.next().await;
    assert!(house.hooks.may(&house.space, OWNER));
    TokenFile { version: 1, tokens: Vec::new() }.write(&house.folder.path().join(FILE)).unwrap();
    let gone = async {
        while house.hooks.may(&house.space, OWNER) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(60), gone).await.unwrap();
    while receiver.got.try_recv().is_ok() {}
    let before = live.state.lock().await.at;
    house.document("b").await;
    let mut last = locked(&house.hooks.places)[&house.space].last.subscribe();
    timeout(Duration::from_secs(60), last.wait_for(|last| *last > before)).await.unwrap().unwrap();
    let told = house.hooks.told().await;
    assert!(told.behind > 0);
    assert_eq!((told.stopped, told.active), (1, 0));
    assert!(
        receiver.got.try_recv().is_err() && live.state.lock().await.at == before,
        "nothing is told, and nothing passed"
    );
    // Where there is no room, what is stopped goes first.
    let mut last = None;
    for _ in 0..SPACE_MAX {
        last = Some(house.hook(&receiver.url()).await);
    }
    assert!(house.hooks.of(&house.space).len() == SPACE_MAX && last.is_some());
}

#[tokio::test]
async fn a_space_has_so_many_hooks_and_no_more() {
    let house = House::new(QUICK).await;
    for _ in 0..SPACE_MAX {
        house.hook("http://127.0.0.1:9/").await;
    }
    let hook = Hook { owner: OWNER.into(), ..fixture::state().hook };
    assert!(matches!(house.hooks.create(house.space, hook, 0).await, Err(Refused::SpaceFull)));
    let one = house.hooks.of(&house.space).remove(0);
    house.hooks.remove(one.clone()).await.unwrap();
    assert!(matches!(house.hooks.remove(one).await, Err(Refused::Gone)));
    house.hook("http://127.0.0.1:9/").await;
    assert_eq!(house.node.app_rows(HOOKS).await.unwrap().len(), SPACE_MAX);
}

#[tokio::test]
async fn a_receiver_that_answers_410_is_told_nothing_more() {
    let house = House::new(QUICK).await;
    let mut receiver = Receiver::of_status(410).await;
    let live = house.hook(&receiver.url()).await;
    house.document("a").await;
    receiver.next().await;
    let state = house.until(&live, "the hook to be off", |state| state.hook.off.is_some()).await;
    assert_eq!((state.hook.off, state.waiting.len()), (Some(Off::Gone), 1));
    assert_eq!(house.hooks.told().await.off, 1);
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let house = House::new(SLOW).await;
    let mut elsewhere = Receiver::of_status(200).await;
    let to = elsewhere.url();
    let mut receiver =
        Receiver::answering(move |_, _| (StatusCode::TEMPORARY_REDIRECT, [("location", to.clone())]).into_response())
            .await;
    let live = house.hook(&receiver.url()).await;
    house.document("a").await;
    receiver.next().await;
    let state = house.until(&live, "a failure", |state| !state.waiting.is_empty()).await;
    let event = state.waiting.values().next().unwrap();
    assert_eq!((event.status, event.error.as_deref()), (Some(307), Some("redirects are not followed")));
    assert!(elsewhere.got.try_recv().is_err());
}

#[tokio::test]
async fn an_answer_without_end_does_not_hold_a_hook() {
    let house = House::new(SLOW).await;
    // One that never stops, and one that never goes on.
    let mut receiver = Receiver::answering(|n, _| match n % 2 {
        0 => Body::from_stream(stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b'x'; 64 << 10]))).into_response(),
        _ => Body::from_stream(stream::pending::<Result<Vec<u8>, std::io::Error>>()).into_response(),
    })
    .await;
    house.node.create_documents(house.space, [("", "a"), ("", "b"), ("", "c")]).await.unwrap();
    let hook = Hook { owner: OWNER.into(), url: receiver.url(), ..fixture::state().hook };
    let live = house.hooks.create(house.space, hook, 0).await.unwrap();
    for _ in 0..3 {
        receiver.next().await;
    }
    let state = house.until(&live, "three deliveries", |state| state.recent.len() == 3).await;
    assert!(state.waiting.is_empty() && state.failures == 0);
}

#[tokio::test]
async fn a_receiver_that_does_not_answer_delays_no_other() {
    // Longer than the test takes.
    let house = House::new(SLOW).await;
    let deaf = TcpListener::bind("127.0.0.1:0").await.unwrap();
    house.hook(&format!("http://{}/", deaf.local_addr().unwrap())).await;
    let mut receiver = Receiver::of_status(200).await;
    house.hook(&receiver.url().replace("127.0.0.1", "localhost")).await;
    house.document("a").await;
    receiver.next().await;
    let (taken, _) = deaf.accept().await.unwrap();
    assert_eq!(house.hooks.told().await.failed, 0, "it is still waited for");
    drop(taken);
    // And one that never answers is given up.
    let house = House::with(SLOW, Duration::from_millis(50), system(), &["127.0.0.0/8"]).await;
    let live = house.hook(&format!("http://{}/", deaf.local_addr().unwrap())).await;
    house.document("a").await;
    let state = house.until(&live, "a failure", |state| !state.waiting.is_empty()).await;
    assert_eq!(state.waiting.values().next().unwrap().error.as_deref(), Some("no answer within 50 ms"));
}

/// The name is public when it is looked at, and private when it is connected to: only one of the two can be.
#[tokio::test]
async fn a_name_that_leads_elsewhere_the_next_time_is_refused_then() {
    let asked = Arc::new(AtomicUsize::new(0));
    let mut receiver = Receiver::of_status(200).await;
    let (count, port) = (asked.clone(), receiver.at.port());
    let resolve: Resolve = Arc::new(move |host, _| {
        assert_eq!(host, "rebind.example");
        let address = match count.fetch_add(1, Ordering::Relaxed) {
            0 => SocketAddr::from(([127, 0, 0, 1], port)),
            _ => SocketAddr::from(([127, 0, 0, 2], port)),
        };
        Box::pin(async move { Ok(vec![address]) })
    });
    let house = House::with(SLOW, Duration::from_secs(30), resolve, &["127.0.0.1/32"]).await;
    let live = house.hook("http://rebind.example/").await;
    house.node.create_documents(house.space, [("", "a")]).await.unwrap();
    let got = receiver.next().await;
    // The connection went to what was checked, which the name said this once.
    assert_eq!((asked.load(Ordering::Relaxed), got.headers["host"].to_str().unwrap()), (1, "rebind.example"));
    house.until(&live, "a delivery", |state| state.recent.len() == 1).await;
    // Another connection, another look.
    let attempted =
        house.hooks.sender.post("http://rebind.example:1/".parse().unwrap(), HeaderMap::new(), Bytes::new()).await;
    let error = attempted.answer.unwrap_err();
    assert!(error.contains("where the name leads is no public address") && !error.contains("127.0.0.2"), "{error}");
    for url in ["http://127.0.0.2:1/", "http://[::1]:1/", "http://[::ffff:10.0.0.1]:1/"] {
        let attempted = house.hooks.sender.post(url.parse().unwrap(), HeaderMap::new(), Bytes::new()).await;
        assert!(attempted.answer.unwrap_err().contains("no public address"), "{url}");
    }
}

#[tokio::test]
async fn what_a_later_version_wrote_stays_and_what_belongs_to_no_hook_goes() {
    let mut house = House::new(SLOW).await;
    let later = Hook { version: ROW_VERSION + 1, ..fixture::state().hook };
    let row = |prefix, id, number, value| (key(prefix, &house.space, &[id; 16], number), Some(value));
    let at = || minicbor::to_vec(At { version: ROW_VERSION, number: 3 }).unwrap();
    let event = || minicbor::to_vec(fixture::event(1, 1, 1)).unwrap();
    let rows = vec![
        row(HOOKS, 1, None, minicbor::to_vec(later).unwrap()),
        row(PLACES, 1, None, at()),
        row(EVENTS, 1, Some(1), event()),
        row(PLACES, 2, None, at()),
        row(EVENTS, 2, Some(1), event()),
    ];
    house.node.put_app_rows(rows).await.unwrap();
    house.restart(SLOW).await;
    assert!(house.hooks.of(&house.space).is_empty());
    for prefix in [HOOKS, PLACES, EVENTS] {
        let left = house.node.app_rows(prefix).await.unwrap();
        assert!(left.len() == 1 && read_key(prefix, &left[0].0).unwrap().1 == [1; 16]);
    }
}

#[tokio::test]
async fn a_blocked_address_is_not_connected_to() {
    let house = House::new(QUICK).await;
    let mut receiver = Receiver::of_status(200).await;
    house.node.block("network:127.0.0.1/32".parse().unwrap()).await.unwrap();
    let attempted = house.hooks.sender.post(receiver.url().parse().unwrap(), HeaderMap::new(), Bytes::new()).await;
    let error = attempted.answer.unwrap_err();
    assert!(error.contains("127.0.0.1 is blocked"), "{error}");
    assert!(receiver.got.try_recv().is_err());
}

#[tokio::test]
async fn a_change_of_mind_holds_for_what_is_under_way() {
    let house = House::new(SLOW).await;
    let receiver = Receiver::of_status(200).await;
    house.node.create_documents(house.space, [("", "a")]).await.unwrap();
    let hook = Hook { owner: OWNER.into(), url: receiver.url(), off: Some(Off::Owner), ..fixture::state().hook };
    let live = house.hooks.create(house.space, hook, 0).await.unwrap();
    let event = fixture::event(1, 1, now_ms());
    house.hooks.deliver(&live, event, 7).await.unwrap();
    let state = live.state.lock().await.clone();
    assert_eq!((state.at, state.recent.len()), (0, 0), "what was begun before the change counts for nothing");
}

#[tokio::test]
async fn of_a_change_that_is_refused_nothing_stays() {
    let house = House::new(SLOW).await;
    let live = house.hook("http://127.0.0.1:9/").await;
    let before = live.state.lock().await.hook.clone();
    let refused = house.hooks.change(&live, |state| {
        state.hook.url = "http://127.0.0.1:10/".into();
        Err::<(Writes, ()), _>(Refused::PeerFull)
    });
    assert!(matches!(refused.await, Err(Refused::PeerFull)));
    assert_eq!(live.state.lock().await.hook, before);
}

#[tokio::test]
async fn what_may_not_be_sent_is_no_failure_of_the_receiver() {
    let house = House::new(SLOW).await;
    let live = house.hook_with("http://127.0.0.1:9/", |hook| hook.owner = "nobody".into()).await;
    let at = live.state.lock().await.at;
    let counts = house.hooks.deliver(&live, fixture::event(at + 1, 1, now_ms()), 0).await.unwrap();
    let state = live.state.lock().await.clone();
    assert!(!counts && state.waiting.is_empty() && state.hook.failing_ms.is_none());
    assert_eq!((state.at, house.hooks.told().await.failed), (at, 0));
}

#[tokio::test]
async fn a_rotated_key_and_the_one_before_both_sign() {
    let house = House::new(SLOW).await;
    let mut receiver = Receiver::of_status(200).await;
    let (new, mut old) = (Key::draw(Scheme::Ed25519).unwrap(), Key::draw(Scheme::Hmac).unwrap());
    old.until_ms = Some(now_ms() + 3_600_000);
    house.hook_with(&receiver.url(), |hook| hook.keys = vec![new, old]).await;
    house.document("a").await;
    let got = receiver.next().await;
    let both = got.headers["webhook-signature"].to_str().unwrap();
    assert!(both.starts_with("v1a,") && both.contains(" v1,"), "{both}");
}
