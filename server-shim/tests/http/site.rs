//! A peer that serves HTTP, and how it is asked.

use super::*;

/// A peer that serves HTTP, and a space of it.
pub(super) struct Site {
    pub(super) home: Home,
    pub(super) served: Served,
    pub(super) space: String,
}

impl Site {
    /// With one space, in which everybody may do this over HTTP.
    pub(super) fn new(open: &str) -> Site {
        Site::with(open, &[])
    }

    pub(super) fn with(open: &str, settings: &[(&str, &str)]) -> Site {
        let home = Home::new();
        let space = home.run(&["space", "new", "--writers", "anyone"]).text().to_owned();
        Site::served(home, space, open, settings)
    }

    pub(super) fn of(home: Home, space: String, open: &str) -> Site {
        Site::served(home, space, open, &[])
    }

    pub(super) fn served(home: Home, space: String, open: &str, settings: &[(&str, &str)]) -> Site {
        let mut command = home.command();
        command
            .envs(settings.iter().copied())
            .arg("serve")
            .env("COMMONHOLD_HTTP_LISTEN", "127.0.0.1:0")
            .env("COMMONHOLD_HTTP_OPEN", open);
        let served = home.serve_as(command);
        Site { home, served, space }
    }

    /// Another peer that holds the same space.
    pub(super) fn joined(&self, open: &str) -> Site {
        let home = Home::new();
        home.run(&["join", self.served.invite()]).text();
        Site::of(home, self.space.clone(), open)
    }

    pub(super) fn host(&self) -> String {
        format!("http://{}", self.served.facts["http"][0].as_str().unwrap())
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("{}/v1/spaces/{}{path}", self.host(), self.space)
    }

    /// A document with this content; its path.
    pub(super) fn document(&self, content: Json) -> String {
        let created = Ask::new("POST", self.url("/docs")).json(&json!({ "content": content })).send();
        assert_eq!(created.status, 201, "{}", created.text);
        let location = created.header("location").to_owned();
        location.strip_prefix(&format!("/v1/spaces/{}", self.space)).unwrap().to_owned()
    }

    /// The folders of a peer that serves no more, and the space.
    pub(super) fn stopped(self) -> (Home, String) {
        let Site { home, served, space } = self;
        served.stop();
        (home, space)
    }

    pub(super) fn patch(&self, path: &str, kind: &str, patch: &Json) -> Answer {
        Ask::new("PATCH", self.url(path)).body(kind, patch.to_string()).send()
    }

    /// A stream of lines.
    pub(super) fn lines(&self, path: &str) -> impl Iterator<Item = Json> + use<> {
        let answer = agent().get(self.url(path)).call().unwrap();
        assert_eq!(answer.headers()["content-type"], "application/x-ndjson");
        let lines = BufReader::new(answer.into_body().into_reader()).lines().map(Result::unwrap);
        lines.filter(|line| !line.is_empty()).map(|line| serde_json::from_str(&line).unwrap())
    }

    pub(super) fn get(&self, path: &str) -> Answer {
        Ask::new("GET", self.url(path)).send()
    }
}

pub(super) struct Ask {
    pub(super) method: &'static str,
    pub(super) url: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: ureq::http::HeaderMap,
    pub(super) text: String,
}

pub(super) fn agent() -> Agent {
    Agent::config_builder().http_status_as_error(false).max_idle_connections(0).build().into()
}

impl Ask {
    pub(super) fn new(method: &'static str, url: String) -> Ask {
        Ask { method, url, headers: Vec::new(), body: Vec::new() }
    }

    pub(super) fn header(mut self, name: &str, value: impl Into<String>) -> Ask {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(super) fn body(mut self, kind: &str, body: impl Into<Vec<u8>>) -> Ask {
        self.body = body.into();
        self.header("content-type", kind)
    }

    pub(super) fn json(self, body: &Json) -> Ask {
        self.body("application/json", body.to_string())
    }

    pub(super) fn send(self) -> Answer {
        self.send_by(&agent())
    }

    /// The status, without waiting for a body that may never end.
    pub(super) fn status(self) -> u16 {
        let method = self.method.parse::<Method>().unwrap();
        let request = Request::builder().method(method).uri(&self.url).body(self.body).unwrap();
        agent().run(request).unwrap().status().as_u16()
    }

    pub(super) fn send_by(self, agent: &Agent) -> Answer {
        let mut request = Request::builder().method(self.method.parse::<Method>().unwrap()).uri(&self.url);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let mut answer = agent.run(request.body(self.body).unwrap()).unwrap();
        let text = String::from_utf8_lossy(&answer.body_mut().read_to_vec().unwrap()).into_owned();
        Answer { status: answer.status().as_u16(), headers: answer.headers().clone(), text }
    }
}

impl Answer {
    #[track_caller]
    pub(super) fn json(&self) -> Json {
        assert!(self.status < 300, "{} {}", self.status, self.text);
        serde_json::from_str(&self.text).unwrap()
    }

    #[track_caller]
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name}: {:?}", self.headers)).to_str().unwrap()
    }

    /// A problem of this kind.
    #[track_caller]
    pub(super) fn is(&self, status: u16, kind: &str) {
        assert_eq!(self.status, status, "{}", self.text);
        let problem: Json = serde_json::from_str(&self.text).unwrap();
        assert_eq!(problem["type"], format!("urn:commonhold:problem:{kind}"), "{problem}");
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!(problem["status"], status);
        assert!(problem["detail"].as_str().unwrap().len() > 10 && problem["trace_id"].as_str().unwrap().len() == 16);
    }
}

/// A stream of events.
pub(super) struct Stream(pub(super) Box<dyn BufRead + Send>);

/// One event.
pub(super) struct Event {
    pub(super) name: String,
    pub(super) id: String,
    pub(super) data: Json,
}

impl Stream {
    pub(super) fn open(url: &str, last: Option<&str>) -> Stream {
        let mut request = agent().get(url);
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let answer = request.call().unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        assert_eq!(answer.headers()["x-accel-buffering"], "no");
        Stream(Box::new(BufReader::new(answer.into_body().into_reader())))
    }

    /// The next event; none when the stream has ended or broken.
    pub(super) fn next(&mut self) -> Option<Event> {
        let mut event = Event { name: String::new(), id: String::new(), data: Json::Null };
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).ok()? == 0 {
                return None;
            }
            match line.trim_end().split_once(": ") {
                Some(("event", name)) => event.name = name.to_owned(),
                Some(("id", id)) => event.id = id.to_owned(),
                Some(("data", data)) => event.data = serde_json::from_str(data).unwrap(),
                None if line.trim().is_empty() && !(event.name.is_empty() && event.id.is_empty()) => {
                    return Some(event);
                }
                _ => {}
            }
        }
    }
}

/// A document that is kept by events alone.
pub(super) struct Mirror {
    pub(super) document: Json,
    pub(super) last: String,
    /// Versions, each once.
    pub(super) seen: Vec<String>,
}

impl Mirror {
    pub(super) fn take(&mut self, event: &Event) {
        match event.name.as_str() {
            "snapshot" => self.document = event.data["document"].clone(),
            "patch" => {
                assert_eq!(event.data["parents"], self.last, "nothing is missing");
                let patch: json_patch::Patch = serde_json::from_value(event.data["patch"].clone()).unwrap();
                json_patch::patch(&mut self.document, &patch).unwrap();
            }
            other => panic!("{other}: {}", event.data),
        }
        assert!(!self.seen.contains(&event.id), "twice");
        self.seen.push(event.id.clone());
        self.last = event.id.clone();
    }
}
