//! Tokens for HTTP: made, listed and revoked in the data folder's file, whoever serves the store meanwhile. The token itself is shown once
//! and kept nowhere.

use std::path::Path;

use commonhold_engine::SpaceId;
use rustix::fs::{FlockOperation, flock};
use serde_json::json;

use crate::args::TokenVerb;
use crate::config::Settings;
use crate::failure::{Exit, Failure};
use crate::print;
use crate::shim::access::{self, TOKENS_MAX, TokenFile, TokenRow};

pub(crate) fn run(settings: &Settings, verb: TokenVerb, json: bool) -> Result<(), Failure> {
    let data = settings.data();
    let path = data.join(access::FILE);
    match verb {
        TokenVerb::New { name, space, all_spaces, right, days } => {
            let space = match (space, all_spaces) {
                (Some(space), false) => Some(space.parse::<SpaceId>().map_err(|_| {
                    Failure::usage(
                        "bad_space",
                        format!("{space:?} is no space"),
                        "give all 64 hex digits, as `commonhold space ls --json` prints them",
                    )
                })?),
                _ => None,
            };
            std::fs::create_dir_all(&data).map_err(|error| failed(&path, error))?;
            let token = access::random().map_err(|error| failed(&path, error))?;
            let token = format!("cht_{token}");
            let expires = days.map(|days| access::unix_now() + u64::from(days) * 86_400);
            let row = TokenRow {
                name: name.clone(),
                hash: access::hash(&token),
                space: space.map(|space| space.to_string()),
                may: right,
                expires,
            };
            change(&data, &path, |file| {
                if file.tokens.iter().any(|row| row.name == name) {
                    return Err(Failure::usage(
                        "token_exists",
                        format!("there is a token named {name:?} already"),
                        format!("take another name, or first: commonhold token revoke {name}"),
                    ));
                }
                if file.tokens.len() >= TOKENS_MAX {
                    return Err(failed(&path, format!("it holds {TOKENS_MAX} tokens, and no more are taken")));
                }
                file.tokens.push(row);
                Ok(())
            })?;
            if json {
                return print::out(&print::pretty(&json!({ "name": name, "token": token, "expires": expires })));
            }
            print::out(&format!("{token}\n"))?;
            print::note("the token is shown this once: `Authorization: Bearer TOKEN`");
            Ok(())
        }
        TokenVerb::Ls => {
            let file = TokenFile::read(&path).map_err(|why| failed(&path, why))?;
            let rows = file
                .tokens
                .iter()
                .map(|row| json!({ "name": row.name, "space": row.space, "right": row.may, "expires": row.expires }));
            if json {
                return print::out(&print::pretty(&json!({ "tokens": rows.collect::<Vec<_>>() })));
            }
            let lines = file.tokens.iter().map(|row| {
                let may = if row.may == access::May::Write { "write" } else { "read" };
                let space = row.space.as_deref().map_or("all spaces", print::short);
                let until = match row.expires {
                    Some(expires) if expires <= access::unix_now() => "expired".to_owned(),
                    Some(expires) => format!("{} days left", (expires - access::unix_now()).div_ceil(86_400)),
                    None => "until revoked".to_owned(),
                };
                vec![row.name.clone(), space.to_owned(), may.to_owned(), until]
            });
            print::out(&print::table(&["NAME", "SPACE", "RIGHT", "VALID"], lines, "no tokens"))
        }
        TokenVerb::Revoke { name } => {
            change(&data, &path, |file| {
                let before = file.tokens.len();
                file.tokens.retain(|row| row.name != name);
                if file.tokens.len() == before {
                    return Err(Failure::not_found(
                        "no_token",
                        format!("there is no token named {name:?}"),
                        "commonhold token ls",
                    ));
                }
                Ok(())
            })?;
            if json { print::out(&print::pretty(&json!({ "revoked": name }))) } else { Ok(()) }
        }
    }
}

/// Two commands at once do not lose each other's token.
fn change(data: &Path, path: &Path, f: impl FnOnce(&mut TokenFile) -> Result<(), Failure>) -> Result<(), Failure> {
    let lock = std::fs::File::open(data).map_err(|error| failed(path, error))?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|error| failed(path, error))?;
    let mut file = TokenFile::read(path).map_err(|why| failed(path, why))?;
    f(&mut file)?;
    file.write(path).map_err(|error| failed(path, error))
}

fn failed(path: &Path, why: impl std::fmt::Display) -> Failure {
    Failure::new(
        Exit::Failed,
        "tokens",
        format!("the tokens in {}: {why}", path.display()),
        "check the folder's permissions and the file; without the file there are no tokens",
    )
}
