//! HTTP with real processes over loopback: what a page, a script and a back-end do, and what they are told where it does not work.

#![allow(clippy::unwrap_used, reason = "this is all test code")]

#[path = "../common/mod.rs"]
mod common;

mod blobs;
mod documents;
mod feeds;
mod guide;
mod problems;
mod rights;
mod site;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use common::clients::Clients;
use common::{Home, Mounted, Served, finish, until};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value as Json, json};
use site::{Ask, Event, Mirror, Site, Stream, agent};
use ureq::Agent;
use ureq::http::{Method, Request};

const MERGE: &str = "application/merge-patch+json";
const OPERATIONS: &str = "application/json-patch+json";
