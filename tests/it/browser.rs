//! Chromium without a window, driven over pipes: what it says of a page, and what it asks the network for.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, killpg};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A running browser with one page; it ends with this value.
pub(crate) struct Browser {
    child: Child,
    to: File,
    from: BufReader<File>,
    session: String,
    next: u64,
    /// Errors and warnings of the page, and every address that was asked for, in order.
    pub(crate) complaints: Vec<String>,
    pub(crate) requests: Vec<String>,
    _directory: TempDir,
}

impl Browser {
    /// With a window of this size.
    pub(crate) fn open(width: u32, height: u32) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (to, from) = (directory.path().join("to"), directory.path().join("from"));
        mkfifo(&to, Mode::S_IRWXU).unwrap();
        mkfifo(&from, Mode::S_IRWXU).unwrap();
        // The browser talks over the descriptors 3 and 4.
        let script = "exec chromium \"$@\" 3<\"$VPTEST_TO\" 4>\"$VPTEST_FROM\"";
        let child = Command::new("sh")
            .args(["-c", script, "sh", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"])
            .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
            .args(["--disable-dev-shm-usage", "--remote-debugging-pipe"])
            .arg(format!("--window-size={width},{height}"))
            .arg(format!("--user-data-dir={}", directory.path().join("profile").display()))
            .arg("about:blank")
            .env("VPTEST_TO", &to)
            .env("VPTEST_FROM", &from)
            .env("HOME", directory.path())
            // Where it leaves its lock when it is killed.
            .env("TMPDIR", directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        let to = File::options().write(true).open(to).unwrap();
        let from = BufReader::new(File::open(from).unwrap());
        let mut browser = Self {
            child,
            to,
            from,
            session: String::new(),
            next: 0,
            complaints: Vec::new(),
            requests: Vec::new(),
            _directory: directory,
        };
        let target = browser.call("Target.createTarget", &json!({ "url": "about:blank" }));
        let attached =
            browser.call("Target.attachToTarget", &json!({ "targetId": target["targetId"], "flatten": true }));
        browser.session = attached["sessionId"].as_str().unwrap().to_owned();
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), &json!({}));
        }
        browser
    }

    /// Shows a file, and waits until its script has drawn everything.
    pub(crate) fn show(&mut self, file: &Path) {
        self.call("Page.navigate", &json!({ "url": format!("file://{}", file.display()) }));
        let ready = "new Promise((done) => { const look = () => document.documentElement?.dataset.ready === 'all' ? done(true) : \
                     setTimeout(look, 10); look(); })";
        // The first page may still be there when the question is asked, and take the answer with it.
        while self.evaluate(ready) != json!(true) {}
    }

    /// The value of an expression in the page, a promise's when it is there; null when the page went away meanwhile.
    pub(crate) fn evaluate(&mut self, expression: &str) -> Value {
        let asked = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let answer = self.call("Runtime.evaluate", &asked);
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    pub(crate) fn call(&mut self, method: &str, parameters: &Value) -> Value {
        self.next += 1;
        let mut message = json!({ "id": self.next, "method": method, "params": parameters });
        if !self.session.is_empty() {
            message["sessionId"] = json!(self.session);
        }
        self.to.write_all(format!("{message}\0").as_bytes()).unwrap();
        loop {
            let answer = self.read();
            if answer["id"] == json!(self.next) {
                let gone =
                    answer["error"]["message"].as_str().is_some_and(|text| text.contains("context was destroyed"));
                assert!(answer["error"].is_null() || gone, "{method}: {answer}");
                return answer["result"].clone();
            }
            self.note(&answer);
        }
    }

    fn read(&mut self) -> Value {
        let mut bytes = Vec::new();
        self.from.read_until(0, &mut bytes).unwrap();
        assert_eq!(bytes.pop(), Some(0), "the browser went away");
        serde_json::from_slice(&bytes).unwrap()
    }

    fn note(&mut self, event: &Value) {
        let (method, what) = (event["method"].as_str().unwrap_or_default(), &event["params"]);
        match method {
            "Runtime.exceptionThrown" | "Runtime.consoleAPICalled" | "Log.entryAdded" => {
                self.complaints.push(what.to_string())
            }
            "Network.requestWillBeSent" => {
                self.requests.push(what["request"]["url"].as_str().unwrap_or_default().to_owned());
            }
            _ => {}
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let group = Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        // It may have ended by itself.
        let _ = killpg(group, Signal::SIGKILL);
        let _ = self.child.wait();
    }
}
