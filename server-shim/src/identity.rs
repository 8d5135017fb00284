//! The identity in the keys folder. Its secrets never leave this process but for the screen; what its root keys have to tell
//! the spaces, the process that owns the store reads from the folder.

use commonhold_engine::device::{IdentityError, IdentitySecret, RecoveryPhrase};
use serde_json::json;

use crate::args::IdentityVerb;
use crate::config::Settings;
use crate::failure::{Exit, Failure};
use crate::reach::{Dial, Reach};
use crate::request::{Reply, Request};
use crate::{operate, print, run};

pub(crate) async fn run(settings: &Settings, verb: IdentityVerb, json: bool) -> Result<(), Failure> {
    let keys = settings.keys();
    match verb {
        IdentityVerb::New => {
            let (identity, phrase) =
                IdentitySecret::create(&keys).map_err(|error| operate::identity_failure(&error))?;
            let (id, words) = (identity.id().to_string(), phrase.words());
            if json {
                return print::out(&print::pretty(&json!({ "identity": id, "phrase": *words })));
            }
            print::out(&format!("{id}\n{}\n", *words))?;
            print::note(
                "write the 24 words down: they are not kept here. They are the only way back to this identity, and whoever has them is you",
            );
            Ok(())
        }
        IdentityVerb::Show => {
            let identity = IdentitySecret::load(&keys).and_then(|found| found.ok_or(IdentityError::None));
            show(&identity.map_err(|error| operate::identity_failure(&error))?, json)
        }
        IdentityVerb::Recover => {
            let phrase = typed_phrase()?;
            let known = with_store(settings, root_keys(&phrase)).await?.map_or(1, count);
            let identity = IdentitySecret::recover(&keys, &phrase, known);
            show(&identity.map_err(|error| operate::identity_failure(&error))?, json)
        }
        IdentityVerb::Rotate => {
            let phrase = typed_phrase()?;
            let known = with_store(settings, root_keys(&phrase)).await?.map_or(0, count);
            let rotated = IdentitySecret::rotate(&keys, &phrase, known);
            let identity = rotated.map_err(|error| operate::identity_failure(&error))?;
            let told = with_store(settings, Request::TellRootKeys).await.map_err(|mut failure| {
                failure.what =
                    format!("the new root key is in the keys folder, but the spaces were not told: {}", failure.what);
                failure.remedy = "start `commonhold serve`: it tells them".into();
                failure
            })?;
            match told {
                Some(reply) => print::reply(&reply, json),
                None => {
                    print::note(
                        "there is no space here that could learn of the new root key: join one, and add a device there",
                    );
                    show(&identity, json)
                }
            }
        }
    }
}

fn typed_phrase() -> Result<RecoveryPhrase, Failure> {
    let typed = zeroize::Zeroizing::new(run::text_or_stdin("-".to_owned())?);
    RecoveryPhrase::parse(&typed).map_err(|error| operate::identity_failure(&error))
}

fn root_keys(phrase: &RecoveryPhrase) -> Request {
    Request::RootKeys { identity: phrase.id().to_string() }
}

fn count(reply: Reply) -> usize {
    match reply {
        Reply::RootKeys(known) => known.root_keys,
        _ => 0,
    }
}

/// Asks whoever has the store; nothing if there is none yet.
async fn with_store(settings: &Settings, request: Request) -> Result<Option<Reply>, Failure> {
    let mut reach = match Reach::find(settings, Dial::No, false).await {
        Err(failure) if failure.exit == Exit::NotFound => return Ok(None),
        reach => reach?,
    };
    let asked = reach.ask(request).await;
    let closed = reach.close().await;
    asked.and_then(|reply| closed.map(|()| Some(reply)))
}

fn show(identity: &IdentitySecret, json: bool) -> Result<(), Failure> {
    match json {
        true => {
            let shown = json!({ "identity": identity.id().to_string(), "root_keys": identity.root_keys() });
            print::out(&print::pretty(&shown))
        }
        false => print::out(&format!("{}\n", identity.id())),
    }
}
