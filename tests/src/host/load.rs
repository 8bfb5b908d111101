//! Requests, one after the other and several at a time, while something happens to the host.

use std::process::Child;

use super::Host;

const CLIENT: &str = include_str!("load.py");

/// Goes on until it is ended.
#[derive(Debug)]
pub struct Load {
    client: Child,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    pub answered: u64,
    /// The first few requests that failed, in words.
    pub failures: Vec<String>,
}

impl Load {
    /// GETs `url` as the host reaches it: on new connections and on kept ones. Returns when the first are answered.
    pub fn start(host: &Host, url: &str) -> Self {
        host.put("/var/tmp/load.py", CLIENT);
        host.put("/var/tmp/load.answered", "");
        let client = host.start(&["python3", "/var/tmp/load.py", url]);
        host.until("requests are answered", "[ -s /var/tmp/load.answered ]");
        Self { client }
    }

    pub fn end(mut self) -> Outcome {
        drop(self.client.stdin.take());
        let output = self.client.wait_with_output().unwrap();
        let said: serde_json::Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
        let failures = said["failures"].as_array().expect("the client tells them");
        Outcome {
            answered: said["answered"].as_u64().expect("the client counts them"),
            failures: failures.iter().map(ToString::to_string).collect(),
        }
    }
}
