//! A browser as a person would use it: Chromium, driven by chromedriver over WebDriver (W3C).

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::{Http, wait_until};

/// Longest wait for something to be on a page.
const SHOWN_MAX: Duration = Duration::from_secs(60);
/// Where Debian puts it; elsewhere the driver looks for it.
const CHROMIUM: &str = "/usr/bin/chromium";
/// It is to ask nobody but the host, and needs neither a screen nor, as root, its sandbox.
const ARGUMENTS: &[&str] = &[
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,1000",
];
/// The last one: a dialog comes after the page it asks about.
const FIND_BUTTON: &str = "return [...document.querySelectorAll('button, a')]
    .filter((one) => one.textContent === arguments[0]).at(-1) ?? null";
const FILL: &str =
    "const field = [...document.querySelectorAll(`[name='${arguments[0]}']`)].at(-1);
    field.value = arguments[1]; return true";

/// A browser with one tab. Ended when dropped.
pub(crate) struct Browser {
    driver: Child,
    http: Http,
    session: String,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Starts one; none, with a line that says so, where there is no chromedriver.
    pub(crate) fn start() -> Option<Self> {
        let driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let Ok(mut driver) = driver else {
            println!("left out, for chromedriver is missing: apt-get install chromium-driver");
            return None;
        };
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = lines.find_map(|line| {
            let line = line.unwrap();
            let port = line.strip_prefix("ChromeDriver was started successfully on port ")?;
            Some(port.trim_end_matches('.').to_owned())
        });
        let http = Http::new(&format!("http://127.0.0.1:{}", port.expect("it says where")));
        let profile = tempfile::tempdir().unwrap();
        let mut arguments: Vec<String> = ARGUMENTS.iter().map(|&one| one.into()).collect();
        arguments.push(format!("--user-data-dir={}", profile.path().display()));
        let mut chrome = json!({ "args": arguments });
        if Path::new(CHROMIUM).exists() {
            chrome["binary"] = CHROMIUM.into();
        }
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "goog:loggingPrefs": { "browser": "ALL" }, "goog:chromeOptions": chrome,
        }}});
        let mut browser = Self { driver, http, session: String::new(), _profile: profile };
        let session = browser.ask("", &wanted)["sessionId"].as_str().map(str::to_owned);
        browser.session = format!("/{}", session.expect("a session has an id"));
        Some(browser)
    }

    fn ask(&self, what: &str, with: &Value) -> Value {
        let path = format!("/session{}{what}", self.session);
        let body = serde_json::to_vec(with).unwrap();
        let mut answer = self.http.post(&path, "application/json", &body).expect_ok();
        answer["value"].take()
    }

    /// Opens an address.
    pub(crate) fn open(&self, url: &str) {
        self.ask("/url", &json!({ "url": url }));
    }

    /// What a function with this body returns on the page; a promise is waited for.
    pub(crate) fn run(&self, body: &str, arguments: &[&str]) -> Value {
        self.ask("/execute/sync", &json!({ "script": body, "args": arguments }))
    }

    /// The text that is seen on the page.
    pub(crate) fn text(&self) -> String {
        self.run("return document.body.innerText", &[]).as_str().unwrap_or_default().to_owned()
    }

    /// Waits until these words are seen.
    pub(crate) fn wait_text(&self, words: &str) {
        wait_until(&format!("`{words}` on the page"), SHOWN_MAX, || {
            let text = self.text();
            if text.contains(words) { Ok(()) } else { Err(text) }
        });
    }

    /// Clicks the last button or link with exactly this text, once it is there.
    pub(crate) fn click(&self, label: &str) {
        let found = wait_until(&format!("a button `{label}`"), SHOWN_MAX, || {
            let found = self.run(FIND_BUTTON, &[label]);
            found.as_object().and_then(|element| element.values().next().cloned()).ok_or(found)
        });
        let id = found.as_str().expect("an element is named by a text");
        self.ask(&format!("/element/{id}/click"), &json!({}));
    }

    /// Writes into the last field of this name.
    pub(crate) fn fill(&self, name: &str, text: &str) {
        self.run(FILL, &[name, text]);
    }

    /// What went wrong on the page since this was asked last: exceptions, what its policy forbade, and
    /// requests that failed.
    pub(crate) fn errors(&self) -> Vec<String> {
        let entries = self.ask("/se/log", &json!({ "type": "browser" }));
        let entries = entries.as_array().expect("a list").iter();
        let severe = entries.filter(|entry| entry["level"] == "SEVERE");
        severe.map(|entry| entry["message"].as_str().unwrap_or_default().to_owned()).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It ends the browser, too; killed, it would leave it behind.
        let _ = self.http.send("DELETE", &format!("/session{}", self.session), &[], &[]);
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
