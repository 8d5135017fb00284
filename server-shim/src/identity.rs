//! The identity in the keys folder. No verb of it needs the store, and its secret never leaves this process but for the screen.

use commonhold_engine::device::{IdentityError, IdentitySecret};
use serde_json::json;

use crate::args::IdentityVerb;
use crate::config::Settings;
use crate::failure::{Exit, Failure};
use crate::{print, run};

pub(crate) fn run(settings: &Settings, verb: IdentityVerb, json: bool) -> Result<(), Failure> {
    let keys = settings.keys();
    let (identity, words) = match verb {
        IdentityVerb::New => (IdentitySecret::create(&keys), true),
        IdentityVerb::Show { phrase } => {
            (IdentitySecret::load(&keys).and_then(|found| found.ok_or(IdentityError::None)), phrase)
        }
        IdentityVerb::Recover => {
            let phrase = run::text_or_stdin("-".to_owned())?;
            (IdentitySecret::recover(&keys, &phrase), false)
        }
    };
    let identity = identity.map_err(|error| failure(&error))?;
    let phrase = words.then(|| identity.phrase());
    if json {
        let mut shown = json!({ "identity": identity.id().to_string() });
        if let Some(phrase) = phrase {
            shown["phrase"] = json!(*phrase);
        }
        return print::out(&print::pretty(&shown));
    }
    print::out(&format!("{}\n", identity.id()))?;
    if let Some(phrase) = phrase {
        print::out(&format!("{}\n", *phrase))?;
        print::note(
            "write the 24 words down: they are the only way back to this identity, and whoever has them is you",
        );
    }
    Ok(())
}

fn failure(error: &IdentityError) -> Failure {
    let (exit, code, remedy) = match error {
        IdentityError::None => {
            (Exit::NotFound, "no_identity", "make one with `commonhold identity new`, or `recover` yours")
        }
        IdentityError::Exists(_) => (
            Exit::Failed,
            "identity_exists",
            "`commonhold identity show` prints it; another one needs another keys folder",
        ),
        IdentityError::Phrase(_) => (Exit::Usage, "bad_phrase", "type all 24 words, in their order"),
        _ => (Exit::Store, "keys", "see to the keys folder; `commonhold doctor` looks at it"),
    };
    Failure::new(exit, code, error.to_string(), remedy)
}
